"""Perplexity against data as a power law, with what is not known of it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .words import digits

Interval = tuple[float, float]

LEAST_SIZES = 3
"""Different numbers of tokens; a line through two is no law, however often each was measured."""

SIGNIFICANT = 0.05

ROUNDING = 1e-24
"""Squared residuals of logarithms that are nothing but rounding."""


@dataclass(frozen=True)
class Prediction:
    """What a law says of one number of tokens: never the estimate alone.

    Attributes:
        tokens: asked for.
        estimate: perplexity on the line.
        interval: 95 % prediction interval for one further measurement (perplexity).
        beyond: how many times larger than the largest measured number of tokens, or smaller than the smallest one;
            1 within them.
        caution: why even the interval may be too narrow; empty where nothing speaks against it.
    """

    tokens: float
    estimate: float
    interval: Interval
    beyond: float
    caution: str

    def __str__(self) -> str:
        low, high = (digits(end, 3) for end in self.interval)
        words = f"perplexity {digits(self.estimate, 3)} at {digits(self.tokens, 3)} tokens "
        words += f"(95 % prediction interval {low} to {high})"
        return f"{words}; {self.caution}" if self.caution else words


@dataclass(frozen=True)
class PowerLaw:
    """PPL = coefficient * tokens^exponent, by least squares of ln PPL on ln tokens.

    All intervals hold 95 % by the t-distribution with n - 2 degrees of freedom. They assume that the points scatter
    about one straight line (in logarithms) independently and with equal variance. Numbers that cannot be had are NaN.

    Attributes:
        exponent: alpha; negative where more data helps.
        coefficient: A, the perplexity that the line has at one token.
        interval: of the exponent.
        r2: share of the variance of ln PPL that the line explains.
        n: points that count.
        excluded: points left out, because a number of them is not finite or not positive.
        doubling: factor of the perplexity for twice the data, 2^exponent.
        doubling_interval: of that factor.
        curvature: coefficient of (ln tokens)^2 where it is added to the line; positive: the fall slows down.
        curvature_p: its p-value by the t-test with n - 3 degrees of freedom; NaN below four points.
        spread: standard deviation of ln PPL about the line.
        measured: the smallest and the largest number of tokens.
        centre: mean of ln tokens.
        level: mean of ln PPL, which the line has at the centre.
        leverage: sum of squared deviations of ln tokens from the centre.
        reason: why there is no law; empty where there is one.
    """

    exponent: float
    coefficient: float
    interval: Interval
    r2: float
    n: int
    excluded: int
    doubling: float
    doubling_interval: Interval
    curvature: float
    curvature_p: float
    spread: float
    measured: Interval
    centre: float
    level: float
    leverage: float
    reason: str

    @property
    def determined(self) -> bool:
        """Whether the interval says that perplexity falls, or that it rises."""
        return not self.reason and not self.interval[0] <= 0 <= self.interval[1]

    @property
    def bends(self) -> bool:
        """Whether the points lie on a curve rather than on a line (5 % level)."""
        return self.curvature_p < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """In one sentence what the points say of the law."""
        if self.reason:
            return f"not determined: {self.reason}."
        low, high = ends(self.interval)
        if not self.determined:
            return (
                f"not determined: {self.n} points allow every exponent from {low} to {high} (95 % interval), so it is "
                f"not known whether more data helps; the best fit is {near(self.exponent, self.interval)}."
            )
        does = "falls" if self.exponent < 0 else "rises"
        less, more = ends(self.doubling_interval)
        return (
            f"Perplexity {does} as tokens^{near(self.exponent, self.interval)} (95 % interval {low} to {high}): "
            f"doubling the data multiplies it by {near(self.doubling, self.doubling_interval)} ({less} to {more})."
        )

    @property
    def curvature_verdict(self) -> str:
        """In one sentence whether the points bend away from the line; empty where that cannot be tested."""
        if math.isnan(self.curvature_p):
            return ""
        if not self.bends:
            return f"No bend away from the law is seen (p = {digits(self.curvature_p, 2)})."
        how = "ever more slowly" if self.curvature > 0 else "ever faster"
        return (
            f"The points bend away from the law (p = {digits(self.curvature_p, 2)}): perplexity changes {how} than it "
            "says, so do not trust it beyond the data."
        )

    def predict(self, tokens: float) -> Prediction:
        """The perplexity to expect at a number of tokens, with its prediction interval.

        exp(level + alpha (x - centre) ± t s sqrt(1 + 1/n + (x - centre)^2 / leverage)) with x = ln tokens.

        Raises:
            ValueError: there is no law and hence no interval, or the number of tokens is not positive.
        """
        if self.reason:
            raise ValueError(f"nothing can be predicted: {self.reason}")
        beyond = distance(tokens, self.measured)
        offset = math.log(tokens) - self.centre
        middle = self.level + self.exponent * offset
        half = quantile(self.n - 2) * self.spread * math.sqrt(1 + 1 / self.n + offset**2 / self.leverage)
        interval = (exponential(middle - half), exponential(middle + half))
        return Prediction(tokens, exponential(middle), interval, beyond, self._caution(beyond))

    def _caution(self, beyond: float) -> str:
        said = [f"{digits(beyond, 2)} times beyond the data"] if beyond > 1 else []
        said += ["the points bend away from the law"] if self.bends else []
        return ", ".join(said)


def fit_power_law(tokens: ArrayLike, ppl: ArrayLike) -> PowerLaw:
    """Fit PPL = A * tokens^alpha.

    Args:
        tokens: `[n]`, training tokens; several measurements at an equal number are fine.
        ppl: `[n]`, perplexities.

    Returns:
        the law; below three different numbers of tokens one with a `reason` and no exponent.

    Raises:
        ValueError: the two differ in length.
    """
    x, y, excluded = logarithms(tokens, ppl)
    if reason := too_few(x, LEAST_SIZES):
        return _no_law(x, excluded, reason)
    n, centre, level = len(x), float(x.mean()), float(y.mean())
    across, up = x - centre, y - level
    leverage, total = float((across**2).sum()), float((up**2).sum())
    exponent = float((across * up).sum()) / leverage if total > ROUNDING else 0.0
    rest = float(((up - exponent * across) ** 2).sum())
    spread = math.sqrt(rest / (n - 2))
    half = quantile(n - 2) * spread / math.sqrt(leverage)
    interval = (exponent - half, exponent + half)
    curvature, curvature_p = _curvature(across, y, rest)
    return PowerLaw(
        exponent=exponent,
        coefficient=exponential(level - exponent * centre),
        interval=interval,
        r2=1 - rest / total if total > ROUNDING else math.nan,
        n=n,
        excluded=excluded,
        doubling=2**exponent,
        doubling_interval=(exponential(interval[0] * math.log(2)), exponential(interval[1] * math.log(2))),
        curvature=curvature,
        curvature_p=curvature_p,
        spread=spread,
        measured=(math.exp(x.min()), math.exp(x.max())),
        centre=centre,
        level=level,
        leverage=leverage,
        reason="",
    )


def logarithms(tokens: ArrayLike, ppl: ArrayLike) -> tuple[NDArray[Any], NDArray[Any], int]:
    """ln tokens `[n]` and ln PPL `[n]` of the points that have both, and how many have not.

    Raises:
        ValueError: the two differ in length.
    """
    x, y = (np.asarray(values, dtype="float64").ravel() for values in (tokens, ppl))
    if x.shape != y.shape:
        raise ValueError(f"each number of tokens must have a perplexity, got {len(x)} and {len(y)}")
    usable = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    return np.log(x[usable]), np.log(y[usable]), int((~usable).sum())


def too_few(x: NDArray[Any], least: int) -> str:
    """Why points at these ln tokens make no law; empty where they do. Sizes within 0.1 % count as one."""
    sizes = int((np.diff(np.sort(x)) > 1e-3).sum()) + 1 if len(x) else 0
    if sizes >= least:
        return ""
    return f"a law needs at least {least} different amounts of data, and there {'is' if sizes == 1 else 'are'} {sizes}"


def quantile(freedom: int) -> float:
    """The 97.5 % quantile of the t-distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def exponential(value: float) -> float:
    """exp; infinite, not an error, where it is beyond all numbers."""
    return math.exp(value) if value < 700 else math.inf


