"""Regressions on the configurations at full fidelity: effects, interactions, and the least squares below them."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sweep_folders import CONDITIONAL, SPEC, Trial, conditional_trials, lr_batch, write_sweep

import analysis
from analysis.effects import effects
from analysis.interactions import interactions
from analysis.least_squares import f_tail, fit, holm, t_quantile, t_tail
from analysis.regression import design, framed
from analysis.terms import term

LR = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1}


def full(parameters: dict[str, Any], loss: float) -> Trial:
    """A trial at full fidelity."""
    return Trial(parameters, [loss], "completed", "patience")


def made(folder: Path, trials: list[Trial], parameters: dict[str, Any]) -> analysis.Sweep:
    return analysis.load(write_sweep(folder, trials, SPEC | {"parameters": parameters}))


def test_least_squares_against_scipy() -> None:
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, 20)
    y = 2 + 0.7 * x + generator.normal(0, 0.3, 20)
    fitted, known = fit(np.stack([np.ones(20), x], axis=1), y), stats.linregress(x, y)
    (slope,), (error,) = fitted.contrasts(np.array([[0.0, 1.0]]))
    assert (slope, error) == pytest.approx((known.slope, known.stderr))
    assert fitted.block(slice(1, 2)) == pytest.approx(known.pvalue)
    assert t_quantile(0.975, 18) == pytest.approx(stats.t.ppf(0.975, 18))
    assert t_tail(-2.0, 18) == pytest.approx(2 * stats.t.sf(2.0, 18))
    assert f_tail(3.0, 2, 18) == pytest.approx(stats.f.sf(3.0, 2, 18))


def test_what_the_rows_do_not_determine_is_nan() -> None:
    x = np.linspace(-1, 1, 12)
    fitted = fit(np.stack([np.ones(12), x, 2 * x], axis=1), x**3)
    assert (fitted.rank, fitted.freedom) == (2, 10)
    assert np.isnan(fitted.contrasts(np.array([[0.0, 1, 0]]))[0]).all()
    assert fitted.contrasts(np.array([[0.0, 1, 2]]))[0] == pytest.approx(np.polyfit(x, x**3, 1)[0])
    assert math.isnan(fitted.block(slice(1, 2)))


def test_holm_by_hand() -> None:
    adjusted = holm([0.04, math.nan, 0.01, 0.03])
    assert adjusted[0] == adjusted[3] == 0.06
    assert adjusted[2] == 0.03
    assert math.isnan(adjusted[1])
    assert holm([]) == []


def additive(count: int, noise: float, seed: int = 0) -> list[Trial]:
    """Loss 4 + 0.1 log10(lr / 0.003)^2 + 0.05 log2(batch / 32) + 0.2 with the original's initial weights."""
    generator = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        lr, batch = float(10 ** generator.uniform(-4, -1)), [16, 32, 64][number % 3]
        init = ["he", "original"][number // 3 % 2]
        loss = 4 + 0.1 * math.log10(lr / 0.003) ** 2 + 0.05 * math.log2(batch / 32) + 0.2 * (init == "original")
        trials.append(full(lr_batch(lr, batch) | {"model.init": init}, loss + generator.normal(0, noise)))
    return trials


SEARCHED = {"training.lr": LR, "training.batch_size": {"values": [16, 32, 64]}, "model.init": {"values": ["he"]}}


def test_effects_without_noise_are_those_that_made_the_losses(tmp_path: Path) -> None:
    sweep = made(tmp_path / "s", additive(30, 1e-9), SEARCHED)
    found = effects(sweep)
    lr, batch, init = found.effects
    assert (found.configurations, found.confounded, found.reason, found.limit) == (30, [], "", None)
    assert found.explained == pytest.approx(1)
    assert (lr.kind, batch.kind, init.kind) == ("log", "list", "category")
    assert batch.values == [16, 32, 64]
    assert batch.effect == pytest.approx([-0.05, 0, 0.05], abs=1e-6)
    assert init.effect == pytest.approx([-0.1, 0.1], abs=1e-6)
    assert init.span == pytest.approx(0.2, abs=1e-6)
    tried = np.log10(sweep.trials["lr"].to_numpy() / 0.003)
    wanted = 0.1 * np.log10(np.array(lr.values) / 0.003) ** 2 - 0.1 * (tried**2).mean()
    assert lr.effect == pytest.approx(wanted, abs=1e-6)
    assert max(one.p for one in found.effects) < 1e-6


def test_an_interval_and_a_test_computed_otherwise(tmp_path: Path) -> None:
    """With categories alone, effects are differences of means with a pooled variance."""
    losses = {"a": [4.0, 4.2, 4.1, 4.15, 4.05], "b": [4.5, 4.3, 4.4, 4.45, 4.35]}
    trials = [full({"model.init": name}, loss) for name, group in losses.items() for loss in group]
    (found,) = effects(made(tmp_path / "s", trials, {"model.init": {"values": ["a", "b"]}})).effects
    difference = stats.ttest_ind(losses["b"], losses["a"])
    assert found.p == pytest.approx(difference.pvalue)
    assert found.effect == pytest.approx([-0.15, 0.15])
    half = difference.confidence_interval(0.95)
    assert found.high[1] - found.low[1] == pytest.approx((half.high - half.low) / 2)


def noisy(sweep: analysis.Sweep, deviation: float, seed: int) -> analysis.Sweep:
    """The same sweep with other losses."""
    noise = np.random.default_rng(seed).normal(0, deviation, len(sweep.trials))
    return replace(sweep, trials=sweep.trials.assign(value=sweep.trials["value"] + noise))


def test_an_effect_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [row.parameters | {"model.dropout": generator.uniform(0, 0.5)} for row in additive(36, 0)]
    trials = [full(row, trial.losses[0]) for row, trial in zip(rows, additive(36, 0), strict=True)]
    sweep = made(tmp_path / "s", trials, SEARCHED | {"model.dropout": {"min": 0, "max": 0.5}})
    p = np.array([[one.p for one in effects(noisy(sweep, 0.02, seed)).effects] for seed in range(30)])
    assert (p[:, 2] < 0.05).all(), "initial weights"
    assert (p[:, 3] < 0.05).sum() <= 4, "dropout"


def test_parameters_that_only_some_configurations_have(tmp_path: Path) -> None:
    sweep = analysis.load(write_sweep(tmp_path / "s", conditional_trials(60), CONDITIONAL))
    found = {one.path: one for one in effects(sweep).effects}
    assert set(found) == set(CONDITIONAL["parameters"])
    assert found["training.clip.norm"].configurations == 40
    assert found["training.clip.final"].configurations == 20
    assert found["training.lr"].p < 1e-6
    assert found["training.clip.schedule"].p > 0.05


def test_parameters_that_always_change_together_are_named(tmp_path: Path) -> None:
    rows = additive(30, 0.01)
    trials = [full(row.parameters | {"model.ffn": row.parameters["model.init"]}, row.losses[0]) for row in rows]
    found = effects(made(tmp_path / "s", trials, SEARCHED | {"model.ffn": {"values": ["he", "original"]}}))
    assert found.confounded == ["model.init", "model.ffn"]
    assert [one.path for one in found.effects] == ["training.lr", "training.batch_size"]


def test_one_loss_beyond_all_others_does_not_decide(tmp_path: Path) -> None:
    loss, limit = framed(np.array([1.0, 2.0, 3.0, 100.0]))
    assert (loss.tolist(), limit) == ([1, 2, 3, 8.5], 8.5)
    assert framed(np.array([1.0, 2.0, 3.0]))[1] is None
    rows = [*additive(30, 0.001), full(lr_batch(0.09, 16) | {"model.init": "he"}, 900.0)]
    found = effects(made(tmp_path / "s", rows, SEARCHED))
    assert found.limit is not None
    assert found.limit < 6
    assert found.effects[2].effect == pytest.approx([-0.1, 0.1], abs=0.05)


@pytest.mark.parametrize(
    ("count", "reason"),
    [
        (0, "no configuration has run"),
        (1, "no searched parameter varies"),
        (2, "2 configurations ran to the end, and these parameters need"),
        (9, "9 configurations ran to the end, and these parameters need 12"),
    ],
)
def test_too_few_configurations(tmp_path: Path, count: int, reason: str) -> None:
    sweep = made(tmp_path / "s", additive(count, 0.01), SEARCHED)
    assert effects(sweep).effects == []
    assert effects(sweep).reason.startswith(reason)
    assert interactions(sweep) == []


def test_trials_that_were_stopped_do_not_count(tmp_path: Path) -> None:
    stopped = [Trial(lr_batch(1e-3, 16) | {"model.init": "he"}, [1.0], "stopped", "asha")] * 30
    assert effects(made(tmp_path / "s", [*additive(5, 0.01), *stopped], SEARCHED)).configurations == 5


def test_equal_losses_have_no_effects(tmp_path: Path) -> None:
    trials = [full(row.parameters, 4.0) for row in additive(30, 0)]
    assert effects(made(tmp_path / "s", trials, SEARCHED)).reason == "all losses are the same"


def joint(count: int, depends: float, seed: int = 0) -> list[Trial]:
    """The best learning rate rises with the batch size by the exponent `depends`."""
    generator = np.random.default_rng(seed)
    trials = []
    for number in range(count):
        lr, batch = float(10 ** generator.uniform(-3, -1.5)), [16, 32, 64][number % 3]
        off = math.log(lr / (6e-3 * (batch / 32) ** depends))
        trials.append(full(lr_batch(lr, batch), 4 + 0.06 * off**2 + generator.normal(0, 0.01)))
    return trials


PAIR = {"training.lr": LR, "training.batch_size": {"values": [16, 32, 64]}}


def test_an_interaction_computed_otherwise(tmp_path: Path) -> None:
    sweep = made(tmp_path / "s", joint(36, 0.5), PAIR)
    (found,) = interactions(sweep)
    base = design(sweep)
    assert not isinstance(base, str)
    x, steps = np.log(sweep.trials["lr"].to_numpy()), np.log2(sweep.trials["training.batch_size"].to_numpy() / 32)
    residuals = [
        np.linalg.lstsq(columns, base.loss, rcond=None)[1][0]
        for columns in (base.columns, np.column_stack([base.columns, x * steps]))
    ]
    freedom = 36 - base.columns.shape[1] - 1
    ratio = (residuals[0] - residuals[1]) / (residuals[1] / freedom)
    assert (found.degrees, found.freedom, found.configurations) == (1, freedom, 36)
    assert found.p == found.adjusted == pytest.approx(stats.f.sf(ratio, 1, freedom))
    assert found.share == pytest.approx(1 - residuals[1] / residuals[0])
    assert found.nats == pytest.approx(math.sqrt((residuals[0] - residuals[1]) / 36))
    assert found.significant
    assert effects(sweep).deviation == pytest.approx(0.01, rel=0.5), "what it explains is not taken for noise"


def test_no_interaction_where_there_is_none(tmp_path: Path) -> None:
    sweep = made(tmp_path / "s", joint(36, 0.0), PAIR)
    assert sum(interactions(noisy(sweep, 0.02, seed))[0].significant for seed in range(30)) <= 5


def test_pairs_are_tested_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    trials = [
        full(row.parameters | {"training.clip.norm": float(10 ** generator.uniform(-1, 1))}, row.losses[0])
        for row in joint(48, 0.5)
    ]
    sweep = made(tmp_path / "s", trials, PAIR | {"training.clip.norm": LR})
    found = interactions(sweep)
    assert [(one.first, one.second) for one in found] == [
        ("training.lr", "training.batch_size"),
        ("training.clip.norm", "training.lr"),
    ]
    assert found[0].adjusted == pytest.approx(2 * found[0].p)
    assert found[1].adjusted == max(found[1].p, found[0].adjusted)


def test_how_a_parameter_is_coded() -> None:
    schedule = term(pd.Series(["none", None, "none", math.nan], dtype="object"), "a.b", {"values": ["none", None]})
    assert schedule is not None
    assert (schedule.kind, schedule.values) == ("category", [None, "none"])
    assert schedule.columns[:, 0].tolist() == pytest.approx([1 / 3, -2 / 3, 1 / 3, 0])
    few = term(pd.Series([1.0, 2.0, 1.0, math.nan]), "a.b", {"min": 1, "max": 2})
    assert few is not None
    assert few.columns.shape == (4, 1)
    assert term(pd.Series([1.0, 1.0]), "a.b") is None
    assert term(pd.Series([f"text {number}" for number in range(13)], dtype="object"), "a.b") is None
    assert term(pd.Series([], dtype="float64"), "a.b") is None
