"""Perplexity against data as a power law above an irreducible floor."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .power_law import (
    ROUNDING,
    Interval,
    Prediction,
    distance,
    ends,
    exponential,
    logarithms,
    near,
    quantile,
    too_few,
)
from .words import digits

LEAST_SIZES = 4
"""Different numbers of tokens: a curve of three constants goes through any three points that fall."""

EXPONENTS = -np.geomspace(1e-3, 5, 61)
"""Where the fit looks; language models are found between -0.05 and -0.5."""

RATIOS = np.concatenate([[0.0], np.geomspace(1e-4, 1e4, 49)])
"""Floors that are tried, over what lies above the floor at the smallest number of tokens."""


class _Curve(NamedTuple):
    """ln PPL = base + ln(ratio + exp(exponent * (ln tokens - ln of the smallest tokens)))."""

    exponent: float
    ratio: float
    base: float
    rest: float
    """Sum of squared residuals; `base` makes it least."""

    def at(self, offset: float) -> float:
        return self.base + math.log(self.ratio + exponential(self.exponent * offset))

    @property
    def floor(self) -> float:
        return self.ratio * exponential(self.base)


@dataclass(frozen=True)
class FloorLaw:
    """PPL = floor + coefficient * tokens^exponent, by least squares of ln PPL, with floor >= 0 and exponent < 0.

    Intervals are 95 % by profile likelihood: all values with which the sum of squared residuals can stay within
    (1 + t^2 / (n - 3)) times its minimum, t being the 97.5 % quantile of the t-distribution with n - 3 degrees of
    freedom. They assume that the points scatter about the curve (in ln PPL) independently and with equal variance.

    Attributes:
        exponent, coefficient, floor: of the best fit, the floor a perplexity; NaN below four numbers of tokens.
        interval: of the exponent; infinite on a side where the data set no bound.
        floor_interval: of the floor; NaN where the exponent is not determined.
        n: points that count.
        excluded: points left out, because a number of them is not finite or not positive.
        spread: standard deviation of ln PPL about the curve.
        measured: the smallest and the largest number of tokens.
        allowed: curves that the data allow, each with how far ln PPL may lie from it.
        reason: why the data do not determine the law; empty where they do.
    """

    exponent: float
    coefficient: float
    floor: float
    interval: Interval
    floor_interval: Interval
    n: int
    excluded: int
    spread: float
    measured: Interval
    allowed: tuple[tuple[_Curve, float], ...]
    reason: str

    @property
    def determined(self) -> bool:
        """Whether the data bound the exponent on both sides."""
        return not self.reason

    @property
    def above_zero(self) -> bool:
        """Whether the data say that there is a floor."""
        return self.determined and self.floor_interval[0] > 0

    @property
    def verdict(self) -> str:
        """In one sentence what the points say of a floor."""
        if self.reason:
            return f"With an irreducible floor: not determined, {self.reason}."
        low, high = ends(self.interval)
        words = f"With an irreducible floor the exponent is {near(self.exponent, self.interval)} ({low} to {high}) and "
        least, most = (digits(end, 3) for end in self.floor_interval)
        if not self.above_zero:
            return f"{words}the floor is at most {most}; there may be none."
        return f"{words}the floor is {digits(self.floor, 3)} ({least} to {most}), below which no amount of data leads."

    def predict(self, tokens: float) -> Prediction:
        """The perplexity to expect at a number of tokens, with its prediction interval: how far the curves that the
        data allow lie from the best, and the spread about them, added in quadrature (ln PPL).

        Raises:
            ValueError: the data do not determine the law, or the number of tokens is not positive.
        """
        if self.reason:
            raise ValueError(f"nothing can be predicted: {self.reason}")
        beyond = distance(tokens, self.measured)
        offset, noise = math.log(tokens / self.measured[0]), quantile(self.n - 3) * self.spread
        estimate = self.floor + self.coefficient * tokens**self.exponent
        middle = math.log(estimate)
        low = min(curve.at(offset) - slack for curve, slack in self.allowed)
        high = max(curve.at(offset) + slack for curve, slack in self.allowed)
        interval = (
            exponential(middle - math.hypot(middle - low, noise)),
            exponential(middle + math.hypot(high - middle, noise)),
        )
        return Prediction(
            tokens, estimate, interval, beyond, f"{digits(beyond, 2)} times beyond the data" if beyond > 1 else ""
        )


def fit_floor_law(tokens: ArrayLike, ppl: ArrayLike) -> FloorLaw:
    """Fit PPL = floor + A * tokens^alpha.

    Args:
        tokens: `[n]`, training tokens; several measurements at an equal number are fine.
        ppl: `[n]`, perplexities.

    Returns:
        the law; one with a `reason` where the data cannot tell the exponent.

    Raises:
        ValueError: the two differ in length.
    """
    x, y, excluded = logarithms(tokens, ppl)
    return _fitted(tuple(x.tolist()), tuple(y.tolist()), excluded)


@lru_cache(maxsize=16)
def _fitted(logs: tuple[float, ...], heights: tuple[float, ...], excluded: int) -> FloorLaw:
    """Remembered, because answers, summary and figures of one sweep ask for the same law."""
    x, y = np.array(logs), np.array(heights)
    nan, none = math.nan, (math.nan, math.nan)
    if reason := too_few(x, LEAST_SIZES):
        return FloorLaw(nan, nan, nan, none, none, len(x), excluded, nan, none, (), reason)
    n, first = len(x), float(x.min())
    fit = _Fit(x - first, y)
    best, most = fit.best, fit.most
    interval = _reach(lambda exponent: fit.profile(exponent).rest, EXPONENTS, best.exponent, most)
    reason = _unbounded(interval)
    allowed = () if reason else tuple(fit.allowed(interval))
    floors = [curve.ratio * exponential(curve.base + side * slack) for curve, slack in allowed for side in (-1, 1)]
    return FloorLaw(
        exponent=best.exponent,
        coefficient=exponential(best.base - best.exponent * first),
        floor=best.floor,
        interval=interval,
        floor_interval=(min(floors), max(floors)) if floors else none,
        n=n,
        excluded=excluded,
        spread=math.sqrt(best.rest / (n - 3)),
        measured=(math.exp(first), math.exp(x.max())),
        allowed=allowed,
        reason=reason,
    )


def _unbounded(interval: Interval) -> str:
    low, high = interval
    if high == math.inf:
        return "it is not known whether more data helps"
    return f"the data allow every exponent below {near(high, (high, high))}" if low == -math.inf else ""


class _Fit:
    """The sum of squared residuals as a function of exponent and ratio, at ln tokens `x` from the smallest on."""

    def __init__(self, x: NDArray[Any], y: NDArray[Any]) -> None:
        self.x, self.y = x, y
        self._profiles: dict[float, _Curve] = {}
        start = min(map(self.profile, EXPONENTS.tolist()), key=lambda curve: curve.rest)
        self.best = min(start, self._polished(start), key=lambda curve: curve.rest)
        freedom = len(x) - 3
        self.most = self.best.rest * (1 + quantile(freedom) ** 2 / freedom) + ROUNDING

    def curve(self, exponent: float, ratio: float) -> _Curve:
        above = self.y - np.log(ratio + np.exp(exponent * self.x))
        base = float(above.mean())
        return _Curve(exponent, ratio, base, float(((above - base) ** 2).sum()))

    def profile(self, exponent: float) -> _Curve:
        """The best curve with this exponent."""
        if exponent not in self._profiles:
            self._profiles[exponent] = self._profile(exponent)
        return self._profiles[exponent]

    def _profile(self, exponent: float) -> _Curve:
        above = self.y - np.log(RATIOS[:, None] + np.exp(exponent * self.x))
        rest = above.var(axis=1)
        at = int(rest.argmin())
        low, high = max(at - 1, 1), min(at + 1, len(RATIOS) - 1)
        found = _lowest(lambda log: self.curve(exponent, math.exp(log)).rest, *np.log(RATIOS[[low, high]]))
        near_zero, tried = self.curve(exponent, float(RATIOS[at])), self.curve(exponent, math.exp(found))
        return min(near_zero, tried, key=lambda curve: curve.rest)

    def _polished(self, start: _Curve) -> _Curve:
        at = EXPONENTS.tolist().index(start.exponent)
        steep, flat = EXPONENTS[min(at + 1, len(EXPONENTS) - 1)], EXPONENTS[max(at - 1, 0)]
        found = _lowest(lambda log: self.profile(-math.exp(log)).rest, math.log(-flat), math.log(-steep))
        return self.profile(-math.exp(found))

    def allowed(self, interval: Interval) -> list[tuple[_Curve, float]]:
        """Curves throughout the region that `most` bounds, and how far `base` may lie from theirs."""
        curves = []
        for exponent in [*-np.geomspace(-interval[0], -interval[1], 25), self.best.exponent]:
            middle = self.profile(float(exponent))
            low, high = self._ratios(middle)
            ratios = np.linspace(max(low, 0.0), min(high, RATIOS[-1]), 9)
            curves += [middle, *(self.curve(middle.exponent, float(ratio)) for ratio in ratios)]
        return [(curve, math.sqrt(max(0.0, self.most - curve.rest) / len(self.x))) for curve in curves]

    def _ratios(self, middle: _Curve) -> Interval:
        return _reach(lambda ratio: self.curve(middle.exponent, ratio).rest, RATIOS, middle.ratio, self.most)


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    from scipy.optimize import minimize_scalar

    return float(minimize_scalar(function, bounds=(low, high), method="bounded", options={"xatol": 1e-8}).x)


def _reach(function: Callable[[float], float], grid: NDArray[Any], inside: float, most: float) -> Interval:
    """How far the values with `function` <= `most` reach around `inside`; infinite beyond the ends of the grid."""
    from scipy.optimize import brentq

    tried = sorted({*grid.tolist(), inside})
    within = [value for value in tried if value == inside or function(value) <= most]

    def end(last: float, step: int) -> float:
        at = tried.index(last) + step
        if not 0 <= at < len(tried):
            return step * math.inf
        if function(last) >= most:
            return last
        return float(brentq(lambda value: function(value) - most, last, tried[at], xtol=1e-12))

    return end(within[0], -1), end(within[-1], 1)
