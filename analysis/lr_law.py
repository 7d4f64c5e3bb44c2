"""How the best learning rate follows the batch size, or the size of the model: lr* = coefficient * size^exponent."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from .bowls import Bowl, Fit, Floats, exponential, lowest

BENT = 0.01
"""Probability by chance below which a bend is claimed; a single exponent is a good summary of a slight one."""
BATCH, SIZE = "training.batch_size", "model_size"
EXPONENTS: Mapping[str, Mapping[str, float]] = {
    BATCH: {"no scaling": 0.0, "square-root scaling": 0.5, "linear scaling": 1.0},
    SIZE: {"no scaling": 0.0, "inverse square-root scaling": -0.5},
}
"""The laws that are told apart, by what they follow: their names and exponents."""
FEWEST_RATES = 3
"""Different learning rates near its best one that a group needs: fewer show no bowl."""

Position = Literal["inside", "low edge", "high edge", "too few"]


class Interval(NamedTuple):
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Whether the value lies in it."""
        return self.low <= value <= self.high


class Optimum(NamedTuple):
    """Where one batch size (or model size) has its lowest loss.

    Attributes:
        size: the batch size or the number of parameters.
        position: `inside` the learning rates tried; at an `edge` of them, where the lowest loss is still to be found;
            or `too few` different ones were tried near it.
        lr: the best learning rate; NaN unless it is inside.
        interval: 95 %; None where it is not bounded.
        tried: lowest and highest learning rate of the trials that ran to their end or were stopped early.
        diverged: lowest learning rate above those that diverged, an upper bound; NaN without one.
        trials: trials that ran to their end.
    """

    size: float
    position: Position
    lr: float
    interval: Interval | None
    tried: Interval
    diverged: float
    trials: int


class Recommendation(NamedTuple):
    """The best learning rate for one size by the law."""

    lr: float
    interval: Interval | None
    """95 %; None where the trials do not bound it."""
    beyond: float
    """How many times the size lies outside the sizes measured; 1 within them."""


class Bend(NamedTuple):
    """Whether the exponent changes with the size."""

    p: float
    """Probability of such a bend by chance where there is none."""
    small: float
    """Exponent at the smallest size."""
    large: float
    """Exponent at the largest."""
    turn: float
    """Size beyond which the best learning rate no longer follows it; NaN if that is not between the sizes measured."""


@dataclass(frozen=True)
class LrLaw:
    """lr* = coefficient * size^exponent.

    Attributes:
        against: the column that the sizes come from.
        verdict: the one law of `EXPONENTS` that fits; `neither` where none does; `bend` where no single exponent does;
            or `not determined`, for the `reason`.
        exponent, coefficient: NaN where there is no fit.
        interval: 95 % interval of the exponent; None where there is no fit.
        p: by name of a law, the probability of data as far from it if it held.
        bend: None with fewer than three sizes.
        curvature: k of the bowls, nats of loss per squared nat of learning rate.
        noise: standard deviation of one trial around its bowl, nats per token.
        n: trials in the fit.
        excluded: why how many trials are not in it.
        optima: of every size, the smallest first.
    """

    against: str
    verdict: str
    reason: str
    exponent: float
    coefficient: float
    interval: Interval | None
    p: Mapping[str, float]
    bend: Bend | None
    curvature: float
    noise: float
    n: int
    excluded: Mapping[str, int]
    optima: tuple[Optimum, ...]
    _bowl: Bowl | None = field(default=None, repr=False, compare=False)
    _own: Fit | None = field(default=None, repr=False, compare=False)
    _bent: Fit | None = field(default=None, repr=False, compare=False)
    _centre: float = field(default=0.0, repr=False)

    @property
    def possible(self) -> list[str]:
        """The laws whose exponent lies in the interval."""
        return [] if self.interval is None else [name for name, b in self._laws.items() if self.interval.holds(b)]

    @property
    def _laws(self) -> Mapping[str, float]:
        return EXPONENTS.get(self.against, {})

    def predict(self, size: float) -> Recommendation:
        """The best learning rate for a size, by the bent law where the bend is significant.

        Raises:
            ValueError: no law was found, or the size is not positive.
        """
        if self._bowl is None:
            raise ValueError(f"there is no law to recommend a learning rate by: {self.reason}")
        if not size > 0:
            raise ValueError(f"a size must be positive, got {size}")
        z = math.log(size) - self._centre
        bent = self._bent if self.verdict == "bend" else None
        fit, terms = (self._bowl.fit, [1.0, z]) if bent is None else (bent, [1.0, z, z * z])
        columns = [1, 2] if bent is None else [1, 2, 4]
        low, off, high = lowest(fit, columns, np.array(terms))
        line = float(self._bowl.line(z))
        interval = None if math.isinf(low) else Interval(exponential(line + low), exponential(line + high))
        sizes = [each.size for each in self.optima if each.position == "inside"]
        return Recommendation(exponential(line + off), interval, max(1.0, size / max(sizes), min(sizes) / size))

    def bowl(self, size: float, points: int = 41) -> tuple[Floats, Floats]:
        """Learning rates and the losses of the fitted bowl of one size, where there are trials; empty without one."""
        if self._bowl is None or self._own is None:
            return np.empty(0), np.empty(0)
        groups = np.unique(self._bowl.cells.z)
        at = np.flatnonzero(np.isclose(groups, math.log(size) - self._centre))
        if not at.size:
            return np.empty(0), np.empty(0)
        group, fit = int(at[0]), self._own.coefficients
        mine = self._bowl.cells.z == groups[group]
        u = np.linspace(self._bowl.u()[mine].min(), self._bowl.u()[mine].max(), points)
        slope, cubic, level = fit[1 + group], fit[1 + len(groups)], fit[2 + len(groups) + group]
        loss = level + fit[0] * u**2 + slope * u + cubic * u**3
        return np.exp(u + self._bowl.alpha + self._bowl.beta * groups[group]), loss