def distance(tokens: float, measured: Interval) -> float:
    """See `Prediction.beyond`.

    Raises:
        ValueError: the number of tokens is not positive.
    """
    if not 0 < tokens < math.inf:
        raise ValueError(f"a number of tokens must be positive, got {tokens}")
    # The ends went through a logarithm and back.
    ratio = max(tokens / measured[1], measured[0] / tokens)
    return ratio if ratio > 1 + 1e-9 else 1.0


def near(value: float, interval: Interval) -> str:
    """A number in no more digits than its interval makes worth reading."""
    width = interval[1] - interval[0]
    places = min(6, max(2, math.ceil(-math.log10(width)))) if 0 < width < math.inf else 2
    text = f"{value:.{places}f}" if abs(value) < 1e6 else digits(value, 3)
    return text.removeprefix("-") if not float(text) else text


def ends(interval: Interval) -> tuple[str, str]:
    """Both ends of an interval, `near`."""
    return near(interval[0], interval), near(interval[1], interval)


def _curvature(x: NDArray[Any], y: NDArray[Any], straight: float) -> tuple[float, float]:
    """The coefficient of a quadratic term and its p-value, of centred ln tokens."""
    from scipy.special import stdtr

    freedom = len(x) - 3
    if freedom < 1:
        return math.nan, math.nan
    if straight < ROUNDING:
        return 0.0, 1.0
    terms = np.vander(x, 3)
    solution = np.linalg.lstsq(terms, y, rcond=None)[0]
    rest = max(float(((y - terms @ solution) ** 2).sum()), ROUNDING)
    # With one term more, t^2 is the fall of the squared residuals over what is left of them.
    t = math.sqrt(max(0.0, straight - rest) / (rest / freedom))
    return float(solution[0]), float(2 * stdtr(freedom, -t))


def _no_law(x: NDArray[Any], excluded: int, reason: str) -> PowerLaw:
    nan, none = math.nan, (math.nan, math.nan)
    measured = (math.exp(x.min()), math.exp(x.max())) if len(x) else none
    return PowerLaw(nan, nan, none, nan, len(x), excluded, nan, none, nan, nan, nan, measured, nan, nan, nan, reason)
