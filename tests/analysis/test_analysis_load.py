"""Reading a sweep folder: running, torn, resumed, empty, missing."""

import json
import math
import os
import re
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from sweep_folders import SPEC, START, Driver, Trial, eventful_sweep, lr_batch, replicates, write_files, write_sweep

import analysis
from analysis import liveness
from tune_newllm import records
from tune_newllm.errors import FolderError
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import Source


def test_a_finished_sweep(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(1e-3, 8), [5.0, 4.0, 4.5] + [4.6] * 5),
        Trial(lr_batch(2e-3, 16), [4.9, 4.8, 4.7, 4.6], "stopped", "asha"),
        Trial(lr_batch(3e-2, 32), [], "diverged", "the loss became nan"),
        Trial(lr_batch(1e-2, 64), [4.4, 4.3], "completed", "patience"),
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials))
    table = sweep.trials.set_index("trial_id")
    assert table.index.tolist() == ["t0000", "t0001", "t0002", "t0003"]
    assert table["state"].tolist() == ["completed", "stopped", "diverged", "completed"]
    assert table["epochs"].tolist() == [8, 4, 0, 2]
    assert table["value"].tolist()[:2] == [4.0, 4.6]
    assert table["value"].isna().tolist() == [False, False, True, False]
    assert table.loc["t0000", "best_epoch"] == 2
    assert table.loc["t0000", "ppl"] == pytest.approx(math.exp(4.0))
    assert table["full_fidelity"].tolist() == [True, False, False, True]
    assert table["lr"].tolist() == [1e-3, 2e-3, 3e-2, 1e-2]
    assert table["training.batch_size"].tolist() == [8, 16, 32, 64]
    assert table["seconds"].tolist() == [16.0, 8.0, 0.0, 4.0]
    assert table["started"].tolist()[1].timestamp() == START + 16
    assert len(sweep.epochs) == 14
    assert sweep.status == "finished"
    assert sweep.searched == ["training.lr", "training.batch_size"]
    assert sweep.warnings == []


def test_a_completed_trial_of_fewer_epochs_than_asked_is_not_at_full_fidelity(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0] * 4)]))
    assert not sweep.trials["full_fidelity"].any()


@pytest.mark.parametrize(("end", "state"), [(None, "running"), ("interrupted", "interrupted")])
def test_a_trial_without_end(tmp_path: Path, end: str | None, state: str) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0], None)], end=end)
    with FileLock(folder / ".lock"):
        sweep = analysis.load(folder)
    assert sweep.trials["state"].tolist() == [state]
    assert sweep.status == (end or "open")


def test_an_extension_replaces_epochs_and_cap_and_reopens_trials(tmp_path: Path) -> None:
    folder = eventful_sweep(tmp_path / "s")
    sweep = analysis.load(folder)
    assert (sweep.spec["training"]["epochs"], sweep.spec["run_cap"], sweep.status) == (8, 7, "halted")
    assert (sweep.written["training"]["epochs"], sweep.written["run_cap"]) == (4, 3)
    states = ["interrupted", "stopped", "stopped", "failed", "crashed", "infeasible", "diverged"]
    assert sweep.trials["state"].tolist() == states
    assert sweep.trials["reason"].tolist()[1] == "extension"
    assert sweep.trials["crashes"].tolist() == [0, 0, 2, 0, 1, 0, 0]
    assert sweep.trials["micro_batch"].tolist() == [16, 8, *[pd.NA] * 5]
    assert not sweep.trials["full_fidelity"].any()
    assert analysis.rung_epochs(sweep.spec) == [4]
    assert [tuple(row)[1:] for row in analysis.survival(sweep) if row.group in (8, 64)] == [
        (4, 1, 0, 1, 0),
        (4, 1, 1, 0, 0),
    ]
    lines = (folder / "records.jsonl").read_text().splitlines(True)
    upto = next(index for index, line in enumerate(lines) if '"sweep_extended"' in line)
    (folder / "records.jsonl").write_text("".join(lines[: upto + 1]))
    assert analysis.load(folder).status == "interrupted", "it has not gone on since"
    with (folder / "records.jsonl").open("a") as file:
        file.write(lines[upto].replace('"epochs":8', '"epochs":16').replace('"run_cap":7', '"run_cap":null'))
    again = analysis.load(folder)
    assert (again.spec["training"]["epochs"], again.spec["run_cap"]) == (16, None)
    assert "from 4 to 8 epochs, 1 trial going on, then from 7 to any number of" in " ".join(analysis.answers(again))


