"""The regression on all searched parameters at once: the loss of each configuration at full fidelity."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from .best import best
from .least_squares import fit
from .load import Sweep
from .once import once
from .terms import MOST_LEVELS, Term, terms
from .words import counted

LEAST_FREEDOM = 6
"""Configurations beyond the number of coefficients; and at least half as many as there are coefficients."""

MOST_ROWS = 2000
"""Configurations that enter a regression; of more a random part, the same every time."""

MOST_COLUMNS = 300

BENDS = (2, 3, 4, 5, 6, 8)
"""Columns for a range that are tried: see `terms`."""

LEVEL = 0.05


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
