"""Extensions: who goes on, what is refused, what the study and a later driver make of it."""

import logging

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sweeping import result, told

from tune_newllm import records
from tune_newllm.cli.main import commands
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import UsageError
from tune_newllm.sweep import engine
from tune_newllm.sweep.driver import Driver
from tune_newllm.sweep.extension import apply, extension
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml

TEXT = """\
training: {epochs: 1}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}
  training.batch_size: {values: [8, 16]}
early_terminate: {min_iter: 1, eta: 3, within: training.batch_size}
run_cap: 8
resources: {cpus_per_trial: 1, gpus_per_trial: 0}
"""
# Batch 8: t0000, t0002, t0004, t0006; batch 16: t0001, t0003, t0005.
LOSSES = [3.0, 9.0, 1.0, 8.0, 2.0, 7.0, 4.0]


def read(text):
    return parse_spec(parse_yaml(text, "test.yaml"))


def past(losses=LOSSES):
    rows = []
    for number, loss in enumerate(losses):
        values = {"training.lr": 0.01, "training.batch_size": 16 if number % 2 else 8}
        rows += told(number, f"c{number}", values, "random", loss)
    return rows


@pytest.mark.parametrize(
    ("rule", "best", "continued"),
    [
        # One in three, rounded up: two of the four of batch 8, one of the three of batch 16.
        ("eta: 3, within: training.batch_size", None, [2, 4, 5]),
        # Three of seven.
        ("eta: 3", None, [0, 2, 4]),
        ("eta: 3, within: training.batch_size", 1, [2]),
        ("eta: 3", 100, [0, 1, 2, 3, 4, 5, 6]),
        (None, None, [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_the_best_of_those_that_are_compared_go_on(rule, best, continued):
    rules = f"early_terminate: {{min_iter: 1, {rule}}}" if rule else ""
    spec = read(TEXT.replace("early_terminate: {min_iter: 1, eta: 3, within: training.batch_size}", rules))
    row = extension(spec, History(past()), epochs=4, best=best)
    assert row.continued == [f"t{number:04d}" for number in continued]
    assert (row.run_cap, row.epochs, row.epochs_before) == (8, 4, 1)
    assert apply(spec, row).training.epochs == 4


def test_only_those_that_trained_all_their_epochs_are_asked_about():
    ends = {"t0002": {"state": "stopped", "reason": "asha"}, "t0004": {"reason": "patience"}}
    rows = [row.model_copy(update=ends.get(row.trial_id, {}) if row.event == "trial_ended" else {}) for row in past()]
    # t0000 is unfinished: it goes on without being asked about.
    rows = [row for row in rows if (row.trial_id, row.event) != ("t0000", "trial_ended")]
    history = History(rows)
    row = extension(read(TEXT), history, epochs=2)
    # Of batch 8 only t0006 is left, of batch 16 the best of three.
    assert row.continued == ["t0005", "t0006"]
    history.add(row)
    assert {trial.id: (trial.state, trial.continued, trial.ended and trial.ended.reason)
            for trial in history.trials.values()} == {
        "t0000": ("waiting", 0, None),
        "t0001": ("stopped", 0, "extension"),
        "t0002": ("stopped", 0, "asha"),
        "t0003": ("stopped", 0, "extension"),
        "t0004": ("completed", 0, "patience"),
        "t0005": ("waiting", 1, None),
        "t0006": ("waiting", 1, None),
    }  # fmt: skip
    assert [trial.id for trial in history.unfinished()] == ["t0000", "t0005", "t0006"]
    # A second one before anything was trained asks about nobody, and nobody is lost by it.
    again = extension(apply(read(TEXT), row), history, epochs=4)
    assert again.continued == []
    history.add(again)
    assert [trial.id for trial in history.unfinished()] == ["t0000", "t0005", "t0006"]
    assert history.trials["t0004"].state == "completed"


def test_the_mean_of_the_seeds_decides_and_they_go_on_together():
    rows = []
    # Means 3 and 2.5; the third configuration has a replicate yet to end.
    for name, loss in {"t0000-0": 1.0, "t0000-1": 5.0, "t0001-0": 2.0, "t0001-1": 3.0, "t0002-0": 9.0}.items():
        created, epoch, ended = told(int(name[1:5]), name[:5], {"training.lr": 0.01}, "random", loss)
        replicate = {"trial_id": name, "replicate": int(name[-1])}
        rows += [row.model_copy(update=replicate) for row in (created, epoch, ended)]
    history = History(rows, seeds=2)
    row = extension(read(TEXT.replace(", within: training.batch_size", "") + "seeds: 2\n"), history, epochs=2)
    assert row.continued == ["t0001-0", "t0001-1", "t0002-0"]
    history.add(row)
    assert [suggestion.state for suggestion in history.suggestions.values()] == ["stopped", "waiting", "waiting"]


@pytest.mark.parametrize(
    ("text", "asked", "words"),
    [
        (TEXT, {}, "give --trials, --epochs or both"),
        (TEXT, {"trials": "+1", "best": 2}, "give --epochs too"),
        (TEXT, {"trials": "many"}, "got 'many'"),
        (TEXT, {"trials": "8"}, "above the present 8 configurations, got 8"),
        (TEXT, {"trials": "+0"}, "above the present 8 configurations"),
        (TEXT.replace("run_cap: 8", ""), {"trials": "+1"}, "this sweep has none"),
        (TEXT, {"epochs": 1}, "above the present 1 epochs"),
        (
            TEXT.replace("{distribution: log_uniform_values, min: 1e-4, max: 1e-1}", "{values: [1, 2, 3, 4]}"),
            {"trials": "+1"},
            "whole search space of 8",
        ),
    ],
)
def test_what_gives_a_sweep_nothing_is_refused_in_one_line(text, asked, words):
    with pytest.raises(UsageError, match=words) as refused:
        extension(read(text), History(past()), **asked)
    assert "\n" not in str(refused.value)


def test_epochs_that_nobody_would_train_are_refused():
    rows = [row.model_copy(update={"state": "diverged"}) if row.event == "trial_ended" else row for row in past([1.0])]
    spec = read(TEXT.replace("run_cap: 8", "run_cap: 1"))
    with pytest.raises(UsageError, match="give --trials too"):
        extension(spec, History(rows), epochs=2)
    assert extension(spec, History(rows), trials="2", epochs=2).run_cap == 2


@pytest.mark.parametrize(
    ("training", "warned"),
    [
        ("lr_schedule: cosine", ["lr_schedule"]),
        ("lr_schedule: {name: constant, warmup: 0.1}", ["lr_schedule"]),
        ("lr_schedule: {name: linear, by: epoch, length: 4}", []),
        ("lr_schedule: {name: linear, by: epoch}", ["lr_schedule"]),
        ("lr_schedule: {name: step, by: epoch, every: 2}", []),
        ("clip: {schedule: linear}", ["clip"]),
        ("clip: {schedule: linear, until: 3}", []),
        ("clip: original", []),
    ],
)
def test_a_course_laid_out_over_the_run_is_warned_of(training, warned, caplog):
    spec = read(TEXT.replace("epochs: 1", f"epochs: 1, {training}"))
    with caplog.at_level(logging.WARNING):
        extension(spec, History(past()), trials="9")
        assert not caplog.records
        extension(spec, History(past()), epochs=2)
        told = [record.getMessage() for record in caplog.records]
        assert [text.split("`")[1] for text in told if "`" in text] == [f"training.{key}" for key in warned]
        falls_to_0 = training in ("lr_schedule: cosine", "lr_schedule: {name: linear, by: epoch}")
        assert sum("fallen to 0 after 1 epochs" in text for text in told) == len(told) - len(warned) == falls_to_0
        caplog.clear()
        extension(spec, History(past()), epochs=2, new_schedule=True)
    assert [record.getMessage().split("`")[1] for record in caplog.records] == [
        f"training.{key}" for key in warned if key != "lr_schedule"
    ]


def test_schedules_stay_laid_out_as_when_a_trial_was_created(make_driver):
    text = TEXT.replace("epochs: 1", "epochs: 4, lr_schedule: cosine")
    driver, _ = make_driver(text)
    old = driver.create()
    train(driver, old, {4: 1.0})
    second = extended(driver, epochs=8)
    train(second, second.history.trials[old.id], {8: 1.0})
    new = second.create()
    train(second, new, {8: 1.0})
    third = extended(second, epochs=12, new_schedule=True)
    fourth = extended(third, epochs=16)
    courses = {}
    for name in (old.id, new.id, third.create().id):
        made = fourth if name in fourth.history.trials else third
        training = made.configuration(made.history.trials[name]).training
        stages = [(stage.after, stage.epochs, stage.lr == training.lr) for stage in training.lr_stages]
        courses[name] = (training.epochs, training.laid_out_over, stages)
    assert courses == {
        "t0000": (16, 4, [(8, 4, True)]),
        "t0001": (16, 8, [(8, 4, True)]),
        "t0002": (12, 12, []),
    }
    with pytest.raises(UsageError, match="give --epochs too"):
        extension(driver.spec, driver.history, trials="+1", new_schedule=True)


def extended(driver, **asked):
    """Extend a sweep as a command does, and open it as the next driver."""
    row = extension(driver.spec, driver.history, **asked)
    with driver.folder.records.open("a") as lines:
        lines.write(records.to_line(row))
    return Driver(driver.folder, driver.folder.spec(), 100, lambda record: None)


def train(driver, trial, losses, state="completed", reason="epochs"):
    driver.started(trial.id)
    for epoch, loss in losses.items():
        driver.epoch(trial.id, result(epoch, loss))
    driver.ended(trial.id, state, reason)


def studies(folder):
    """The journal as anybody opens it: rows by the name of their study."""
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    names = optuna.get_all_study_names(storage)
    return {name: optuna.load_study(study_name=name, storage=storage).trials for name in names}


def seen(rows):
    return [(row.user_attrs["trial_id"], row.state.name, row.value, row.intermediate_values) for row in rows]


def test_every_number_of_epochs_is_a_study_of_its_own(make_driver):
    driver, _ = make_driver(TEXT.replace("epochs: 1", "epochs: 2").replace(", within: training.batch_size", ""))
    trials = [driver.create() for _ in range(5)]
    for trial, losses in zip(trials[:3], [{1: 5.0, 2: 4.0}, {1: 6.0, 2: 3.0}, {1: 4.0, 2: 3.5}], strict=True):
        train(driver, trial, losses)
    train(driver, trials[3], {1: 9.0}, "stopped", "asha")
    driver.started(trials[4].id)
    driver.epoch(trials[4].id, result(1, 8.0))
    again = extended(driver, epochs=4)
    old = [
        ("t0000", "COMPLETE", 4.0, {1: 5.0, 2: 4.0}),
        ("t0001", "COMPLETE", 3.0, {1: 6.0, 2: 3.0}),
        ("t0002", "COMPLETE", 3.5, {1: 4.0, 2: 3.5}),
        ("t0003", "PRUNED", 9.0, {1: 9.0}),
        ("t0004", "PRUNED", 8.0, {1: 8.0}),
    ]
    found = studies(driver.folder)
    assert list(found) == ["2 epochs", "4 epochs"]
    assert seen(found["2 epochs"]) == old
    assert [row.state for row in found["4 epochs"]] == [
        TrialState.PRUNED, TrialState.RUNNING, TrialState.PRUNED, TrialState.PRUNED, TrialState.RUNNING,
    ]  # fmt: skip
    assert found["4 epochs"][0].intermediate_values == {1: 5.0, 2: 4.0}
    assert again.spec.training.epochs == 4
    assert again.configuration(again.history.trials["t0001"]).training.epochs == 4
    train(again, again.history.trials["t0001"], {3: 2.5, 4: 2.75})
    train(again, again.history.trials["t0004"], {2: 7.0}, "stopped", "asha")
    # A third time, with more configurations, and killed right behind the event.
    extended(again, epochs=8, trials="9")
    last, _ = make_driver()
    last = Driver(last.folder, last.folder.spec(), 100, lambda record: None)
    assert (last.spec.run_cap, last.spec.training.epochs) == (9, 8)
    trial = last.history.trials["t0001"]
    assert (trial.continued, trial.state) == (4, "running")
    train(last, trial, dict.fromkeys(range(5, 9), 2.0))
    found = studies(driver.folder)
    assert list(found) == ["2 epochs", "4 epochs", "8 epochs"]
    assert seen(found["2 epochs"]) == old
    assert [row.state.name for row in found["4 epochs"]] == ["PRUNED", "COMPLETE", "PRUNED", "PRUNED", "PRUNED"]
    assert seen(found["8 epochs"])[1] == (
        "t0001", "COMPLETE", 2.0, {1: 6.0, 2: 3.0, 3: 2.5, 4: 2.75, 5: 2.0, 6: 2.0, 7: 2.0, 8: 2.0},
    )  # fmt: skip
    assert not any(row.state == TrialState.RUNNING for rows in found.values() for row in rows)
    for _ in range(4):
        train(last, last.create(), {8: 1.0})
    assert last.create() is None
    assert len(last.history.trials) == 9


def test_more_configurations_are_those_of_a_sweep_that_had_them_from_its_start(make_driver):
    def run(driver):
        for trial in iter(driver.create, None):
            train(driver, trial, {1: int(trial.created.config_id[:2], 16)})
        return [trial.parameters for trial in driver.history.trials.values()]

    whole = run(make_driver(TEXT.replace("run_cap: 8", "run_cap: 14"), "whole")[0])
    first, _ = make_driver(TEXT, "extended")
    run(first)
    again = extended(first, trials="+6")
    assert run(again) == whole
    assert list(studies(again.folder)) == ["1 epoch"]


def test_the_command_asks_for_it_under_the_lock(make_driver, monkeypatch):
    driver, _ = make_driver(TEXT)
    found = []

    def resume(path, command, listener, overrides, *, force, extend):
        found.append((overrides, force, extend(driver.spec, History(past()))))
        return engine.Outcome(path, finished=False, signal=2)

    monkeypatch.setattr(engine, "resume", resume)
    options = ["--trials", "+2", "--epochs", "4", "--best", "1", "--set", "budget.epochs=9", "--max-concurrent", "1"]
    call = ["extend", str(driver.folder.path), *options, "--force"]
    assert commands.main(call, standalone_mode=False) == 130
    overrides, force, row = found[0]
    assert (overrides, force) == (["budget.epochs=9", "resources.max_concurrent=1"], True)
    assert (row.run_cap, row.epochs, row.continued) == (10, 4, ["t0002"])


TINY = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 2, precision: fp32, device: cpu, batch_size: 64, lr_schedule: {name: cosine, final: 0.5}}
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-1}
points: [{training.lr: 0.002}, {training.lr: 0.005}, {training.lr: 0.01}, {training.lr: 0.02}, {training.lr: 0.001}]
early_terminate: {min_iter: 1, eta: 2}
run_cap: 4
resources: {cpus_per_trial: 1, max_concurrent: 1}
"""


def test_a_finished_sweep_goes_on_from_its_checkpoints(ray_address, tmp_path):
    spec = read(TINY)
    first = engine.search(spec, prepare(spec.corpus), tmp_path / "sweep", ["x"], lambda record: None)
    folder = SweepFolder.open(first.folder)
    before = History(folder.read())
    # The later the better, so that ASHA stops none.
    assert [trial.state for trial in before.trials.values()] == ["completed"] * 4
    ended = engine.resume(
        folder.path,
        ["x"],
        lambda record: None,
        extend=lambda spec, history: extension(spec, history, trials="+1", epochs=4, best=1),
    )
    assert ended.finished
    assert folder.spec().training.epochs == 4
    history = History(folder.read())
    assert {trial.id: (trial.state, trial.ended.reason, trial.ended.epoch) for trial in history.trials.values()} == {
        **{f"t000{number}": ("stopped", "extension", 2) for number in range(3)},
        "t0003": ("completed", "epochs", 4),
        # Worse than the median of those that were at the first rung before the extension.
        "t0004": ("stopped", "asha", 1),
    }
    for trial in before.trials.values():
        now = history.trials[trial.id]
        assert [now.epochs[epoch] for epoch in (1, 2)] == [trial.epochs[epoch] for epoch in (1, 2)]
        log = (folder.trial(trial.id) / "log.txt").read_text()
        # Epochs that were trained before are not trained again, nor is their schedule laid out anew.
        assert [line.split()[1] for line in log.splitlines()] == [str(epoch) for epoch in sorted(now.epochs)]
    assert [history.trials["t0003"].epochs[epoch].lr for epoch in (3, 4)] == [0.01, 0.01]
    found = studies(folder)
    assert list(found) == ["2 epochs", "4 epochs"]
    assert [len(rows) for rows in found.values()] == [4, 5]
    assert not any(row.state == TrialState.RUNNING for rows in found.values() for row in rows)