def test_whether_a_driver_is_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0], None)], end=None)
    with FileLock(folder / ".lock"):
        assert liveness.seen(folder) is True
    assert liveness.seen(folder) is False
    with pytest.raises(Timeout), FileLock(folder / ".lock"):
        FileLock(folder / ".lock", blocking=False).acquire()
    beat = folder / ".heartbeat"
    here = socket.gethostname()
    cases = ((os.getpid(), here, True), (2**22 + 1, here, False), (1, "another", True), ("x", here, False))
    for pid, host, beats in cases:
        beat.write_text(json.dumps({"host": host, "pid": pid}))
        assert liveness.seen(folder) is beats
    os.utime(beat, (START, START))
    assert liveness.seen(folder) is False
    looks = iter([True, False])
    with monkeypatch.context() as patch:
        patch.setattr(liveness, "seen", lambda folder: next(looks))
        assert analysis.load(folder).running is True, "its driver ended while the records were read"
    monkeypatch.setattr(liveness, "LOCKS", tmp_path / "absent")
    assert liveness.seen(folder) is None
    verdicts = {
        (True, 1e6, 2.0): True,
        (False, 1e6, 2.0): False,
        (False, 5.0, 2.0): None,
        (None, 5.0, 2.0): True,
        (None, 700.0, 400.0): True,
        (None, 900.0, 400.0): None,
        (None, 500.0, None): True,
    }
    for case, verdict in verdicts.items():
        assert liveness.running(*case, here) is verdict
    for elsewhere in ("another", ""):
        assert liveness.running(False, 1e6, 2.0, elsewhere) is None
    monkeypatch.undo()
    assert analysis.load(folder).running is False
    away = (folder / "records.jsonl").read_text().replace(json.dumps(here), '"another"', 1)
    (folder / "records.jsonl").write_text(away)
    assert analysis.load(folder).running is None, "its driver may be at work where it was started"


def test_a_torn_last_line_costs_that_line_only(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0, 4.0, 3.0], None)], end=None)
    file = folder / "records.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    sweep = analysis.load(folder)
    assert sweep.trials[["epochs", "value"]].to_numpy().tolist() == [[2, 4.0]]
    assert len(sweep.warnings) == 1
    assert "line 6 is damaged" in sweep.warnings[0]


def test_an_epoch_repeated_after_a_resume_counts_once_and_the_later_record_wins(tmp_path: Path) -> None:
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"])
    driver.trial(0, Trial(lr_batch(1e-3, 8), [5.0, 1.0], None))
    driver.write(records.SweepStarted, command=["resume"], resumed=True)
    driver.write(records.TrialStarted, trial_id="t0000", epoch=1)
    driver.epoch("t0000", 2, 4.0)
    sweep = analysis.load(write_files(tmp_path / "s", driver))
    assert sweep.epochs["val_loss"].tolist() == [5.0, 4.0]
    assert sweep.trials["value"].tolist() == [4.0]
    assert sweep.trials["started"].tolist()[0].timestamp() == START


def test_a_trial_whose_creation_is_lost_is_left_out_with_a_warning(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0]), Trial(lr_batch(1e-3, 8), [4.0])])
    file = folder / "records.jsonl"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if '"number":0' not in line))
    sweep = analysis.load(folder)
    assert sweep.trials["trial_id"].tolist() == ["t0001"]
    assert sweep.epochs["trial_id"].tolist() == ["t0001"]
    assert sweep.warnings == ["trial t0000 was never created in the records, left out"]


def test_losses_that_are_not_finite_are_no_value(tmp_path: Path) -> None:
    trials = [Trial(lr_batch(1e-3, 8), [math.nan, 4.0, math.inf]), Trial(lr_batch(1e-3, 8), [math.nan, math.inf])]
    values = analysis.load(write_sweep(tmp_path / "s", trials)).trials["value"]
    assert values.iloc[0] == 4.0
    assert math.isnan(values.iloc[1])


@pytest.mark.parametrize("records_too", [True, False])
def test_an_empty_sweep_has_typed_tables(tmp_path: Path, records_too: bool) -> None:
    folder = write_sweep(tmp_path / "s", [], end=None)
    if not records_too:
        (folder / "records.jsonl").unlink()
    sweep = analysis.load(folder)
    assert sweep.trials.empty
    assert sweep.epochs.empty
    assert sweep.trials["value"].dtype == np.float64
    assert sweep.epochs["epoch"].dtype == np.int64
    assert bool(sweep.warnings) != records_too


