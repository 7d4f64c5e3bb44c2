"""Perplexity against tokens: the fit, its intervals and what it refuses, against scipy and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from analysis.floor_law import fit_floor_law
from analysis.power_law import fit_power_law

TOKENS, PPL = [56_602, 110_516, 216_119], [799.42, 680.12, 500.12]
"""The original research's three points, from which it concluded that its model scales."""

SIZES = np.array([3e4, 1e5, 1e5, 4e5, 9e5, 3e6])
SCATTER = np.array([0.01, -0.03, 0.02, 0.015, -0.02, 0.005])
BENT = 500 * (SIZES / 1e5) ** -0.3 * np.exp(0.04 * np.log(SIZES / 1e5) ** 2 + SCATTER)
STRAIGHT = 500 * (SIZES / 1e5) ** -0.3 * np.exp(SCATTER)


def test_the_three_points_of_the_original_research() -> None:
    law = fit_power_law(TOKENS, PPL)
    assert (round(law.exponent, 4), round(law.coefficient, 2), round(law.r2, 4)) == (-0.3501, 37_791.58, 0.9690)
    assert (law.n, law.excluded) == (3, 0)
    line = stats.linregress(np.log(TOKENS), np.log(PPL))
    half = stats.t.ppf(0.975, 1) * line.stderr
    assert law.interval == pytest.approx((line.slope - half, line.slope + half))
    assert law.interval == pytest.approx((-1.15, 0.45), abs=0.005)
    assert not law.determined
    assert law.verdict == (
        "not determined: 3 points allow every exponent from -1.15 to 0.45 (95 % interval), so it is not known whether "
        "more data helps; the best fit is -0.35."
    )
    assert law.curvature_verdict == ""
    ten = law.predict(10e6)
    assert ten.estimate == pytest.approx(134, abs=0.5)
    assert ten.interval[1] > 100 * ten.interval[0], "the published extrapolation to 10 M tokens says nothing"
    assert str(ten).endswith("46 times beyond the data")


def test_all_numbers_of_a_law() -> None:
    law = fit_power_law(SIZES, BENT)
    x, y = np.log(SIZES), np.log(BENT)
    line = stats.linregress(x, y)
    half = stats.t.ppf(0.975, 4) * line.stderr
    assert (law.exponent, law.coefficient, law.r2) == pytest.approx(
        (line.slope, math.exp(line.intercept), line.rvalue**2)
    )
    assert law.interval == pytest.approx((line.slope - half, line.slope + half))
    assert law.doubling == pytest.approx(2**line.slope)
    assert law.doubling_interval == pytest.approx((2 ** (line.slope - half), 2 ** (line.slope + half)))
    at = np.array([1, math.log(2e7)])
    design = np.column_stack([np.ones(6), x])
    variance = ((y - line.intercept - line.slope * x) ** 2).sum() / 4
    wide = stats.t.ppf(0.975, 4) * math.sqrt(variance * (1 + at @ np.linalg.inv(design.T @ design) @ at))
    found, middle = law.predict(2e7), line.intercept + line.slope * math.log(2e7)
    assert found.estimate == pytest.approx(math.exp(middle))
    assert found.interval == pytest.approx((math.exp(middle - wide), math.exp(middle + wide)))
    assert found.beyond == pytest.approx(2e7 / 3e6)
    assert [law.predict(tokens).beyond for tokens in (3e4, 2e6, 3e6)] == [1, 1, 1]
    assert law.predict(1e4).beyond == pytest.approx(3)


@pytest.mark.parametrize(("ppl", "bends"), [(BENT, True), (STRAIGHT, False)])
def test_the_curvature_check_is_the_test_of_a_quadratic_term(ppl: np.ndarray, bends: bool) -> None:
    law = fit_power_law(SIZES, ppl)
    x, y = np.log(SIZES), np.log(ppl)
    design = np.column_stack([x**2, x, np.ones(6)])
    terms, (rest,), *_ = np.linalg.lstsq(design, y)
    error = math.sqrt(rest / 3 * np.linalg.inv(design.T @ design)[0, 0])
    assert law.curvature == pytest.approx(terms[0])
    assert law.curvature_p == pytest.approx(2 * stats.t.sf(abs(terms[0] / error), 3), rel=1e-5)
    assert law.bends is bends
    assert ("bend away" in law.predict(1e8).caution) is bends
    assert ("ever more slowly" in law.curvature_verdict) is bends


def test_a_law_in_a_sentence() -> None:
    assert fit_power_law(SIZES, STRAIGHT).verdict == (
        "Perplexity falls as tokens^-0.30 (95 % interval -0.32 to -0.28): doubling the data multiplies it by 0.81 "
        "(0.80 to 0.82)."
    )
    assert fit_power_law(SIZES, 1 / STRAIGHT).verdict.startswith("Perplexity rises as tokens^0.30 (")


def test_too_little_is_no_law() -> None:
    for tokens in ([], [1e5], [1e5, 2e5], [1e5, 1e5, 1e5, 2e5, 2e5]):
        law = fit_power_law(tokens, [500.0, 400.0, 450.0, 420.0, 410.0][: len(tokens)])
        assert not law.determined
        assert math.isnan(law.exponent)
        assert math.isnan(law.r2)
        assert "a law needs at least 3 different amounts of data, and there" in law.verdict
        with pytest.raises(ValueError, match="nothing can be predicted: a law needs"):
            law.predict(1e6)


