"""The sweep in numbers and in sentences."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from sweep_folders import SPEC, Driver, Trial, eventful_sweep, lr_batch, replicates, write_files, write_sweep

import analysis
from analysis.summary import plain
from tune_newllm import records

FULL = [5.0] * 7


def test_answers_of_a_finished_sweep(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(0.00316228, 32), [*FULL, 4.0]),
        Trial(lr_batch(1e-3, 8), [*FULL, 4.05]),
        Trial(lr_batch(1e-2, 8), [5.0] * 4, "stopped", "asha"),
        Trial(lr_batch(2e-2, 8), [], "diverged", "the loss became nan"),
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials))
    assert analysis.answers(sweep, test_loss=4.1) == [
        "The best configuration is trial t0000 (learning rate 0.003162, batch size 32): validation loss 4, "
        "perplexity 54.6, reached in epoch 8 of 8.",
        "The runner-up, trial t0001, is 0.05 nats per token behind (1.2 %); each was trained once, so how much of "
        "that is chance is not known.",
        "On the test split, which played no part in the choice, its loss is 4.1, perplexity 60.34.",
        "How the best learning rate follows the batch size is not determined: none of 2 sizes has its best learning "
        "rate well inside those tried.",
        "10 further trials that would tell more stand in next.yaml beside the report; `search` runs that file.",
        "4 trials: 2 completed, 1 stopped early, 1 diverged.",
        "20 epochs were trained in 40 s, 62 % of what running every trial to its end would have taken.",
    ]


def test_answers_say_when_the_ranking_is_provisional(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [4.5], None)], end=None)
    with FileLock(folder / ".lock"):
        text = " ".join(analysis.answers(analysis.load(folder)))
    assert "No trial has run to its end yet, and this one is running: the ranking is provisional." in text
    assert text.endswith("The sweep is running.")
    assert "runner-up" not in text
    assert "1 epoch was trained in 2 s." in text
    killed = analysis.answers(analysis.load(folder))
    assert "this one is interrupted" in " ".join(killed)
    assert re.fullmatch(
        r"The sweep was killed or lost its machine: no process works on it, and the last news is [\d,]+ h \d+ min old; "
        rf"go on with: python -m tune_newllm resume {re.escape(str(folder))}",
        killed[-1],
    )


def test_answers_say_what_befell_the_sweep(tmp_path: Path) -> None:
    sweep = analysis.load(eventful_sweep(tmp_path / "s"))
    assert analysis.answers(sweep)[-6:] == [
        "The sweep was extended from 3 to 7 configurations and from 4 to 8 epochs, 1 trial going on.",
        "The sweep went on with changed code (models/recurrence.py, data/CUDA error.py) from trial t0003 on; t0000 "
        "had begun with the earlier code.",
        "1 trial lost its worker and went on: t0002 2 times.",
        "1 trial ran with fewer sequences at a time than asked, to fit into memory, at the same batch size: t0000 (16 "
        "instead of 32).",
        "The sweep stopped: [Errno 28] No space left on device: CUDA error",
        f"Once that is mended, go on with: python -m tune_newllm resume {tmp_path / 's'}",
    ]
    assert analysis.summary(sweep)["incidents"] == {
        "extensions": [{"run_cap": [3, 7], "epochs": [4, 8], "continued": ["t0000"], "new_schedule": False}],
        "changed_code": [
            {"files": ["models/recurrence.py", "data/CUDA error.py"], "from_trial": "t0003", "midway": ["t0000"]}
        ],
        "lost_workers": [
            {"trial_id": "t0002", "crashes": 2, "state": "stopped"},
            {"trial_id": "t0004", "crashes": 1, "state": "crashed"},
        ],
        "smaller_passes": [{"trial_id": "t0000", "micro_batch": 16, "asked": 32}],
    }
    assert sweep.detail
    with (sweep.folder / "records.jsonl").open("a") as file:
        file.write(records.to_line(records.SweepStarted(time=2e9, command=["resume"], resumed=True)))
    assert analysis.summary(analysis.load(sweep.folder))["detail"] == "", "it went on"
    trials = [Trial(lr_batch(1e-3, 8), [], "failed", "No module named 'x'")] * 3
    failing = analysis.load(write_sweep(tmp_path / "f", trials, end="failing"))
    assert analysis.answers(failing)[-2] == "The sweep stopped because its first trials all failed for one reason."


def test_answers_of_sweeps_without_a_result(tmp_path: Path) -> None:
    empty = analysis.load(write_sweep(tmp_path / "a", [], end="interrupted"))
    assert analysis.answers(empty) == [
        "No trial has been created yet.",
        f"The sweep was interrupted; go on with: python -m tune_newllm resume {tmp_path / 'a'}",
    ]
    failed = analysis.load(write_sweep(tmp_path / "b", [Trial(lr_batch(1e-3, 8), [], "failed", "error")]))
    assert analysis.answers(failed)[0].startswith("There is no best configuration yet")


def test_answers_weigh_the_margin_against_the_noise_of_the_seeds(tmp_path: Path) -> None:
    def found(second: float) -> list[str]:
        first = replicates(lr_batch(1e-3, 8), [*FULL, 4.0], [*FULL, 4.02], [*FULL, 4.04])
        other = replicates(lr_batch(2e-3, 8), *([*FULL, second + step] for step in (0.0, 0.02, 0.04)))
        return analysis.answers(analysis.load(write_sweep(tmp_path / "s", [*first, *other], SPEC | {"seeds": 3})))

    # Each deviation is 0.02, so a difference of two means of three has the standard error 0.02 * sqrt(2 / 3) = 0.0163.
    assert found(4.1)[1:3] == [
        "It is the best of 3 seeds of that configuration; their mean loss, by which configurations are ranked, is "
        "4.02, the standard deviation 0.02.",
        "The runner-up, trial t0001-0, is 0.1 nats per token behind (2.5 %) in the mean over 3 seeds: more than the "
        "noise of the seeds, ± 0.033 (two standard errors).",
    ]
    assert found(4.03)[2].endswith(
        "within the noise of the seeds, ± 0.033 (two standard errors), so it is not known which of the two is better."
    )


def test_answers_own_up_to_missing_seeds(tmp_path: Path) -> None:
    trials = replicates(lr_batch(1e-3, 8), [*FULL, 4.0], [*FULL, 4.02], [9.0], states=["completed"] * 2 + ["diverged"])
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, SPEC | {"seeds": 3}))
    assert "Only 2 of the 3 seeds of that configuration ran to the end" in " ".join(analysis.answers(sweep))
    other = replicates(lr_batch(2e-3, 8), [*FULL, 4.1], [9.0], [9.0], states=["completed", *["diverged"] * 2])
    text = " ".join(analysis.answers(analysis.load(write_sweep(tmp_path / "t", trials + other, SPEC | {"seeds": 3}))))
    assert "behind (2.2 %); seeds are missing, so how much of that is chance is not known" in text


def test_a_sweep_whose_trials_never_left_the_plateau_says_nothing_about_its_settings(tmp_path: Path) -> None:
    stuck = Trial(lr_batch(1e-5, 8), [6.0] * 8, signals=[{"dead_relu": 0.1}] * 8)
    learned = [{"dead_relu": 0.1, "plateau_step": 150 if epoch > 1 else None} for epoch in range(1, 9)]
    early = Trial(lr_batch(1e-5, 8), [6.0] * 4, "stopped", "asha", signals=[{"dead_relu": 0.1}] * 4)
    good = Trial(lr_batch(1e-2, 8), [*FULL, 4.0], signals=learned)

    def found(name: str, *trials: Trial, **training: Any) -> tuple[Any, str]:
        spec = SPEC | {"training": SPEC["training"] | training}
        sweep = analysis.load(write_sweep(tmp_path / name, trials, spec))
        return analysis.summary(sweep)["plateau"], " ".join(analysis.answers(sweep))

    numbers, text = found("a", stuck, stuck, good, early)
    assert numbers == {
        **{"trials": 4, "left": 1, "never": ["t0000", "t0001", "t0003"]},
        **{"judged": 3, "stuck": 2, "median_step": 150.0, "left_at": {"t0002": {"step": 150, "epoch": 1.5}}},
    }
    assert "2 of the 3 trials that ran to their end never left the unigram plateau" in text
    assert "never left" not in found("b", stuck, good, early, early)[1], "half of those that count did"
    assert found("c", Trial(lr_batch(1e-2, 8), [6.0] * 8))[0] is None, "nothing was recorded"
    assert found("d", stuck, good, start="start")[0] is None, "trained weights begin below it"


def test_a_sweep_that_used_up_its_budget_says_how_to_go_on(tmp_path: Path) -> None:
    spec = SPEC | {"budget": {"wall": 600.0, "device_hours": None, "epochs": 8}}
    trials = [Trial(lr_batch(1e-3, 8), [5.0] * 8), Trial(lr_batch(1e-3, 8), [5.0] * 2, None)]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials, spec, end="budget"))
    assert analysis.summary(sweep)["status"] == "budget"
    assert sweep.trials["state"].tolist() == ["completed", "interrupted"]
    assert analysis.answers(sweep)[-1].endswith(f"resume {tmp_path / 's'} --set budget.epochs=20")
    # Two processors a trial, and the seconds of ten epochs: more than this file allows.
    spec = SPEC | {"budget": {"device_hours": 1e-6}, "resources": {"gpus_per_trial": 0.0, "cpus_per_trial": 7200.0}}
    sweep = analysis.load(write_sweep(tmp_path / "t", trials, spec, end="budget"))
    hours = math.ceil(4 * sweep.trials["seconds"].sum())
    assert analysis.answers(sweep)[-1].endswith(f"--set budget.device_hours={hours}")


def test_summary(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(1e-3, 8), [*FULL, 4.0]),
        Trial(lr_batch(2e-3, 8), [*FULL, 4.5]),
        Trial(lr_batch(3e-2, 64), [math.nan], "diverged", "the loss became nan"),
    ]
    content = analysis.summary(analysis.load(write_sweep(tmp_path / "s", trials)))
    assert content["trials"] == {"total": 3, "completed": 2, "diverged": 1}
    assert content["epochs"] == {"trained": 17, "asked_per_trial": 8}
    assert content["seconds"] == {"wall": 34.0, "training": 34.0}
    assert content["margin"] == pytest.approx(0.5)
    assert content["best"][0]["parameters"] == {"training.lr": 1e-3, "training.batch_size": 8}
    assert content["best"][0]["signals"]["dead_relu"] is None
    assert content["best"][0]["export"].endswith("--trial t0000 --to exports/s-t0000")
    assert [row["trial_id"] for row in content["best"]] == ["t0000", "t0001"]
    assert content["failures"][0]["reason"] == "the loss became nan"
    assert content["rungs"][0] == {"group": 8, "rung": 4, "reached": 2, "went_on": 2, "stopped": 0, "undecided": 0}
    json.dumps(content, allow_nan=False)


def test_a_recorded_test_loss_counts_only_for_the_weights_it_belongs_to(tmp_path: Path) -> None:
    folder = write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [*FULL, 4.0])])
    (folder / "best").mkdir()
    # The last one is what an extension leaves: the same trial, which has learned more since.
    for owner, measured, expected in (("t0000", 4.004, 4.25), ("t0007", 4.0, None), ("t0000", 4.3, None)):
        exported = {"trial_id": owner, "val_loss": measured, "test_loss": 4.25}
        (folder / "best" / "summary.json").write_text(json.dumps(exported))
        sweep = analysis.load(folder)
        assert analysis.summary(sweep)["test_loss"] == expected
        said = " ".join(analysis.answers(sweep))
        assert ("On the test split" in said, "best/ is older" in said) == (expected is not None, expected is None)


def test_wall_time_leaves_out_the_pause_before_a_resume(tmp_path: Path) -> None:
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"])
    driver.trial(0, Trial(lr_batch(1e-3, 8), [5.0] * 3, None))
    driver.now += 10_000
    driver.write(records.SweepStarted, command=["resume"], resumed=True)
    driver.epoch("t0000", 4, 4.0)
    driver.write(records.SweepEnded, reason="finished")
    assert analysis.load(write_files(tmp_path / "s", driver)).wall == pytest.approx(8.0)


def test_wall_time_goes_by_the_clock_that_nobody_sets(tmp_path: Path) -> None:
    driver = Driver()
    driver.write(records.SweepStarted, command=["search"], elapsed=0.0)
    driver.trial(0, Trial(lr_batch(1e-3, 8), [5.0], None))
    driver.now -= 3600
    driver.epoch("t0000", 2, 4.0, elapsed=7.0)
    driver.now += 1000
    driver.epoch("t0000", 3, 4.0, elapsed=2.0)  # of another driver, whose own first line is lost
    driver.write(records.SweepEnded, reason="interrupted", elapsed=3.0)
    driver.write(records.SweepExtended, run_cap=50, epochs=8)
    assert analysis.load(write_files(tmp_path / "s", driver)).wall == 10.0


def test_failures_by_state_then_number(tmp_path: Path) -> None:
    states = ["failed", "completed", "diverged", "crashed", "infeasible", "diverged"]
    trials = [Trial(lr_batch(1e-3, 8), FULL, state, f"{state}!") for state in states]
    rows = analysis.failures(analysis.load(write_sweep(tmp_path / "s", trials, SPEC)))
    assert [(row.trial_id, row.state) for row in rows] == [
        ("t0002", "diverged"),
        ("t0005", "diverged"),
        ("t0004", "infeasible"),
        ("t0003", "crashed"),
        ("t0000", "failed"),
    ]
    assert rows[0].parameters == {"training.lr": 1e-3, "training.batch_size": 8}


def test_plain_leaves_nothing_that_json_does_not_know() -> None:
    numpy = pytest.importorskip("numpy")
    given = {"a": numpy.float64("nan"), 1: (numpy.int64(3), math.inf), "c": numpy.bool_(True), "d": Path("x")}
    assert plain(given) == {"a": None, "1": [3, None], "c": True, "d": "x"}
