"""The law of the best learning rate, against independent fits and simulated sweeps of known exponent."""

import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sweep_folders import realistic_trials, write_sweep

import analysis
from analysis import bowls, figures
from analysis.lr_cells import cells_of
from analysis.lr_fit import fit_lr_batch_law, fit_lr_size_law
from analysis.lr_words import law_sentences, law_summary

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import calibration

BATCHES = (8, 32, 128)


def table(loss, rates=None, batches=BATCHES, **columns) -> pd.DataFrame:
    """Trials of a grid; `loss` gets ln of the rate over 1e-3 and ln of the batch size over 32."""
    rates = np.geomspace(2.5e-4, 4e-3, 7) if rates is None else rates
    rows = [
        {"lr": lr, "training.lr": lr, "training.batch_size": batch, "config_id": f"{batch} {lr}", "state": "completed",
         "full_fidelity": True, "value": loss(math.log(lr / 1e-3), math.log(batch / 32)), **columns}
        for batch in batches for lr in rates
    ]  # fmt: skip
    return pd.DataFrame(rows)


def noisy(exponent: float, seed: int = 0, sigma: float = 0.004, k: float = 0.07):
    rng = np.random.default_rng(seed)
    return lambda x, z: (
        2 - 0.1 * z + k * (x - exponent * z) ** 2 + 0.01 * (x - exponent * z) ** 3 + sigma * rng.normal()
    )


def test_exponent_and_rate_are_those_of_a_nonlinear_fit():
    trials = table(noisy(0.4))
    law = fit_lr_batch_law(trials)
    x, z = np.log(trials["lr"] / 1e-3).to_numpy(), np.log(trials["training.batch_size"] / 32).to_numpy()
    group = np.searchsorted(BATCHES, trials["training.batch_size"])
    near = np.abs(x - math.log(law.coefficient / 1e-3) - law.exponent * (z + math.log(32))) <= bowls.WINDOWS[0]
    assert law.n == near.sum() < len(trials)

    def residuals(theta):
        u = x - theta[0] - theta[1] * z
        return (theta[4:][group] + theta[2] * u**2 + theta[3] * u**3 - trials["value"].to_numpy())[near]

    found = optimize.least_squares(residuals, [0, 0.5, 0.1, 0, 2, 2, 2], xtol=1e-14, ftol=1e-14).x
    assert law.exponent == pytest.approx(found[1], abs=2e-3)
    assert law.predict(32).lr == pytest.approx(1e-3 * math.exp(found[0]), rel=2e-3)
    assert law.curvature == pytest.approx(found[2], rel=1e-2)


def test_the_bowl_goes_through_the_losses_on_both_sides():
    def steep(x, z):
        u = x - 0.5 * z
        return 2 + 0.07 * u**2 + 0.03 * u**3

    law = fit_lr_batch_law(table(steep, np.geomspace(2e-4, 5e-3, 15)))
    for batch in BATCHES:
        lr, loss = law.bowl(batch)
        assert lr.max() > 2 * lr.min()
        true = [steep(x, math.log(batch / 32)) for x in np.log(lr / 1e-3)]
        np.testing.assert_allclose(loss, true, atol=1e-6)
    assert law.bowl(64)[0].size == 0


