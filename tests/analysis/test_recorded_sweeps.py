"""What the analysis finds in real sweeps, recorded on two processor cores (tests/records, see FINDINGS.md)."""

from pathlib import Path

import numpy as np
import pytest

import analysis
from analysis.lr_fit import fit_lr_batch_law

RECORDS = Path(__file__).parents[1] / "records"


def test_the_sweep_made_to_answer_finds_the_square_root():
    sweep = analysis.load(RECORDS / "sqrt_law")
    law = fit_lr_batch_law(sweep.trials)
    assert law.verdict == "square-root scaling"
    assert [each.position for each in law.optima] == ["inside"] * 5
    # By itself each batch size says the same: a parabola through the five lowest of its seven rates, then a line.
    means = sweep.trials.groupby(["training.batch_size", "lr"])["value"].mean()
    best = []
    for _, rows in means.groupby(level=0):
        near = rows.nsmallest(5)
        square, linear, _ = np.polyfit(np.log(near.index.get_level_values("lr")), near, 2)
        best.append(-linear / (2 * square))
    slope = np.polyfit(np.log([8, 16, 32, 64, 128]), best, 1)[0]
    assert slope == pytest.approx(law.exponent, abs=0.07)
    assert law.interval.low < 0.5 < law.interval.high < 0.6


def test_interval_of_the_real_sweep_agrees_with_a_bootstrap_of_its_seeds():
    trials = analysis.load(RECORDS / "sqrt_law").trials
    law = fit_lr_batch_law(trials)
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(100):
        drawn = trials.groupby("config_id").sample(frac=1, replace=True, random_state=rng)
        slopes.append(fit_lr_batch_law(drawn).exponent)
    half = (law.interval.high - law.interval.low) / 2
    assert 0.2 * half < np.subtract(*np.percentile(slopes, [97.5, 2.5])) / 2 < 1.5 * half


def test_loss_at_the_recommended_rate_is_the_lowest():
    trials = analysis.load(RECORDS / "sqrt_law").trials
    law = fit_lr_batch_law(trials)
    for batch, rows in trials.groupby("training.batch_size"):
        means = rows.groupby("lr")["value"].mean()
        lr = law.predict(float(batch)).lr
        between = np.interp(np.log(lr), np.log(means.index), means)
        assert between <= means.min() + 0.006


def test_the_main_job_reaches_a_verdict():
    """Four epochs give a steeper law than six: the exponent drifts with the budget, so budgets are not pooled."""
    sweep = analysis.load(RECORDS / "lr_batch")
    law = fit_lr_batch_law(sweep.trials)
    assert law.verdict == "neither"
    assert law.excluded["not trained to the end"] == (sweep.trials["state"] == "stopped").sum() == 11
    longer = fit_lr_batch_law(analysis.load(RECORDS / "sqrt_law").trials)
    assert longer.exponent < law.exponent < 0.65
    for batch in (8, 128):
        assert law.predict(batch).lr == pytest.approx(longer.predict(batch).lr, rel=0.25)
