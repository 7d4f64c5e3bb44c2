"""The law of the best learning rate, fitted to trials.

One joint fit of bowls (`bowls`) over trials of equal final budget gives the exponent, with an interval that holds for
unequal noise. It assumes that the bowls of all groups have one shape, that trials are independent, and that the
optima lie on one power of the size; the last is tested. How well the intervals keep their promise on simulated sweeps:
`benchmarks/calibration.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from . import bowls
from .bowls import Bowl, Cells, Fit, NoBowl
from .least_squares import t_tail
from .lr_cells import Left, cells_of
from .lr_law import BATCH, BENT, EXPONENTS, FEWEST_RATES, SIZE, Bend, Interval, LrLaw, Optimum, Position


def fit_lr_batch_law(trials: pd.DataFrame) -> LrLaw:
    """How the best learning rate follows the batch size.

    Args:
        trials: `Sweep.trials`, or those of several sweeps of one kind below each other; read are `lr`, `value`,
            `training.batch_size`, and where present `state`, `full_fidelity`, `config_id` and every other searched
            path, whose effect on the loss and on the best learning rate is fitted along.

    Raises:
        ValueError: a column is missing.
    """
    return fit_lr_law(trials, BATCH)


def fit_lr_size_law(trials: pd.DataFrame) -> LrLaw:
    """How the best learning rate follows the number of parameters; otherwise as `fit_lr_batch_law`."""
    return fit_lr_law(trials, SIZE)


def fit_lr_law(trials: pd.DataFrame, against: str) -> LrLaw:
    """The law for any column of positive numbers."""
    cells, left = cells_of(trials, against)
    centre = float(np.log(left.sizes).mean()) if len(left.sizes) else 0.0
    cells = replace(cells, z=cells.z - centre)
    positions: dict[float, Position] = {}
    tried = [(math.log(each.lowest), math.log(each.highest)) for each in left.groups]
    ends = dict(zip((np.log(left.sizes) - centre).tolist(), tried, strict=True))
    try:
        bowl, own = _resolved(cells, ends, positions)
    except NoBowl as why:
        optima = _optima(left, positions, centre, None, None)
        return LrLaw(
            against, "not determined", str(why), math.nan, math.nan, None, {}, None, math.nan, math.nan, 0,
            left.excluded, optima,
        )  # fmt: skip
    bent, bend = _bend(bowl, centre)
    interval, p = _exponents(bowl, EXPONENTS.get(against, {}))
    excluded = dict(left.excluded)
    excluded |= {"far from the best learning rate, or at an edge": int(cells.seeds.sum() - bowl.cells.seeds.sum())}
    verdict, reason = _verdict(interval, bend, EXPONENTS.get(against, {}))
    return LrLaw(
        against, verdict, reason, bowl.beta, bowls.exponential(bowl.alpha - bowl.beta * centre), interval, p, bend,
        bowl.curvature, bowl.noise, int(bowl.cells.seeds.sum()), {k: v for k, v in excluded.items() if v},
        _optima(left, positions, centre, bowl, own), bowl, own, bent, centre,
    )  # fmt: skip


def _resolved(
    cells: Cells, tried: Mapping[float, tuple[float, float]], positions: dict[float, Position]
) -> tuple[Bowl, Fit]:
    """The joint fit of those groups whose lowest point lies inside what they tried; where the others lie."""
    used = cells
    while True:
        for z in np.unique(used.z):
            if len(np.unique(used.x[used.z == z])) < FEWEST_RATES:
                positions[float(z)] = "too few"
        used = cells.where(~np.isin(cells.z, list(positions)))
        if len(np.unique(used.z)) < 2:
            raise NoBowl(_too_few_groups(len(np.unique(used.z)), positions))
        try:
            bowl = bowls.find(used)
            shown = {z: len(np.unique(bowl.cells.x[bowl.cells.z == z])) for z in np.unique(used.z)}
            thin = [float(z) for z, count in shown.items() if count < FEWEST_RATES]
            outside = {} if thin else _outside(tried, bowl)
        except NoBowl:
            lowest = _lowest_at_edge(used, tried)
            if not lowest:
                raise
            positions |= lowest
            continue
        if not thin and not outside:
            return bowl, bowls.own_lines(bowl)
        # One at a time: a group whose optimum is not there pulls at the line of all others.
        positions |= dict.fromkeys(thin[:1], "too few") if thin else outside


def _too_few_groups(count: int, positions: Mapping[float, Position]) -> str:
    edges = sum("edge" in each for each in positions.values())
    have = f"only {count}" if count else "none"
    words = f"{have} of {count + len(positions)} sizes has its best learning rate well inside those tried"
    return words + (f"; {edges} of them have it at an edge" if edges else "")


def _outside(tried: Mapping[float, tuple[float, float]], bowl: Bowl) -> dict[float, Position]:
    """The group whose lowest point lies farthest outside the learning rates that it tried, if any does."""
    own = bowls.own_lines(bowl)
    found: dict[float, tuple[float, Position]] = {}
    for index, z in enumerate(np.unique(bowl.cells.z)):
        lowest = float(bowl.line(z)) + bowls.lowest(own, [1 + index], np.ones(1))[1]
        low, high = _of(tried, float(z))
        if lowest < low:
            found[float(z)] = (low - lowest, "low edge")
        elif lowest > high:
            found[float(z)] = (lowest - high, "high edge")
    if not found:
        return {}
    worst = max(found, key=lambda z: found[z][0])
    return {worst: found[worst][1]}


def _of(tried: Mapping[float, tuple[float, float]], z: float) -> tuple[float, float]:
    return tried[min(tried, key=lambda each: abs(each - z))]


def _lowest_at_edge(cells: Cells, tried: Mapping[float, tuple[float, float]]) -> dict[float, Position]:
    """Groups whose lowest cell is the first or the last of the learning rates that they tried."""
    found: dict[float, Position] = {}
    for z in np.unique(cells.z):
        x = cells.x[cells.z == z]
        best = x[np.argmin(cells.loss[cells.z == z])]
        low, high = _of(tried, float(z))
        if best in (x.min(), x.max()) and not low < best < high:
            found[float(z)] = "low edge" if best == x.min() else "high edge"
    return found


def _exponents(bowl: Bowl, laws: Mapping[str, float]) -> tuple[Interval, dict[str, float]]:
    low, _, high = bowls.lowest(bowl.fit, [2], np.ones(1))
    fit = bowl.fit
    p = {}
    for name, exponent in laws.items():
        at = np.array([2 * (exponent - bowl.beta), 1.0])
        variance = float(at @ fit.covariance[np.ix_([0, 2], [0, 2])] @ at)
        p[name] = t_tail(float(at @ fit.coefficients[[0, 2]]) / math.sqrt(variance), fit.df)
    return Interval(bowl.beta + low, bowl.beta + high), p


def _bend(bowl: Bowl, centre: float) -> tuple[Fit | None, Bend | None]:
    """The fit with a further term z^2 u, which lets the exponent change with the size."""
    z = bowl.cells.z
    if len(np.unique(z)) < 3:
        return None, None
    try:
        fit = bowls.bent(bowl)
    except NoBowl:
        return None, None
    k, q, q2 = fit.coefficients[[0, 2, 4]]
    if k <= 0:
        return None, None
    p = t_tail(float(q2) / math.sqrt(float(fit.covariance[4, 4])), fit.df)

    def exponent(at: float) -> float:
        return bowl.beta - float(q + 2 * q2 * at) / (2 * float(k))

    small, large = float(z.min()), float(z.max())
    turn = (2 * float(k) * bowl.beta - float(q)) / (2 * float(q2)) if q2 else math.nan
    crosses = exponent(small) * exponent(large) < 0
    return fit, Bend(p, exponent(small), exponent(large), bowls.exponential(turn + centre) if crosses else math.nan)


def _verdict(interval: Interval, bend: Bend | None, laws: Mapping[str, float]) -> tuple[str, str]:
    if math.isinf(interval.low):
        return "not determined", "the loss hardly depends on the learning rate beyond its noise"
    if bend is not None and bend.p < BENT:
        return "bend", ""
    fitting = [name for name, exponent in laws.items() if interval.holds(exponent)]
    if len(fitting) == 1:
        return fitting[0], ""
    if fitting:
        return "not determined", f"{' and '.join(fitting)} are both possible" if len(
            fitting
        ) == 2 else "all are possible"
    return "neither", ""


def _optima(
    left: Left, positions: Mapping[float, Position], centre: float, bowl: Bowl | None, own: Fit | None
) -> tuple[Optimum, ...]:
    found = []
    state: Position
    groups = [] if bowl is None else np.unique(bowl.cells.z).tolist()
    for size, group in zip(left.sizes.tolist(), left.groups, strict=True):
        z = math.log(size) - centre
        near = next((index for index, each in enumerate(groups) if math.isclose(each, z, abs_tol=1e-9)), None)
        state = next((state for each, state in positions.items() if math.isclose(each, z, abs_tol=1e-9)), "too few")
        lr, interval = math.nan, None
        if near is not None and bowl is not None and own is not None:
            low, off, high = bowls.lowest(own, [1 + near], np.ones(1))
            line, state = float(bowl.line(z)), "inside"
            lr = bowls.exponential(line + off)
            interval = (
                None if math.isinf(low) else Interval(bowls.exponential(line + low), bowls.exponential(line + high))
            )
        tried = Interval(group.lowest, group.highest)
        found.append(Optimum(size, state, lr, interval, tried, group.diverged, group.trials))
    return tuple(found)
