"""Replayed sweeps, against curves and decisions worked out by hand, and the recorded table itself."""

import math
from dataclasses import replace

import numpy as np
import pytest
from replay import Outcome, replay
from search import summary
from tabulated import FILE, Table, grid, read, sweep

from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml
from tune_newllm.sweep.spec import Budget, EarlyTerminate

NEVER = math.inf
HAND_MADE = Table(
    rates=np.array([1e-3, 1e-2, 1e-1]),
    discrete=["training.batch_size"],
    losses={
        (8,): np.array([[5, 4, 3], [4, 3, 2], [6, NEVER, NEVER]]),
        (16,): np.array([[7, 5, 1], [5, 4, 3], [6, 5, 4]]),
    },
    seconds={(8,): 2.0, (16,): 1.0},
)
# The second lies halfway between two rates, [4.5 3.5 2.5]; the fourth diverges; the last starts worst and ends best.
SWEEP = """\
training: {epochs: 3}
method: random
parameters:
  training.lr: {distribution: log_uniform_values, min: 1e-3, max: 1e-1}
  training.batch_size: {values: [8, 16]}
points:
- {training.lr: 1e-2, training.batch_size: 16}
- {training.lr: 3.1622776601683795e-3, training.batch_size: 8}
- {training.lr: 1e-2, training.batch_size: 8}
- {training.lr: 1e-1, training.batch_size: 8}
- {training.lr: 1e-3, training.batch_size: 16}
"""
ASHA = EarlyTerminate(min_iter=1, eta=2)


@pytest.mark.parametrize(
    ("asha", "workers", "best", "counts"),
    [
        (None, 1, [NEVER, NEVER, 3, 3, 3, 2.5, 2.5, 2.5, 2, 2, 2, 2, 1], (5, 4, False)),
        # 6 is worse than the median of 5, 4.5 and 4 at the first rung, 7 than that of 5, 4.5, 4 and 6.
        (ASHA, 1, [NEVER, NEVER, 3, 3, 3, 2.5, 2.5, 2.5, 2, 2, 2], (5, 3, True)),
        # Ends of epochs at 1, 2, 3 s (first trial), 2, 4, 6 s (second) and 5 s (third).
        (None, 2, [NEVER, NEVER, NEVER, 3, 3, 3, 2.5], (3, 2, False)),
    ],
)
def test_a_replay_is_what_hand_and_clock_say(asha, workers, best, counts):
    spec = parse_spec(parse_yaml(SWEEP, "test.yaml"))
    spec = spec.model_copy(update={"early_terminate": asha, "budget": Budget(epochs=len(best))})
    outcome = replay(spec, HAND_MADE, workers)
    assert outcome.best == pytest.approx(best)
    assert (outcome.trials, outcome.completed, outcome.missed) == counts


def test_the_recorded_table_holds_the_whole_grid():
    table, rows = read(), np.loadtxt(FILE, delimiter=",", skiprows=2)
    assert rows.shape == (9 * 5 * 3, 4 + sweep().training.epochs)
    for values in grid(sweep()):
        (row,) = rows[(rows[:, :3] == list(values.values())).all(axis=1)]
        assert table.curve(values) == pytest.approx(row[4:])
    assert table.best == rows[:, 4:].min()
    assert FILE.stat().st_size < 500_000


def test_a_table_with_a_hole_is_refused(tmp_path):
    lines = FILE.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "part.csv").write_text("".join(lines[:40] + lines[41:]), encoding="utf-8")
    with pytest.raises(ValueError, match=r"must be complete, got .*: record the rest first"):
        read(tmp_path / "part.csv")


@pytest.mark.parametrize("method", ["bayes", "random"])
def test_the_best_loss_never_rises_and_the_budget_is_kept(method):
    table, base = read(), sweep()
    changes = {"method": method, "early_terminate": ASHA, "budget": Budget(epochs=80)}
    spec = base.model_copy(update=changes | {"training": replace(base.training, seed=3)})
    outcome = replay(spec, table, workers=4)
    assert len(outcome.best) == 80
    assert sorted(outcome.best, reverse=True) == outcome.best
    assert table.best <= outcome.best[-1] < outcome.best[20]
    assert outcome == replay(spec, table, workers=4)


def test_a_strategy_is_judged_by_when_its_median_is_where_random_ends():
    def found(*curves):
        return [Outcome([*curve], 4, 2, missed=curve[-1] > 2) for curve in curves]

    random = found([NEVER] * 2 + [4] * 3 + [3] * 3, [NEVER] * 2 + [5] * 4 + [3] * 2, [NEVER] * 8)
    model = found([NEVER, 5, 3, 2, 2, 2, 2, 1], [NEVER, 9, 9, 3, 2, 2, 2, 2], [NEVER, 5, 5, 5, 5, 5, 5, 4])
    figures = summary({"model": model, "random": random}, best=1.0)
    assert figures["model"]["loss"] == {1: None, 2: [5, 5, 9], 4: [2, 3, 5], 8: [1, 2, 4]}
    assert figures["model"]["regret"][8] == [0, 1, 3]
    assert (figures["random"]["epochs_to_random"], figures["model"]["epochs_to_random"]) == (7, 4)
    assert figures["model"]["times_fewer"] == 7 / 4
    assert figures["model"]["missed"] == pytest.approx(1 / 3)
