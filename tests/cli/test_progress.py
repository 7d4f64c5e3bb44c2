"""The live table's rows, from records alone."""

import time
from pathlib import Path

from tune_newllm import records
from tune_newllm.cli.progress import SweepView
from tune_newllm.cli.text import place, spent_budget
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml
from tune_newllm.sweep.spending import Use

SPEC = """\
training: {epochs: 4}
parameters: {training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}}
early_terminate: {min_iter: 2, eta: 2}
run_cap: 4
"""


def epoch(trial, number, loss):
    numbers = dict.fromkeys(records.EpochRecord.model_fields, 1.0)
    numbers |= {"time": 0, "elapsed": None, "event": "epoch", "trial_id": trial, "epoch": number, "val_loss": loss}
    return records.EpochRecord(**numbers)


def test_the_table_counts_trials_and_names_the_best_among_the_completed():
    view = SweepView(parse_spec(parse_yaml(SPEC, "t")))
    assert view.rows()[0][0] == "sweep"
    view.add(records.SweepStarted(time=time.time(), command=[]))
    for number, lr in enumerate([0.001, 0.0123456]):
        row = {"time": 0, "trial_id": f"t{number}", "config_id": "c", "number": number, "seed": 0}
        view.add(records.TrialCreated(**row, origin="random", parameters={"training.lr": lr}))
        view.add(records.TrialStarted(time=0, trial_id=f"t{number}"))
    assert dict(view.rows())["best"] == "none yet"
    for trial, number, loss in [("t0", 1, 3.0), ("t0", 2, 2.5), ("t1", 1, 1.5)]:
        view.add(epoch(trial, number, loss))
    assert dict(view.rows())["ASHA"] == "epoch 2: 1 of 1 went on"
    view.add(epoch("t1", 2, 1.0))
    assert dict(view.rows())["trials"] == "0 of 4 done (2 running)"
    assert dict(view.rows())["best"] == "val_loss 1.0000  lr 0.01235  (t1, running)"
    view.add(records.TrialEnded(time=0, trial_id="t1", state="stopped", epoch=2, reason="asha"))
    assert dict(view.rows())["ASHA"] == "epoch 2: 1 of 2 went on"
    view.add(records.TrialEnded(time=0, trial_id="t0", state="completed", epoch=4, reason="epochs"))
    rows = dict(view.rows())
    assert rows["trials"] == "2 of 4 done (1 completed, 1 stopped)"
    assert rows["best"] == "val_loss 2.5000  lr 0.001  (t0, completed)"
    assert "left" not in rows["time"]
    for number in (2, 3):
        row = {"time": 0, "trial_id": f"t{number}", "config_id": "c", "number": number, "seed": 0}
        view.add(records.TrialCreated(**row, origin="random", parameters={"training.lr": 0.1}))
        view.add(records.TrialEnded(time=0, trial_id=f"t{number}", state="diverged", epoch=0))
    assert "about 0 s left" in dict(view.rows())["time"]


def test_a_resumed_table_begins_with_the_past():
    past = [
        records.TrialCreated(
            time=0, trial_id="t0", config_id="c", number=0, seed=0, origin="random", parameters={"training.lr": 0.1}
        ),
        records.TrialStarted(time=0, trial_id="t0"),
        epoch("t0", 1, 2.0),
        records.TrialEnded(time=0, trial_id="t0", state="completed", epoch=4),
    ]
    view = SweepView(parse_spec(parse_yaml(SPEC, "t")), past=past)
    view.add(records.SweepStarted(time=0, command=[], resumed=True))
    assert dict(view.rows())["trials"] == "1 of 4 done (1 completed)"
    # Nothing has ended in this process yet, so nothing is said of the time left.
    assert "left" not in dict(view.rows())["time"]


def test_seeds_and_a_budget_are_shown_and_the_budget_limits_the_time_left(tmp_path):
    text = SPEC.replace("run_cap: 4", "seeds: 2\nrun_cap: 50\nbudget: {wall: 2h, device_hours: 4, epochs: 8}")
    spec = parse_spec(parse_yaml(text, "t"))
    resources = spec.resources.model_copy(update={"gpus_per_trial": 0.5, "cpus_per_trial": 1.0})
    resolved = spec.model_copy(update={"resources": resources})
    SweepFolder.create(tmp_path / "sweep", resolved, {})
    view = SweepView(spec, tmp_path / "sweep")
    view._began -= 60.0
    view.add(records.SweepStarted(time=time.time() - 59, elapsed=59, command=[]))
    for number in range(2):
        for replicate in range(2):
            name = f"t000{number}-{replicate}"
            row = {"trial_id": name, "config_id": f"c{number}", "number": number, "replicate": replicate, "seed": 0}
            view.add(records.TrialCreated(time=time.time(), **row, origin="random", parameters={"training.lr": 0.5}))
            view.add(epoch(name, 1, number + replicate).model_copy(update={"time": time.time()}))
            view.add(records.TrialEnded(time=time.time(), trial_id=name, state="completed", epoch=1))
    rows = dict(view.rows())
    assert rows["trials"] == "4 of 100 done (4 completed)"
    assert rows["best"] == "val_loss 0.5000  lr 0.5  (t0000, completed, mean of 2 seeds)"
    assert rows["budget"] in (f"{s} s of 2 h 0 min, 0.000556 of 4 device hours, 4 of 8 epochs" for s in (59, 60))
    # Four epochs took a minute, and four more are allowed.
    assert "about 1 min 0 s left" in rows["time"]


def test_a_spent_budget_names_limits_that_are_not_used_up_yet():
    spent = [Use("wall", 3700.0, 1800.0), Use("device_hours", 0.51, 0.5), Use("epochs", 8, 8)]
    assert spent_budget(spent, Path("s")) == (
        "budget spent (1 h 1 min of 30 min 0 s, 0.51 of 0.5 device hours, 8 of 8 epochs); go on with: python -m "
        "tune_newllm resume s --set budget.wall=2h --set budget.device_hours=1 --set budget.epochs=16"
    )


def test_places_are_short_and_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place(tmp_path / "a b") == "'a b'"
    assert place(tmp_path.parent) == str(tmp_path.parent)