def test_covariance_is_hc3_and_interval_is_where_the_test_does_not_reject():
    rng = np.random.default_rng(1)
    columns, weights = rng.normal(size=(20, 3)), rng.integers(1, 4, 20).astype(float)
    loss = rng.normal(size=20)
    fit = bowls.least_squares(columns, loss, weights, 3)
    inverse = np.linalg.inv(columns.T @ np.diag(weights) @ columns)
    coefficients = inverse @ columns.T @ (weights * loss)
    meat = np.zeros((3, 3))
    for row, weight, y in zip(columns, weights, loss, strict=True):
        leverage = weight * row @ inverse @ row
        meat += np.outer(row, row) * (weight * (y - row @ coefficients) / (1 - leverage)) ** 2
    np.testing.assert_allclose(fit.coefficients, coefficients)
    np.testing.assert_allclose(fit.covariance, inverse @ meat @ inverse)
    fit = bowls.Fit(np.array([2.0, 1.0, 0.5]), fit.covariance / 50, 17, fit.residuals)
    for end in bowls.lowest(fit, [1], np.ones(1))[::2]:
        # At the end of the interval the slope p + 2 k u there is just significant.
        at = np.array([2 * end, 1.0, 0.0])
        t = at @ fit.coefficients / math.sqrt(at @ fit.covariance @ at)
        assert 2 * stats.t.sf(abs(t), 17) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("exponent", "verdict"),
    [(0.0, "no scaling"), (0.5, "square-root scaling"), (1.0, "linear scaling"), (0.25, "neither")],
)
def test_verdict_and_its_sentence(exponent, verdict):
    law = fit_lr_batch_law(table(noisy(exponent), np.geomspace(6e-5, 1.6e-2, 17)))
    assert law.verdict == verdict
    assert law.interval.holds(exponent)
    assert {name for name, p in law.p.items() if p >= 0.05} == set(law.possible)
    said = law_sentences(law)[0]
    assert said.startswith(f"The best learning rate goes with batch size^{law.exponent:.2f} (95 % interval")
    assert (f"{verdict} fits" in said) or "between no scaling and square-root scaling, neither of which fits" in said


def test_an_optimum_on_the_edge_is_flagged_and_left_out():
    rates = np.geomspace(1e-4, 3e-3, 9)
    law = fit_lr_batch_law(table(noisy(1.0), rates, (8, 16, 32, 128)))
    assert [each.position for each in law.optima] == ["inside", "inside", "inside", "high edge"]
    assert math.isnan(law.optima[-1].lr)
    assert law.predict(128).beyond == 4
    assert law.interval.holds(1.0)
    assert any(
        "At batch 128 the best learning rate is the highest tried or beyond it" in each for each in law_sentences(law)
    )


def test_a_stopped_trial_beyond_it_brackets_an_optimum():
    trials = table(noisy(0.0), np.geomspace(6e-4, 4e-3, 7))
    beside = trials[(trials["training.batch_size"] == 32) & (trials["lr"] > 1.05e-3)]
    trials = pd.concat([trials[trials["training.batch_size"] != 32], beside])
    assert fit_lr_batch_law(trials).optima[1].position == "low edge"
    stopped = beside.iloc[:1].assign(lr=6e-4, state="stopped", full_fidelity=False, value=2.5, config_id="stopped")
    optimum = fit_lr_batch_law(pd.concat([trials, stopped])).optima[1]
    assert optimum.position == "inside"
    assert optimum.tried.low == 6e-4


def test_too_little_is_not_determined():
    one = table(noisy(0.5), batches=(32,))
    assert fit_lr_batch_law(one).verdict == "not determined"
    assert "only 1 of 1 sizes" in fit_lr_batch_law(one).reason
    flat = fit_lr_batch_law(table(noisy(0.5, k=0.0, sigma=0.1)))
    assert flat.verdict == "not determined"
    empty = fit_lr_batch_law(one.iloc[:0])
    assert empty.verdict == "not determined"
    assert empty.n == 0
    with pytest.raises(ValueError, match="no law to recommend"):
        empty.predict(32)
    with pytest.raises(ValueError, match="missing: value"):
        fit_lr_batch_law(one.drop(columns="value"))


def test_stopped_trials_do_not_count_and_diverged_ones_bound_the_best_rate():
    trials = table(noisy(0.5), np.geomspace(1e-4, 1e-2, 11))
    false = trials.assign(value=1.0, full_fidelity=False, state="stopped", config_id=trials["config_id"] + "s", lr=1e-2)
    gone = trials[trials["lr"] > 6e-3].assign(state="diverged", full_fidelity=False)
    # That one diverged far below the best rate says nothing of how high it may be.
    odd = gone.iloc[:1].assign(lr=1.2e-4)
    law = fit_lr_batch_law(pd.concat([trials[trials["lr"] <= 6e-3], false, gone, odd]))
    assert law.exponent == fit_lr_batch_law(trials[trials["lr"] <= 6e-3]).exponent
    assert law.excluded["not trained to the end"] == len(false)
    assert law.excluded["diverged"] == len(gone) + 1
    assert [each.diverged for each in law.optima] == [pytest.approx(gone["lr"].min())] * 3


