"""What replicates say of their configuration together, by hand-worked means."""

import pytest
from sweeping import result

from tune_newllm import records
from tune_newllm.sweep.history import History


def created(number, replicate=0):
    name = f"t{number:04d}-{replicate}"
    row = {"trial_id": name, "config_id": f"c{number}", "number": number, "replicate": replicate, "seed": replicate}
    return records.TrialCreated(time=0, origin="random", parameters={"training.lr": number + 1.0}, **row)


def epoch(trial, number, loss):
    return records.EpochRecord(time=0, trial_id=trial, **result(number, loss))


def ended(trial, state):
    return records.TrialEnded(time=0, trial_id=trial, state=state, epoch=1)


def pair(first, second):
    """A suggestion with two replicates that ended so, with values 1 and 4."""
    history = History([created(0), created(0, 1), epoch("t0000-0", 1, 1.0), epoch("t0000-1", 1, 4.0)], seeds=2)
    history.add(ended("t0000-0", first))
    history.add(ended("t0000-1", second))
    return history.suggestions[0]


@pytest.mark.parametrize(
    ("first", "second", "state", "value"),
    [
        ("completed", "completed", "completed", 2.5),
        ("completed", "stopped", "stopped", 1.0),
        ("completed", "diverged", "diverged", 1.0),
        ("stopped", "infeasible", "infeasible", 2.5),
        ("completed", "crashed", "completed", 1.0),
        ("failed", "crashed", "crashed", 2.5),
    ],
)
def test_replicates_speak_for_their_configuration(first, second, state, value):
    assert (pair(first, second).state, pair(first, second).value) == (state, value)
    assert pair(second, first).state == state


def test_a_level_waits_for_every_replicate_that_may_still_reach_it():
    started = records.TrialStarted(time=0, trial_id="t0000-0")
    history = History([created(0), started, epoch("t0000-0", 1, 4.0)], seeds=2)
    suggestion = history.suggestions[0]
    assert (suggestion.id, suggestion.state, suggestion.level(1)) == ("t0000", "running", None)
    history.add(created(0, 1))
    assert suggestion.level(1) is None
    history.add(epoch("t0000-1", 1, 2.0))
    assert suggestion.level(1) == 3.0
    history.add(epoch("t0000-0", 2, 1.0))
    assert suggestion.level(2) is None
    history.add(ended("t0000-1", "stopped"))
    assert [suggestion.level(number) for number in (1, 2, 3)] == [3.0, 1.0, None]
    assert suggestion.state == "running"


def test_the_best_configuration_has_the_lowest_mean_of_its_seeds():
    history = History(seeds=2)
    losses = {"t0000-0": 1.0, "t0000-1": 5.0, "t0001-0": 2.0, "t0001-1": 3.0, "t0002-0": 0.1, "t0002-1": 0.1}
    for number in range(3):
        history.add(created(number))
        history.add(created(number, 1))
    for name, loss in losses.items():
        history.add(epoch(name, 1, loss))
        history.add(ended(name, "stopped" if name == "t0002-0" else "completed"))
    assert (history.best().id, history.best().value) == ("t0001", 2.5)
    assert history.count("completed") == 5


def test_lost_workers_are_counted_since_the_last_new_epoch():
    history = History([created(0)])
    trial = history.trials["t0000-0"]
    counts = []
    lost = records.TrialCrashed(time=0, trial_id="t0000-0", epoch=0, attempt=1)
    for record in (lost, lost, epoch("t0000-0", 1, 2.0), lost):
        history.add(record)
        counts.append(trial.crashes)
    assert counts == [1, 2, 0, 1]
    assert (trial.state, history.unfinished()) == ("waiting", [trial])


def test_what_is_known_of_a_trial_whose_creation_is_lost_is_left_out_and_its_number_stays_taken():
    rest = [records.TrialStarted(time=0, trial_id="t0001-0"), epoch("t0001-0", 1, 2.0), ended("t0001-0", "completed")]
    lost = records.TrialCrashed(time=0, trial_id="t0001-0", epoch=0, attempt=1)
    # Of t0001-0, t0002-1 and t0003-1 the first line is missing; of t0002-1 nothing else is there.
    rows = [created(0), created(0, 1), *rest, lost, created(1, 1), created(2)]
    rows += [created(3), records.TrialStarted(time=0, trial_id="t0003-1"), ended("t0003-1", "diverged")]
    history = History([*rows, ended("t0002-0", "stopped"), ended("t0003-0", "completed")], seeds=2)
    assert history.lost == {"t0001-0", "t0003-1"}
    assert [suggestion.id for suggestion in history.suggestions.values()] == ["t0000", "t0001", "t0002", "t0003"]
    assert [suggestion.made for suggestion in history.suggestions.values()] == [2, 2, 2, 2]
    assert [suggestion.state for suggestion in history.suggestions.values()] == [
        "waiting", "waiting", "stopped", "completed",
    ]  # fmt: skip
    assert (history.epochs, len(history.work)) == ([], 1)
    assert history.next_number == 4
    history.add(records.TrialStarted(time=0, trial_id="t0007-0"))
    assert (history.next_number, 7 in history.suggestions) == (8, False)


def at(time, elapsed=None, kind=records.TrialStarted, **more):
    if kind is records.TrialStarted:
        more = {"trial_id": "t0000-0"}
    return kind(time=time, elapsed=elapsed, **more)


START = {"kind": records.SweepStarted, "command": []}
END = {"kind": records.SweepEnded, "reason": "budget"}
EXTENDED = {"kind": records.SweepExtended, "run_cap": 9, "epochs": 2}


@pytest.mark.parametrize(
    ("rows", "worked"),
    [
        ([at(10, **START), at(15.5), at(100, **START), at(102, **END)], [5.5, 2]),
        # The driver's own clock goes before the one that somebody sets, in both directions.
        ([at(1000, 0, **START), at(90000, 5), at(3, 7.5), at(100, 0, **START), at(102, 2, **END)], [7.5, 2]),
        # Without it, a clock set back takes one gap away.
        ([at(1000, **START), at(1004), at(50), at(53, **END)], [7]),
        # Nobody works between two drivers, whatever is written there.
        ([at(10, **START), at(12), at(500, **EXTENDED), at(510, **START), at(511)], [2, 1]),
        (
            [at(10, **START), at(500, kind=records.CodeForced, changed=[], code={}), at(510, 0, **START), at(511, 1)],
            [0, 1],
        ),
        # The second driver's first line is damaged: its clock has begun anew, or the one before had ended.
        ([at(10, 0, **START), at(40, 30), at(500, 3), at(510, 13)], [30, 13]),
        ([at(10, **START), at(40, **END), at(500), at(510)], [30, 10]),
        ([at(500, 3), at(510, 13)], [13]),
    ],
)
def test_working_time_is_that_of_every_driver_to_its_last_record(rows, worked):
    assert [session.worked for session in History(rows).sessions] == worked