def test_conditional_and_mixed_parameters(tmp_path: Path) -> None:
    spec = SPEC | {"parameters": {name: {"values": []} for name in ("a.mixed", "a.sometimes", "a.table", "a.late")}}
    spec["parameters"]["a.fixed"] = {"value": 3}
    trials = [
        Trial({"a.mixed": None, "a.sometimes": 1, "a.table": [[0, 0.5]]}, [5.0]),
        Trial({"a.mixed": 2, "a.table": "none"}, [5.0]),
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, spec))
    assert sweep.searched == ["a.mixed", "a.sometimes", "a.table", "a.late"]
    assert sweep.trials["a.mixed"].tolist() == [None, 2]
    assert sweep.trials["a.sometimes"].iloc[0] == 1
    assert math.isnan(sweep.trials["a.sometimes"].iloc[1])
    assert sweep.trials["a.table"].tolist() == ["[[0, 0.5]]", "none"]
    assert sweep.trials["a.late"].isna().all()


def test_the_learning_rate_is_the_one_recorded_at_creation_or_else_the_highest_of_any_epoch(tmp_path: Path) -> None:
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"])
    driver.trial(0, Trial(lr_batch(1e-3, 128), [], "diverged", created={"lr": 0.004, "model_size": 123}))
    driver.trial(1, Trial(lr_batch(1e-3, 128), [], None, created={"lr": None}))
    for epoch, lr in enumerate([0.003, 0.007, 0.001], 1):
        driver.epoch("t0001", epoch, 5.0, lr=lr)
    trials = analysis.load(write_files(tmp_path / "s", driver)).trials
    assert trials["lr"].tolist() == [0.004, 0.007]
    assert trials["model_size"].tolist() == [123, pd.NA]


def test_replicates_follow_one_another(tmp_path: Path) -> None:
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"])
    for number, at in ((1, 0), (0, 1), (0, 0), (1, 1)):
        driver.trial(number, replicates(lr_batch(1e-3, 8), [5.0], [4.0])[at])
    sweep = analysis.load(write_files(tmp_path / "s", driver, SPEC | {"seeds": 2}))
    rows = sweep.trials[["trial_id", "number", "replicate", "value"]].to_numpy().tolist()
    assert rows[:3] == [["t0000-0", 0, 0, 5.0], ["t0000-1", 0, 1, 4.0], ["t0001-0", 1, 0, 5.0]]
    assert sweep.seeds == 2


def test_settings_that_all_trials_share_come_from_the_spec(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0])] * 2))
    assert sweep.setting("model.embed_dim").tolist() == [64, 64]
    assert sweep.setting("training.batch_size").tolist() == [8, 8]
    assert sweep.setting("model.unheard_of").tolist() == [None, None]


def test_a_setting_that_a_trial_does_not_search_is_that_of_the_file(tmp_path: Path) -> None:
    trials = [Trial({"training.lr": 1e-3}, [5.0]), Trial(lr_batch(1e-3, 8), [5.0])]
    assert analysis.load(write_sweep(tmp_path / "s", trials)).setting("training.batch_size").tolist() == [32, 8]


def test_folders_that_are_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="does not"):
        analysis.load(tmp_path / "nowhere")
    with pytest.raises(FolderError, match="neither"):
        analysis.load(tmp_path)


def test_a_damaged_sweep_file_is_a_warning(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0])])
    (folder / "sweep.yaml").write_text("training: [", encoding="utf-8")
    (folder / "provenance.json").write_text("[]", encoding="utf-8")
    sweep = analysis.load(folder)
    assert sweep.spec == {}
    assert sweep.searched == ["training.lr", "training.batch_size"]
    assert [warning.split()[0] for warning in sweep.warnings] == ["sweep.yaml", "provenance.json"]


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (BOMB, "alias"),
        ("a: " + "[" * 31 + "]" * 31, "nested"),
        ("a: " + "[" * 50_000, "nested"),
        ("a: [" + "1," * 31_000 + "]", "30,000 values"),
        ("a: '" + "x" * 4_000_000 + "'", "4,000,000 bytes"),
        ("a: " + "9" * 30, "64 bits"),
        ("a: !!python/object/apply:os.system [true]", "cannot be read"),
    ],
)
def test_a_sweep_file_made_to_harm_is_a_warning(tmp_path: Path, text: str, why: str) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0])])
    (folder / "sweep.yaml").write_text(text)
    (folder / "provenance.json").write_text('{"a": ' + "[" * 100_000)
    sweep = analysis.load(folder)
    assert sweep.spec == sweep.provenance == {}
    assert len(sweep.warnings) == 2
    assert why in sweep.warnings[0]


