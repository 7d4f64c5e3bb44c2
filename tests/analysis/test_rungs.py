"""Rungs and who survived them."""

from pathlib import Path
from typing import Any

import pytest
from sweep_folders import SPEC, Trial, lr_batch, write_sweep

import analysis
from analysis import RungCount
from analysis.words import ABSENT, shown


@pytest.mark.parametrize(
    ("rule", "epochs", "rungs"),
    [
        ({"min_iter": 4, "eta": 2.0}, 8, [4]),
        ({"min_iter": 1, "eta": 3}, 50, [1, 3, 9, 27]),
        ({"min_iter": 1}, 10, [1, 3, 9]),
        ({"min_iter": 8, "eta": 2}, 8, []),
        ({"min_iter": 3, "eta": 1.5}, 10, [3, 5, 7]),
        ({"max_iter": 27, "s": 2}, 27, [3, 9]),
        ({"max_iter": 27, "s": 5, "eta": 3}, 27, [1, 3, 9]),
        ({"min_iter": 1, "eta": 1}, 10, []),
        (None, 8, []),
    ],
)
def test_rung_epochs(rule: dict[str, Any] | None, epochs: int, rungs: list[int]) -> None:
    assert analysis.rung_epochs({"early_terminate": rule, "training": {"epochs": epochs}}) == rungs


def trials() -> list[Trial]:
    return [
        Trial(lr_batch(1e-3, 16), [5.0] * 8),
        Trial(lr_batch(1e-3, 16), [5.0] * 2, "stopped", "asha"),
        Trial(lr_batch(1e-3, 16), [5.0] * 4, "stopped", "asha"),
        Trial(lr_batch(1e-3, 8), [5.0] * 2, "diverged", "the loss became nan"),
        Trial(lr_batch(1e-3, 8), [5.0] * 2, None),
        Trial(lr_batch(1e-3, 8), [5.0] * 3, None),
        Trial(lr_batch(1e-3, 8), [5.0] * 1, "failed", "error"),
        Trial(lr_batch(1e-3, 8), [5.0] * 4, "completed", "patience"),
    ]


def test_survival_over_all_trials(tmp_path: Path) -> None:
    spec = SPEC | {"early_terminate": {"type": "asha", "min_iter": 2, "eta": 2, "within": None}}
    sweep = analysis.load(write_sweep(tmp_path / "s", trials(), spec, end=None))
    assert analysis.survival(sweep) == [
        RungCount(None, 2, reached=7, went_on=5, stopped=1, undecided=1),
        RungCount(None, 4, reached=3, went_on=2, stopped=1, undecided=0),
    ]


def test_survival_within_groups_in_order_of_size(tmp_path: Path) -> None:
    spec = SPEC | {"early_terminate": {"type": "asha", "min_iter": 2, "eta": 2, "within": "training.batch_size"}}
    sweep = analysis.load(write_sweep(tmp_path / "s", trials(), spec, end=None))
    assert analysis.survival(sweep) == [
        RungCount(8, 2, reached=4, went_on=3, stopped=0, undecided=1),
        RungCount(8, 4, reached=1, went_on=1, stopped=0, undecided=0),
        RungCount(16, 2, reached=3, went_on=2, stopped=1, undecided=0),
        RungCount(16, 4, reached=2, went_on=1, stopped=1, undecided=0),
    ]


def test_trials_without_the_parameter_have_rungs_of_their_own(tmp_path: Path) -> None:
    spec = SPEC | {"early_terminate": {"type": "asha", "min_iter": 4, "eta": 2, "within": "training.batch_size"}}
    given = [*trials()[:3], Trial({"training.lr": 1e-3}, [5.0] * 4, "stopped", "asha")]
    rows = analysis.survival(analysis.load(write_sweep(tmp_path / "s", given, spec)))
    assert [(shown(row.group), row.reached, row.stopped) for row in rows] == [("16", 2, 1), (ABSENT, 1, 1)]


def test_no_early_stopping_no_rungs(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", trials(), SPEC | {"early_terminate": None}))
    assert analysis.survival(sweep) == []


def test_an_extension_is_no_verdict_of_the_rung_below(tmp_path: Path) -> None:
    trials = [Trial(lr_batch(1e-3, 8), [5.0] * epochs, "stopped", "extension") for epochs in (4, 5)]
    sweep = analysis.load(write_sweep(tmp_path / "s", trials))
    assert [tuple(row)[1:] for row in analysis.survival(sweep)] == [(4, 2, 1, 1, 0)]
