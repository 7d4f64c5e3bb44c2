"""What each searched parameter does to the loss, the others held fixed."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from .best import best
from .least_squares import Fit, fit, holm, t_quantile
from .load import Sweep
from .once import once
from .terms import MOST_LEVELS, Kind, Term, terms
from .words import counted

LEAST_FREEDOM = 6
"""Configurations beyond the number of coefficients; and at least half as many as there are coefficients."""

MOST_ROWS = 2000
"""Configurations that enter a regression; of more a random part, the same every time."""

MOST_COLUMNS = 300

BENDS = (2, 3, 4, 5, 6, 8)
"""Columns for a range that are tried: see `terms`."""

LEVEL = 0.05


class Effect(NamedTuple):
    """Of one parameter on the loss, in nats per token, against the average over the configurations that have it."""

    path: str
    label: str
    kind: Kind
    values: list[Any]
    """Where the effect is given: values of a list or category, evenly spaced values of a range."""
    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % interval at each value by itself."""
    span: float
    """From the lowest to the highest effect."""
    p: float
    """Of the F-test that the parameter does nothing, adjusted for the number of parameters (Holm)."""
    configurations: int
    """That have the parameter."""


class Effects(NamedTuple):
    """The additive regression of a sweep.

    `effects` is in the order of the sweep file and empty where nothing is determined; `reason` then says why, in words
    that follow "because". `confounded` are parameters that always changed together with others.
    """

    configurations: int
    effects: list[Effect]
    confounded: list[str]
    deviation: float
    """Of the errors, in nats per token: noise of the seeds and whatever is not additive."""
    explained: float
    """R squared."""
    limit: float | None
    """Losses above it were taken as this; None: there were none."""
    reason: str


class Design(NamedTuple):
    """The regression itself: the mean loss of each configuration on an intercept and the terms."""

    rows: pd.DataFrame
    loss: np.ndarray
    terms: list[Term]
    columns: np.ndarray
    limit: float | None

    def place(self, index: int) -> slice:
        """The columns of a term."""
        start = 1 + sum(one.columns.shape[1] for one in self.terms[:index])
        return slice(start, start + self.terms[index].columns.shape[1])


@once
def effects(sweep: Sweep) -> Effects:
    """Additive regression of the loss on all searched parameters that vary.

    The unit is a configuration at full fidelity, as `best` ranks them, with the mean of its seeds. A range enters as a
    polynomial or cubic spline (in the logarithm where its distribution is one or it spans a factor of 20), with one
    coefficient more than Akaike's criterion asks for; lists and categories with an effect of each value. The intervals
    are those of ordinary least squares.

    It assumes that effects add up (`interactions` tests some), that errors are about normal and equally large
    everywhere, that curves are smooth, and that configurations at full fidelity are like the others: early stopping
    lets the good ones through, which makes effects look smaller than they are. In simulations with curves as real
    sweeps have them 92 % of the intervals hold the truth, fewer where a curve has a kink. Losses more than five times
    as far above the lowest as the median is are taken as that limit.
    """
    made = design(sweep)
    if isinstance(made, str):
        return Effects(len(full_fidelity(sweep)), [], [], math.nan, math.nan, None, made)
    fitted = fit(made.columns, made.loss)
    places = [made.place(index) for index in range(len(made.terms))]
    tests = [fitted.block(place) for place in places]
    adjusted = holm(tests)
    found = [
        _effect(one, fitted, place, p)
        for one, place, p in zip(made.terms, places, adjusted, strict=True)
        if not math.isnan(p)
    ]
    confounded = [one.path for one, p in zip(made.terms, tests, strict=True) if math.isnan(p)]
    total = float(((made.loss - made.loss.mean()) ** 2).sum())
    explained = 1 - fitted.residual / total if total > 0 else math.nan
    deviation = math.sqrt(fitted.variance)
    return Effects(len(made.rows), found, confounded, deviation, explained, made.limit, "")