def test_keys_of_the_wrong_kind_are_left_out(tmp_path: Path) -> None:
    wrong = {"parameters": [1], "training": {"epochs": "many"}, "seeds": -1, "early_terminate": {"eta": 1.0}}
    wrong |= {"resources": {"gpus_per_trial": "auto"}, "budget": {"wall": []}, "run_cap": 3}
    sweep = analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0])], SPEC | wrong, end="budget"))
    assert {key for key in wrong if key not in sweep.spec} == wrong.keys() - {"run_cap"}
    assert len(sweep.warnings) == 6
    assert analysis.answers(sweep)[-1].startswith("The sweep reached its budget")


def test_lines_made_to_harm_cost_themselves_only(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0], None)], end=None)
    created = (folder / "records.jsonl").read_text().splitlines()[1].replace("t0000", "evil")
    nested = '"parameters":{"training.lr":' + "[" * 40 + "]" * 40 + "}"
    lines = [
        "[" * 100_000,
        '{"event":"' + "x" * 3_000_000 + '"}',
        '{"event":["epoch"]}',
        created.replace('"number":0', '"number":' + "9" * 25),
        created.replace('"number":0', '"number":"7"'),
        re.sub(r'"time":[\d.]+', '"time":Infinity', created),
        re.sub(r'"parameters":\{.*?\}', nested, created),
    ]
    with (folder / "records.jsonl").open("a") as file:
        file.write("\n".join([*lines, *["torn"] * 30, created.replace("evil", "good\\u001b[2J"), ""]))
    sweep = analysis.load(folder)
    assert sweep.trials["trial_id"].tolist() == ["t0000", "good\x1b[2J"]
    assert len(sweep.warnings) == 21
    assert sweep.warnings[-1] == "records.jsonl: 17 more lines left out"
    assert max(map(len, sweep.warnings)) < 100
    assert "\x1b" not in "".join(analysis.answers(sweep))


def test_names_that_are_no_paths_and_parameters_beyond_number_are_left_out(tmp_path: Path) -> None:
    names = ["state", "value", "trial_id", "epochs", "mean", "behind", *(f"a.p{index}" for index in range(250))]
    spec = SPEC | {"parameters": {name: {"values": [1, 2]} for name in names}}
    sweep = analysis.load(write_sweep(tmp_path / "s", [Trial(dict.fromkeys(names, 1), [5.0] * 8)] * 2, spec))
    assert sweep.searched == [f"a.p{index}" for index in range(200)]
    assert sweep.trials["state"].tolist() == ["completed"] * 2
    assert sweep.warnings == [
        "no path of a parameter, left out: state, value, trial_id, epochs, mean, behind",
        "of 250 searched parameters, all but the first 200 are left out",
    ]


def test_files_that_never_end_are_not_read(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [5.0], None)], end=None)
    (folder / "best").mkdir()
    (folder / "best" / "summary.json").symlink_to("/dev/zero")
    os.mkfifo(folder / ".heartbeat")
    assert analysis.answers(analysis.load(folder))
    (folder / "records.jsonl").unlink()
    os.mkfifo(folder / "records.jsonl")
    with pytest.raises(FolderError, match="regular file"):
        analysis.load(folder)


def test_a_sweep_file_with_as_many_points_as_it_may_have_can_be_read_again(tmp_path: Path) -> None:
    parameters = {"training.lr": {"min": 1e-4, "max": 1e-2}, "training.batch_size": {"values": [8, 16]}}
    points = [{"training.lr": 1e-4 + 1e-6 * index, "training.batch_size": 8} for index in range(1900)]
    spec = parse_spec(Source("many.yaml", {"parameters": parameters, "points": points}))
    folder = SweepFolder.create(tmp_path / "s", spec, {})
    assert folder.spec(["resources.gpus_per_trial=0", "resources.cpus_per_trial=1"]).points == spec.points
    assert len(analysis.load(folder.path).spec["points"]) == 1900
