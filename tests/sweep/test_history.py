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


def test_working_time_is_that_of_every_driver_to_its_last_record():
    rows = [records.SweepStarted(time=10, command=[]), created(0).model_copy(update={"time": 15.5})]
    rows += [records.SweepStarted(time=100, command=[], resumed=True), records.SweepEnded(time=102, reason="budget")]
    assert History(rows).sessions == [(10, 15.5), (100, 102)]