def test_another_setting_that_moves_the_best_rate_is_taken_into_account():
    rng = np.random.default_rng(4)
    rows = []
    for number in range(80):
        batch, clip = rng.choice([8, 32, 128]), rng.choice(["constant", "linear"])
        x = rng.uniform(-2, 2)
        shift = 0.8 if clip == "linear" else 0.0
        u = x - 0.5 * math.log(batch / 32) - shift
        value = 2 + 0.07 * u * u + 0.1 * shift + 0.003 * rng.normal()
        row = {"lr": 1e-3 * math.exp(x), "training.batch_size": batch, "training.clip.schedule": clip}
        rows.append(row | {"config_id": str(number), "value": value})
    law = fit_lr_batch_law(pd.DataFrame(rows))
    assert law.interval.holds(0.5)
    assert law.interval.high - law.interval.low < 0.2
    assert law.noise < 0.006


def test_a_setting_that_only_some_trials_have_does_not_hide_the_law():
    """Whether a trial has a clip norm says the same as its schedule."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(90):
        batch, x, clips = rng.choice([8, 32, 128]), rng.uniform(-2, 2), rng.random() < 0.5
        norm = float(10 ** rng.uniform(-1, 1)) if clips else math.nan
        loss = 2 + 0.07 * (x - 0.5 * math.log(batch / 32)) ** 2 + 0.003 * rng.normal()
        row = {"lr": 1e-3 * math.exp(x), "training.batch_size": batch, "config_id": str(number)}
        row |= {"training.clip.schedule": "constant" if clips else "none", "training.clip.norm": norm}
        rows.append(row | {"value": loss + (0.02 * math.log(norm) if clips else 0.05)})
    law = fit_lr_batch_law(pd.DataFrame(rows))
    assert law.verdict == "square-root scaling"
    assert law.interval.high - law.interval.low < 0.2


def test_a_bend_is_found_and_followed():
    rng = np.random.default_rng(2)

    def loss(x, z):
        return 2 + 0.07 * (x - 0.5 * z + 0.15 * z * z) ** 2 + 0.002 * rng.normal()

    law = fit_lr_batch_law(table(loss, np.geomspace(1e-4, 8e-3, 21), (4, 8, 16, 32, 64, 128, 256)))
    assert law.verdict == "bend"
    assert law.bend.small > 0.8 > 0.2 > law.bend.large
    truth = {b: 0.5 * math.log(b / 32) - 0.15 * math.log(b / 32) ** 2 for b in (8, 128)}
    for batch, x in truth.items():
        assert math.log(law.predict(batch).lr / 1e-3) == pytest.approx(x, abs=0.15)
    assert law.bend.turn == pytest.approx(32 * math.exp(0.5 / 0.3), rel=0.2)
    assert "follows no single power" in law_sentences(law)[0]


def test_seeds_are_averaged_and_weighed():
    trials = table(noisy(0.5))
    twice = pd.concat([trials.assign(value=trials["value"] - 0.01), trials.assign(value=trials["value"] + 0.01)])
    cells, _ = cells_of(twice, "training.batch_size")
    assert len(cells.x) == len(trials)
    assert set(cells.seeds) == {2.0}
    # A configuration of five seeds counts as five of one: the fit is that of all trials by themselves.
    more = pd.concat([trials, *[trials[trials["lr"] > 1.5e-3]] * 4])
    single = more.assign(config_id=[str(number) for number in range(len(more))])
    assert fit_lr_batch_law(more).exponent == pytest.approx(fit_lr_batch_law(single).exponent, abs=1e-6)
    assert fit_lr_batch_law(more).exponent != pytest.approx(fit_lr_batch_law(trials).exponent, abs=1e-4)
    assert fit_lr_batch_law(twice).exponent == pytest.approx(fit_lr_batch_law(trials).exponent)


def test_the_rule_for_model_sizes():
    trials = table(noisy(-0.5)).rename(columns={"training.batch_size": "model_size"})
    law = fit_lr_size_law(trials)
    assert law.verdict == "inverse square-root scaling"
    assert "number of parameters^-0.5" in law_sentences(law)[0]


@settings(max_examples=25, deadline=None)
@given(st.floats(-1, 1), st.floats(0.1, 10), st.floats(-3, 3), st.randoms(use_true_random=False))
def test_units_and_order_do_not_matter(exponent, factor, floor, random):
    trials = table(noisy(exponent), np.geomspace(6e-5, 1.6e-2, 17))
    law = fit_lr_batch_law(trials)
    order = list(range(len(trials)))
    random.shuffle(order)
    other = trials.iloc[order].assign(lr=lambda rows: rows["lr"] * factor, value=lambda rows: rows["value"] + floor)
    same = fit_lr_batch_law(other)
    assert same.exponent == pytest.approx(law.exponent, abs=1e-4)
    assert same.interval == pytest.approx(law.interval, abs=1e-3)
    assert same.predict(64).lr == pytest.approx(factor * law.predict(64).lr, rel=1e-3)


@pytest.mark.parametrize("number", [0, 6, 8])
def test_intervals_keep_their_promise(number):
    """A short version of `benchmarks/calibration.py`; bounds are three standard errors wide."""
    row = calibration.run(calibration.DESIGNS[number], 0.5, 60)
    assert row["covered"] >= 0.95 - 3 * math.sqrt(0.05 * 0.95 / 60)
    assert row["wrong"] <= 0.14
    assert row["intervals"] > 0.7


def test_law_of_a_sweep_in_summary_and_answers(tmp_path):
    sweep = analysis.load(write_sweep(tmp_path / "sweep", realistic_trials(150)))
    law = fit_lr_batch_law(sweep.trials)
    content = analysis.summary(sweep)["lr_laws"][0]
    assert content["exponent"] == pytest.approx(law.exponent)
    advised = {row["size"]: row for row in content["recommended"]}
    assert list(advised) == [2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert advised[256]["lr"] == pytest.approx(law.coefficient * 256**law.exponent, rel=1e-3)
    assert advised[256]["beyond"] == 2
    assert set(law_sentences(law)) <= set(analysis.answers(sweep))


def test_figures_show_the_law_and_its_bowls(tmp_path):
    sweep = analysis.load(write_sweep(tmp_path / "sweep", realistic_trials(150)))
    law = figures.batch_law(sweep)
    lines = figures.law_lines_data(law)
    assert lines.lr[[0, -1]].tolist() == pytest.approx([law.predict(8).lr, law.predict(128).lr])
    assert (lines.low < lines.lr).all()
    assert (lines.lr < lines.high).all()
    # On log axes the reference laws are straight lines of slope 1/2 and 1 through the middle.
    slopes = {name: np.polyfit(np.log(lines.sizes), np.log(lr), 1)[0] for name, lr in lines.references.items()}
    assert slopes == pytest.approx({"square-root scaling": 0.5, "linear scaling": 1.0})
    for bowl in figures.bowls_data(sweep, law):
        lowest = bowl.curve_lr[np.argmin(bowl.curve_loss)]
        assert math.log(lowest / bowl.best_lr) == pytest.approx(0, abs=0.1)
        assert (
            len(bowl.lr) == (sweep.trials["full_fidelity"] & (sweep.trials["training.batch_size"] == bowl.size)).sum()
        )
    drawn = {trace.name for trace in figures.lr_batch(sweep).data}
    assert {"law", "95 % band", "fitted optimum", "square-root scaling", "linear scaling"} <= drawn
    assert len(figures.bowls_figure(sweep, law).data) == 10


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 40), st.floats(0, 0.3))
def test_whatever_the_losses_are_there_is_an_answer(seed, count, spread):
    """Losses without any bowl have lowest points anywhere, also where no number reaches."""
    rng = np.random.default_rng(seed)
    trials = pd.DataFrame(
        {
            "lr": 1e-3 * np.exp(spread * 10 * rng.normal(size=count)),
            "training.batch_size": rng.choice([8, 32, 128], count),
            "value": 2 + 0.1 * rng.normal(size=count),
            "state": rng.choice(["completed", "stopped", "diverged"], count, p=[0.8, 0.1, 0.1]),
        }
    )
    law = fit_lr_batch_law(trials)
    assert law_sentences(law)
    assert law_summary(law)["verdict"] == law.verdict