def test_points_that_are_none_are_counted_and_left_out() -> None:
    law = fit_power_law([*TOKENS, 1e6, 0, -5, math.inf, 1e6, 1e6], [*PPL, math.nan, 300, 300, 300, math.inf, 0])
    assert (law.n, law.excluded) == (3, 6)
    assert law.exponent == fit_power_law(TOKENS, PPL).exponent
    with pytest.raises(ValueError, match="got 2 and 1"):
        fit_power_law([1, 2], [1])
    with pytest.raises(ValueError, match="must be positive, got 0"):
        law.predict(0)


def test_points_exactly_on_a_line_or_level() -> None:
    law = fit_power_law([1e4, 1e5, 1e6, 1e7], [800, 400, 200, 100])
    assert law.exponent == pytest.approx(-math.log10(2))
    assert (law.r2, law.curvature_p) == (pytest.approx(1), 1)
    level = fit_power_law([1e4, 1e5, 1e6, 1e7], [200, 200, 200, 200])
    assert level.exponent == 0
    assert math.isnan(level.r2)
    assert not level.determined


@given(st.floats(0.01, 100), st.floats(0.01, 100), st.permutations(range(6)))
def test_units_and_order_do_not_matter(tokens: float, ppl: float, order: list[int]) -> None:
    law, other = fit_power_law(SIZES, BENT), fit_power_law(tokens * SIZES[order], ppl * BENT[order])
    same = ("exponent", "r2", "curvature", "curvature_p", "spread")
    assert [getattr(other, name) for name in same] == pytest.approx([getattr(law, name) for name in same], rel=1e-6)
    assert other.interval == pytest.approx(law.interval)
    assert other.predict(tokens * 1e8).interval == pytest.approx([ppl * end for end in law.predict(1e8).interval])


def test_95_of_100_intervals_hold_the_truth() -> None:
    rng, held, foretold, bent = np.random.default_rng(6), 0, 0, 0
    for _ in range(1000):
        law = fit_power_law(SIZES, 500 * (SIZES / 1e5) ** -0.2 * np.exp(rng.normal(0, 0.05, 6)))
        low, high = law.predict(3e7).interval
        held += law.interval[0] <= -0.2 <= law.interval[1]
        foretold += low <= 500 * 300**-0.2 * math.exp(rng.normal(0, 0.05)) <= high
        bent += law.bends
    assert 930 <= held <= 970
    assert 930 <= foretold <= 970
    assert 30 <= bent <= 70


GEOMETRIC = np.geomspace(5e4, 5e7, 8)


def _residuals(free: np.ndarray, **fixed: float) -> np.ndarray:
    """Of ln PPL from a floor law whose other constants are in `free`: ln coefficient, then exponent or floor."""
    exponent, floor = fixed.get("exponent", free[-1]), fixed.get("floor", free[-1])
    curve = max(floor, 0.0) + np.exp(free[0] + exponent * (np.log(GEOMETRIC) - 14))
    return np.log(_floored(0.02)) - np.log(curve)


def _floored(noise: float, seed: int = 1) -> np.ndarray:
    scatter = np.random.default_rng(seed).normal(0, noise, len(GEOMETRIC))
    return (20 + 4000 * GEOMETRIC**-0.4) * np.exp(scatter)


def test_a_floor_law_against_general_least_squares() -> None:
    law = fit_floor_law(GEOMETRIC, _floored(0.02))
    curve = optimize.least_squares(
        lambda free: np.log(_floored(0.02)) - np.log(free[2] + np.exp(free[0] + free[1] * (np.log(GEOMETRIC) - 14))),
        [3, -0.3, 10], xtol=1e-15, ftol=1e-15, gtol=1e-15, x_scale=[1, 0.1, 10],
    )  # fmt: skip
    assert (law.exponent, law.floor) == pytest.approx((curve.x[1], curve.x[2]), rel=1e-4)
    most = 2 * curve.cost * (1 + stats.t.ppf(0.975, 5) ** 2 / 5)
    for name, interval, start in (("exponent", law.interval, 20), ("floor", law.floor_interval, -0.4)):
        for end in interval:
            profile = optimize.least_squares(lambda free, at={name: end}: _residuals(free, **at), [3, start])
            assert 2 * profile.cost == pytest.approx(most, rel=0.01), name
    assert law.interval[0] < -0.4 < law.interval[1]
    assert law.floor_interval[0] < 20 < law.floor_interval[1]


@pytest.mark.slow
def test_95_of_100_intervals_of_a_floor_law_hold_the_truth() -> None:
    held = foretold = 0
    for seed in range(100):
        law = fit_floor_law(GEOMETRIC, _floored(0.03, seed))
        held += law.interval[0] <= -0.4 <= law.interval[1]
        if law.determined:
            low, high = law.predict(5e8).interval
            noise = math.exp(np.random.default_rng(10_000 + seed).normal(0, 0.03))
            foretold += low <= (20 + 4000 * 5e8**-0.4) * noise <= high
    assert 89 <= held <= 99
    assert 89 <= foretold <= 100


def test_a_floor_that_the_data_cannot_tell() -> None:
    assert fit_floor_law(TOKENS, PPL).verdict.startswith("With an irreducible floor: not determined, a law needs at")
    noisy = fit_floor_law([1e4, 1e5, 1e6, 1e7], [800, 700, 400, 390])
    assert "not determined, it is not known whether more data helps." in noisy.verdict
    with pytest.raises(ValueError, match="nothing can be predicted"):
        noisy.predict(1e8)
    steep = fit_floor_law([1e4, 1e5, 1e6, 1e7], [900, 301, 299, 300.5])
    assert "the data allow every exponent below" in steep.verdict
    assert steep.interval[0] == -math.inf
    straight = fit_floor_law(SIZES, STRAIGHT)
    assert straight.determined
    assert straight.floor_interval[0] == 0
    assert "there may be none" in straight.verdict
