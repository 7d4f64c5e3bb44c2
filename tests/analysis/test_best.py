"""The ranking of trials."""

from pathlib import Path

import pytest
from sweep_folders import Trial, lr_batch, write_sweep

import analysis

FULL = [5.0] * 7


def test_full_fidelity_beats_lower_losses_of_trials_that_ended_early(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(1e-3, 8), [*FULL, 4.2]),
        Trial(lr_batch(1e-3, 16), [1.0] * 4, "stopped", "asha"),
        Trial(lr_batch(1e-3, 32), [*FULL, 4.0]),
        Trial(lr_batch(1e-3, 64), [0.5], "diverged"),
        Trial(lr_batch(1e-3, 64), [4.1, 4.3], "completed", "patience"),
    ]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials))
    found = analysis.best(sweep, 2)
    assert found.trials["trial_id"].tolist() == ["t0002", "t0004"]
    assert found.trials["behind"].tolist() == pytest.approx([0.0, 0.1])
    assert found.margin == pytest.approx(0.1)
    assert found.full_fidelity
    assert analysis.best(sweep.trials, 1).margin == pytest.approx(0.1)


def test_without_full_fidelity_the_others_are_ranked_and_flagged(tmp_path: Path) -> None:
    trials = [
        Trial(lr_batch(1e-3, 8), [4.5] * 4, "stopped", "asha"),
        Trial(lr_batch(1e-3, 8), [4.4], None),
        Trial(lr_batch(1e-3, 8), [0.1], "diverged"),
        Trial(lr_batch(1e-3, 8), [0.1], "failed"),
    ]
    found = analysis.best(analysis.load(write_sweep(tmp_path / "s", trials)), 5)
    assert found.trials["trial_id"].tolist() == ["t0001", "t0000"]
    assert not found.full_fidelity


def test_equal_values_keep_the_order_of_suggestion(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [4.0] * 8)] * 30))
    assert analysis.best(sweep.trials.sample(frac=1, random_state=0), 3).trials["number"].tolist() == [0, 1, 2]


def test_no_trial_with_a_value(tmp_path: Path) -> None:
    found = analysis.best(analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [], "failed")])), 3)
    assert found.trials.empty
    assert found.margin is None
