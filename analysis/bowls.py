"""The bowl that the loss makes over the learning rate, one for every group of trials, all of one shape.

With x = ln(learning rate) and z = ln(size of the group), the loss of a trial in group g is

    loss = a_g + k u^2 + c u^3 + noise,    u = x - (alpha + beta z)

which is linear in all but the line alpha + beta z of the lowest points. Around a line that is known the terms u and z u
say how far it is off, so that a few least-squares fits find it (Gauss-Newton).
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .least_squares import fit, t_quantile

CONFIDENCE = 0.95
WINDOWS = (1.4, 2.0)
"""Nats of the learning rate to both sides of the line that count: farther away the loss is no parabola. The narrow one
where the bowl is clear within it, else the wide one, whose lowest point is off by up to 0.1 nat where the bowl is
skewed, less than the noise then. Chosen by the learning rate alone; choosing by the loss would bias the line."""
CLEAR = 3.0
"""How many times as large as the bare significance of a curvature that is clear."""
LEAST_SPARE = 3
"""Cells more than unknowns; with fewer the noise cannot be told."""
_MOST_FITS, _STEADY, _DETERMINED = 30, 1e-4, 1e-6

Floats = NDArray[np.float64]


class NoBowl(Exception):
    """The cells do not determine a bowl; says why in words that follow `because`."""


@dataclass(frozen=True)
class Cells:
    """Configurations, each the mean over its seeds.

    Args:
        x: ln of the learning rate, shape (N,).
        z: ln of the group's size, shape (N,); equal within a group.
        loss: nats per token, shape (N,).
        seeds: trials in each mean, shape (N,).
        controls: what else differs between the trials and may move loss and best learning rate, shape (N, K).
    """

    x: Floats
    z: Floats
    loss: Floats
    seeds: Floats
    controls: Floats

    def where(self, keep: NDArray[np.bool_]) -> "Cells":
        """Some of the cells."""
        return Cells(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Fit:
    """A least-squares fit: coefficients, their covariance that holds for unequal noise (HC3), degrees of freedom."""

    coefficients: Floats
    covariance: Floats
    df: int
    residuals: Floats = field(repr=False)


@dataclass(frozen=True)
class Bowl:
    """The fitted bowls.

    Attributes:
        alpha: ln of the best learning rate where z = 0.
        beta: by how much it grows with z.
        fit: of the columns `u^2, u, z u, ...` around that line, so that its second and third coefficient are nearly 0.
        cells: those within the window.
    """

    alpha: float
    beta: float
    fit: Fit
    cells: Cells

    @property
    def curvature(self) -> float:
        """k, nats of loss per squared nat of learning rate."""
        return float(self.fit.coefficients[0])

    @property
    def clearness(self) -> float:
        """How many times as large the curvature is as it must be to be significant."""
        error = math.sqrt(float(self.fit.covariance[0, 0]))
        return self.curvature / (t_quantile((1 + CONFIDENCE) / 2, self.fit.df) * error) if error else math.inf

    @property
    def noise(self) -> float:
        """Standard deviation of one trial's loss around its bowl, nats per token."""
        return float(np.sqrt((self.cells.seeds * self.fit.residuals**2).sum() / self.fit.df))

    def u(self) -> Floats:
        """Distance of each kept cell from the line, nats."""
        return self.cells.x - self.alpha - self.beta * self.cells.z

    def line(self, z: float | Floats) -> float | Floats:
        """ln of the best learning rate by the line."""
        return self.alpha + self.beta * z


def least_squares(columns: Floats, loss: Floats, weights: Floats, needed: int) -> Fit:
    """Weighted least squares with White's covariance in the form HC3 (MacKinnon and White 1985).

    Small and large batches are not equally noisy, so the usual covariance would be wrong; HC3 errs to the safe side in
    small samples.

    Args:
        needed: so many of the first columns must be determined; the others may depend on each other, as a setting that
            only some trials have depends on the one that decides it.

    Raises:
        NoBowl: too few cells for the unknowns.
    """
    root = np.sqrt(weights)
    scaled = columns * root[:, None]
    plain = fit(scaled, loss * root)
    place = np.eye(columns.shape[1])[:needed]
    if plain.freedom < LEAST_SPARE or np.abs(place @ plain.known - place).max() > _DETERMINED:
        raise NoBowl("too few different trials ran to their end near the best learning rates")
    residuals = loss * root - scaled @ plain.coefficients
    leverage = np.einsum("ij,jk,ik->i", scaled, plain.spread, scaled).clip(0, 1 - 1e-6)
    meat = (scaled * (residuals / (1 - leverage))[:, None] ** 2).T @ scaled
    return Fit(plain.coefficients, plain.spread @ meat @ plain.spread, plain.freedom, residuals / root)


