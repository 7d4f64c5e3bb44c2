"""The ranking of trials."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from sweep_folders import SPEC, Trial, lr_batch, replicates, write_sweep

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
    assert found.noise is None


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
    mixed = replace(sweep, trials=sweep.trials.sample(frac=1, random_state=0))
    assert analysis.best(mixed, 3).trials["number"].tolist() == [0, 1, 2]


def test_no_trial_with_a_value(tmp_path: Path) -> None:
    found = analysis.best(analysis.load(write_sweep(tmp_path / "s", [Trial(lr_batch(1e-3, 8), [], "failed")])), 3)
    assert found.trials.empty
    assert found.margin is None


def seeded(folder: Path, *configurations: list[Trial]) -> analysis.Sweep:
    trials = [trial for configuration in configurations for trial in configuration]
    return analysis.load(write_sweep(folder, trials, SPEC | {"seeds": 3}))


def test_the_mean_over_seeds_ranks_and_the_lowest_seed_is_named(tmp_path: Path) -> None:
    lucky = replicates(lr_batch(1e-3, 8), [*FULL, 3.8], [*FULL, 4.4], [*FULL, 4.4])
    steady = replicates(lr_batch(2e-3, 8), [*FULL, 4.1], [*FULL, 4.0], [*FULL, 4.2])
    found = analysis.best(seeded(tmp_path / "s", lucky, steady), 5)
    assert found.trials["trial_id"].tolist() == ["t0001-1", "t0000-0"]
    assert found.trials["mean"].tolist() == pytest.approx([4.1, 4.2])
    assert found.trials["value"].tolist() == pytest.approx([4.0, 3.8])
    assert found.trials["deviation"].tolist() == pytest.approx([0.1, math.sqrt(0.12)])
    assert found.margin == pytest.approx(0.1)
    assert found.noise == pytest.approx(math.sqrt((0.01 + 0.12) / 2 * 2 / 3))
    assert analysis.best(seeded(tmp_path / "t", lucky, steady), 1).noise == found.noise


def test_a_configuration_counts_when_all_its_seeds_ran_to_their_end(tmp_path: Path) -> None:
    whole = replicates(lr_batch(1e-3, 8), [*FULL, 4.4], [*FULL, 4.4], [*FULL, 4.4])
    unstable = replicates(lr_batch(2e-3, 8), [*FULL, 4.0], [*FULL, 4.0], [9.0], states=["completed"] * 2 + ["diverged"])
    begun = replicates(lr_batch(3e-3, 8), [*FULL, 3.9])
    found = analysis.best(seeded(tmp_path / "s", unstable, whole, begun))
    assert found.trials["number"].tolist() == [1]
    assert found.margin is None
    # A seed whose process was lost says nothing of its configuration.
    crashed = replicates(lr_batch(4e-3, 8), [*FULL, 4.3], [*FULL, 4.3], [], states=["completed"] * 2 + ["crashed"])
    assert analysis.best(seeded(tmp_path / "u", unstable, whole, crashed)).trials["number"].tolist() == [2, 1]
    partial = analysis.best(seeded(tmp_path / "t", unstable, begun))
    assert partial.full_fidelity
    assert partial.trials[["trial_id", "replicates"]].to_numpy().tolist() == [["t0001-0", 1], ["t0000-0", 2]]


def test_which_configurations_cannot_be_told_apart_from_the_best(tmp_path: Path) -> None:
    """Each deviation is 0.02, so the standard error of a difference of two means of three is 0.02 * sqrt(2 / 3)."""
    groups = [
        replicates(lr_batch(1e-3 * (at + 1), 8), *([*FULL, mean + step] for step in (-0.02, 0.0, 0.02)))
        for at, mean in enumerate((4.0, 4.02, 4.03, 4.04))
    ]
    found = analysis.best(seeded(tmp_path / "s", *groups), 2)
    assert found.noise == pytest.approx(0.02 * math.sqrt(2 / 3))
    assert found.alike == 2, "4.02 and 4.03 lie within 0.0327, and 4.03 is not among the two that were asked for"
    assert found.trials["alike"].tolist() == [True, True]
    text = " ".join(analysis.answers(seeded(tmp_path / "s", *groups)))
    assert "2 configurations cannot be told apart from the best one (difference below two standard errors)." in text
    once = analysis.best(analysis.load(write_sweep(tmp_path / "t", [Trial(lr_batch(1e-3, 8), [*FULL, 4.0])] * 2)))
    assert once.alike is None
    assert once.trials["alike"].isna().all()
