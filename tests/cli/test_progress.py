"""The live table's rows, from records alone."""

import time

from tune_newllm import records
from tune_newllm.cli.progress import SweepView
from tune_newllm.cli.text import place
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml

SPEC = """\
training: {epochs: 4}
parameters: {training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}}
early_terminate: {min_iter: 2, eta: 2}
run_cap: 4
"""


def epoch(trial, number, loss):
    numbers = dict.fromkeys(records.EpochRecord.model_fields, 1.0)
    numbers |= {"time": 0, "event": "epoch", "trial_id": trial, "epoch": number, "val_loss": loss}
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
    view = SweepView(parse_spec(parse_yaml(SPEC, "t")), past)
    view.add(records.SweepStarted(time=0, command=[], resumed=True))
    assert dict(view.rows())["trials"] == "1 of 4 done (1 completed)"
    # Nothing has ended in this process yet, so nothing is said of the time left.
    assert "left" not in dict(view.rows())["time"]


def test_places_are_short_and_quoted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place(tmp_path / "a b") == "'a b'"
    assert place(tmp_path.parent) == str(tmp_path.parent)
