"""Phases of learning curves: the original's published ones, made ones with known breaks, recorded ones."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import analysis
from analysis.phases import phases
from analysis.published import PUBLISHED

RECORDED = Path(__file__).parents[1] / "records"
RUNS = {run.name: run for run in PUBLISHED}


def published(name):
    curve = RUNS[name].curve
    return phases(list(curve), [math.log(ppl) for ppl in curve.values()])


def kinds(found):
    return [phase.kind for phase in found.phases]


@pytest.mark.parametrize(("name", "first", "left"), [("W2", 1, 16.5), ("W4", 5, 13), ("W6", 5, 16.5)])
def test_the_originals_runs_stand_still_and_then_fall(name, first, left):
    found = published(name)
    assert kinds(found)[-3:] == ["plateau", "fast", "slow"]
    plateau, fast, slow = found.phases[-3:]
    assert plateau.first == first
    assert found.left == pytest.approx(left, abs=0.6)
    assert found.level == pytest.approx(4.22, abs=0.04)
    assert abs(plateau.rate) < 0.005 < slow.rate < fast.rate / 2
    # What the reference says of all three: no run early-stopped, all were still improving.
    assert found.best == 50
    assert 0.004 < found.tail_rate < 0.015


def test_gains_by_doubling_the_epochs_are_a_geometric_series():
    # 3 + 1 / epochs: each doubling brings half of what the one before it brought.
    found = phases(range(1, 17), [3 + 1 / epoch for epoch in range(1, 17)])
    assert found.doubled == pytest.approx(1 / 8 - 1 / 16)
    assert found.doubling == pytest.approx(1 / 16 - 1 / 32)
    # W6 first stood still, so the gain grew; W4 too.
    assert math.isnan(published("W4").doubling)


@given(
    fall=st.integers(1, 2),
    still=st.integers(5, 25),
    drop=st.integers(4, 12),
    slow=st.integers(12, 40),
    height=st.floats(0.3, 1.0),
    depth=st.floats(0.4, 1.0),
    noise=st.floats(0, 0.003),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_known_breaks_are_found(fall, still, drop, slow, height, depth, noise, seed):
    breaks = np.cumsum([1, fall, still, drop, slow])
    losses = [4.2 + height, 4.2, 4.19, 4.19 - depth, 4.19 - 1.15 * depth]
    epochs = np.arange(1, breaks[-1] + 1)
    curve = np.interp(epochs, breaks, losses) + np.random.default_rng(seed).normal(0, noise, len(epochs))
    found = phases(epochs.tolist(), curve.tolist())
    assert [kind for kind in kinds(found) if kind != "flat"] == ["fast", "plateau", "fast", "slow"]
    assert abs(found.phases[1].first - breaks[1]) <= 1
    # Left once a tenth of the fall is over.
    assert found.left == pytest.approx(breaks[2] + 0.1 * drop, abs=1)
    assert abs(found.phases[2].last - breaks[3]) <= 2
    assert found.phases[0].first == 1
    assert found.phases[-1].last == epochs[-1]
    assert all(one.last == other.first for one, other in zip(found.phases, found.phases[1:], strict=False))


@given(
    count=st.integers(4, 120),
    scale=st.floats(0.3, 3.0),
    pace=st.floats(0.05, 0.5),
    noise=st.floats(0, 0.003),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=120, deadline=None, derandomize=True)
def test_a_curve_that_only_slows_down_never_stands_still(count, scale, pace, noise, seed):
    epochs = np.arange(1, count + 1)
    curve = 3.3 + scale * np.exp(-epochs / max(0.5, pace * count)) + np.random.default_rng(seed).normal(0, noise, count)
    found = phases(epochs.tolist(), curve.tolist())
    assert math.isnan(found.left)
    assert kinds(found) in (["flat"], ["fast"], ["fast", "slow"], ["fast", "slow", "flat"], ["fast", "flat"])


def test_what_follows_the_lowest_loss():
    fall, train = [5.0, 4.6, 4.2, 3.9], [5.1, 4.5, 4.0, 3.8]
    over = phases(range(1, 8), [*fall, 3.95, 4.02, 4.1], [*train, 3.6, 3.5, 3.4])
    assert kinds(over) == ["fast", "overfitting"]
    assert (over.phases[-1].first, over.phases[-1].last, over.best) == (4, 7, 4)
    assert over.tail_rate == pytest.approx(-0.075)
    gone = phases(range(1, 7), [*fall, 4.8, 6.0], [*train, 4.5, 6.0])
    assert kinds(gone)[-1] == "divergence"
    flat = phases(range(1, 7), [*fall, 3.902, 3.901], [*train, 3.79, 3.78])
    assert kinds(flat)[-1] == "flat"
    # Without the training loss nobody knows that it is overfitting.
    assert kinds(phases(range(1, 8), [*fall, 3.95, 4.02, 4.1]))[-1] == "flat"


def test_a_setback_is_no_plateau():
    curve = [5.0, 4.5, 4.2, 4.1, 4.6, 4.3, 4.1, 3.95, 3.85, 3.8]
    found = phases(range(1, 11), curve)
    assert kinds(found) == ["fast", "slow", "setback", "fast"]


def test_a_short_steady_fall_is_no_standstill():
    found = phases([1, 2, 3], [3.500, 3.490, 3.481])
    assert kinds(found) == ["slow"]
    assert found.phases[0].rate == pytest.approx(0.0095)
    # One epoch that does not take part, or less than a thousandth of a nat each, and it may be noise.
    assert kinds(phases([1, 2, 3, 4], [3.500, 3.492, 3.493, 3.487])) == ["flat"]
    assert kinds(phases([1, 2, 3], [3.500, 3.4995, 3.499])) == ["flat"]


@pytest.mark.parametrize("losses", [[], [4.0], [math.nan, 4.0], [math.inf, math.nan]])
def test_nothing_is_said_of_less_than_two_losses(losses):
    found = phases(range(1, len(losses) + 1), losses)
    assert (found.phases, found.turns, found.best) == ([], [], 0)


def test_noise_alone_is_flat():
    curve = 4.2 + np.random.default_rng(0).normal(0, 0.01, 40)
    assert kinds(phases(range(1, 41), curve.tolist())) == ["flat"]


@pytest.mark.parametrize("name", ["lr_batch", "sqrt_law"])
def test_recorded_trials_fall_without_standing_still(name):
    # Orthogonal weights leave the unigram plateau within the first epoch.
    sweep = analysis.load(RECORDED / name)
    best = analysis.best(sweep, 1).trials.iloc[0]
    rows = sweep.epochs[sweep.epochs["trial_id"] == best["trial_id"]]
    found = phases(rows["epoch"].tolist(), rows["val_loss"].tolist(), rows["train_loss"].tolist())
    assert kinds(found) == ["fast", "slow"]
    assert found.best == best["best_epoch"]
    assert 0.005 < found.doubling < found.doubled < 0.08