def levels(z: Floats) -> Floats:
    """One column of ones and zeros for each group."""
    return (z[:, None] == np.unique(z)[None, :]).astype(float)


def find(cells: Cells) -> Bowl:
    """The line of the lowest points and the shape of the bowls.

    Raises:
        NoBowl: the loss does not bend upwards beyond its noise, or the cells are too few.
    """
    wide = _find(cells, *_start(cells), WINDOWS[1])
    try:
        narrow = _find(cells, wide.alpha, wide.beta, WINDOWS[0])
    except NoBowl:
        return wide
    alike = len(np.unique(narrow.cells.z)) == len(np.unique(wide.cells.z))
    return narrow if alike and narrow.clearness > CLEAR else wide


def _find(cells: Cells, alpha: float, beta: float, window: float) -> Bowl:
    kept = np.ones(len(cells.x), dtype=bool)
    for attempt in range(_MOST_FITS):
        before, kept = kept, np.abs(cells.x - alpha - beta * cells.z) <= window
        near = cells.where(kept)
        u = near.x - alpha - beta * near.z
        found = _fit(near, [u**2, u, near.z * u, u**3], u)
        k, p, q = found.coefficients[:3].tolist()
        if k <= 0:
            raise NoBowl("the loss has no lowest point within the learning rates tried")
        bowl = Bowl(alpha, beta, found, near)
        off, tilt = -p / (2 * k), -q / (2 * k)
        if (kept == before).all() and max(abs(off), abs(tilt)) < _STEADY:
            break
        # Halved when a cell goes in and out of the window for ever.
        rate = 1.0 if attempt < _MOST_FITS / 2 else 0.5
        alpha += rate * min(max(off, -1.0), 1.0)
        beta += rate * min(max(tilt, -0.5), 0.5)
    return bowl


def _start(cells: Cells) -> tuple[float, float]:
    """The line through the lowest cell of each group."""
    groups = np.unique(cells.z)
    lowest = [cells.x[cells.z == z][np.argmin(cells.loss[cells.z == z])] for z in groups]
    beta, alpha = np.polyfit(groups, lowest, 1)
    return float(alpha), float(np.clip(beta, -2, 2))


def _fit(cells: Cells, own: list[Floats], u: Floats) -> Fit:
    """The loss on some columns, a level for each group, and what other settings do to loss and optimum."""
    shape = np.column_stack(own)
    columns = np.column_stack([shape, levels(cells.z), cells.controls, cells.controls * u[:, None]])
    return least_squares(columns, cells.loss, cells.seeds, shape.shape[1])


def bent(bowl: Bowl) -> Fit:
    """The same fit with a fifth column z^2 u, which lets the exponent change with the size.

    Raises:
        NoBowl: too few cells for it.
    """
    z, u = bowl.cells.z, bowl.u()
    return _fit(bowl.cells, [u**2, u, z * u, u**3, z * z * u], u)


def own_lines(bowl: Bowl) -> Fit:
    """The same shape with a lowest point of its own for every group.

    Columns `u^2`, then u of each group by z, `u^3`, then the level of each group.

    Raises:
        NoBowl: too few cells for them.
    """
    u, of_group = bowl.u(), levels(bowl.cells.z)
    return _fit(bowl.cells, [u**2, of_group * u[:, None], u**3], u)


def lowest(fit: Fit, columns: list[int], at: Floats) -> tuple[float, float, float]:
    """Lower end, value and upper end of -(at . coefficients[columns]) / (2 k): where the slope of the bowl is zero.

    Fieller's interval of a ratio; without bounds where k itself is not certain to be positive.
    """
    k, variance = float(fit.coefficients[0]), fit.covariance
    top = -float(at @ fit.coefficients[columns]) / 2
    tt = float(at @ variance[np.ix_(columns, columns)] @ at) / 4
    tk = -float(at @ variance[columns, 0]) / 2
    squared = t_quantile((1 + CONFIDENCE) / 2, fit.df) ** 2
    a = k * k - squared * float(variance[0, 0])
    half = top * k - squared * tk
    root = half * half - a * (top * top - squared * tt)
    if k <= 0 or a <= 0 or root < 0:
        return -math.inf, top / k, math.inf
    return (half - math.sqrt(root)) / a, top / k, (half + math.sqrt(root)) / a


def exponential(x: float) -> float:
    """exp(x), infinite where no number is so large: a bowl that is hardly one has its lowest point anywhere."""
    return math.exp(x) if x < 700 else math.inf