def full_fidelity(sweep: Sweep) -> pd.DataFrame:
    """One row for each configuration at full fidelity, as `Best.trials` has them, in order of suggestion."""
    ranking = best(sweep, len(sweep.trials))
    return ranking.trials.sort_values("number") if ranking.full_fidelity else ranking.trials.iloc[:0]


def framed(loss: np.ndarray) -> tuple[np.ndarray, float | None]:
    """Losses, those beyond the limit set to it, and the limit if there were any: one loss of 900 decides a regression
    of losses around 4."""
    lowest, median = loss.min(), np.median(loss)
    limit = float(lowest + 5 * (median - lowest))
    over = loss > limit
    return (np.minimum(loss, limit), limit) if median > lowest and over.any() else (loss, None)


@once
def design(sweep: Sweep) -> Design | str:
    """The regression for which there are enough configurations, or why there is none."""
    rows = full_fidelity(sweep)
    if rows.empty:
        return "no configuration has run to its end"
    if len(rows) > MOST_ROWS:
        rows = rows.sample(MOST_ROWS, random_state=0).sort_values("number")
    if not terms(sweep, rows, 1):
        return "no searched parameter varies among the configurations that ran to their end"
    loss, limit = framed(rows["mean"].to_numpy(dtype="float64"))
    if np.ptp(loss) == 0:
        return "all losses are the same"
    tried = [made for bends in BENDS if (made := _with(sweep, rows, loss, limit, bends, MOST_LEVELS))]
    # Too few for an effect of each value of every list: a parabola over its values.
    tried = tried or [made for bends in BENDS if (made := _with(sweep, rows, loss, limit, bends, 2))]
    if tried:
        return tried[smoothest([(made.columns, made.loss) for made in tried])]
    least = sum(one.columns.shape[1] for one in terms(sweep, rows, BENDS[0], 2)) + 1
    if least > MOST_COLUMNS:
        return f"{len(sweep.searched)} searched parameters are too many for one regression"
    return f"{counted(len(rows), 'configuration')} ran to the end, and these parameters need {_needed(least)}"


def _with(
    sweep: Sweep, rows: pd.DataFrame, loss: np.ndarray, limit: float | None, bends: int, levels: int
) -> Design | None:
    """The regression with that many columns for each parameter; None where it has too many."""
    chosen = terms(sweep, rows, bends, levels)
    columns = np.hstack([np.ones((len(rows), 1)), *(one.columns for one in chosen)])
    fits = columns.shape[1] <= MOST_COLUMNS and len(rows) >= _needed(columns.shape[1])
    return Design(rows, loss, chosen, columns, limit) if fits else None


def _needed(columns: int) -> int:
    """Configurations that a regression needs."""
    return columns + max(LEAST_FREEDOM, columns // 2)


def smoothest(tried: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    """Which of several regressions (columns, loss), each with more bends than the one before, to take.

    It is the one after that of the lowest Akaike criterion for small samples (Hurvich and Tsai, 1989): with one bend
    more than predicts best, what is left of a true curve is small against the interval.
    """

    def criterion(columns: np.ndarray, loss: np.ndarray) -> float:
        fitted, n = fit(columns, loss), len(loss)
        k = fitted.rank + 1
        return n * math.log(max(fitted.residual, 1e-300) / n) + 2 * k * n / max(n - k - 1, 1)

    return min(int(np.argmin([criterion(*one) for one in tried])) + 1, len(tried) - 1)


def _effect(one: Term, fitted: Fit, place: slice, p: float) -> Effect:
    contrast = np.zeros((len(one.grid), len(fitted.coefficients)))
    contrast[:, place] = one.grid
    effect, error = fitted.contrasts(contrast)
    reach = t_quantile(1 - LEVEL / 2, fitted.freedom) * error
    span = float(effect.max() - effect.min())
    present = int((~np.isnan(one.position)).sum())
    return Effect(one.path, one.label, one.kind, one.values, effect, effect - reach, effect + reach, span, p, present)
