"""Ordinary least squares with the intervals and tests that follow from it; also where columns depend on each other."""

from typing import NamedTuple

import numpy as np


class Fit(NamedTuple):
    """Of y on p columns, n rows. Errors are taken as independent, of one variance and about normal."""

    coefficients: np.ndarray
    """[p] of the shortest vector that fits best."""
    spread: np.ndarray
    """[p, p] covariance of the coefficients over the variance of the errors."""
    known: np.ndarray
    """[p, p] projection onto what the rows determine: a contrast c is determined if c @ known equals c."""
    residual: float
    """Sum of squared residuals."""
    rank: int
    rows: int

    @property
    def freedom(self) -> int:
        return self.rows - self.rank

    @property
    def variance(self) -> float:
        """Of the errors; NaN where the columns leave no freedom."""
        return self.residual / self.freedom if self.freedom > 0 else float("nan")

    def contrasts(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Estimates and standard errors of rows @ coefficients ([m, p] -> [m], [m]); NaN where not determined."""
        determined = np.abs(rows @ self.known - rows).max(axis=1) < 1e-6
        errors = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, self.spread, rows), 0) * self.variance)
        return np.where(determined, rows @ self.coefficients, np.nan), np.where(determined, errors, np.nan)

    def block(self, columns: slice) -> float:
        """p-value of the F-test that these coefficients are all zero; NaN where they are not all determined."""
        place = np.zeros((columns.stop - columns.start, len(self.coefficients)))
        place[:, columns] = np.eye(len(place))
        if np.abs(place @ self.known - place).max() > 1e-6:
            return float("nan")
        part = self.coefficients[columns]
        quadratic = float(part @ np.linalg.solve(self.spread[columns, columns], part))
        return f_tail(quadratic / len(part) / self.variance, len(part), self.freedom)


def fit(columns: np.ndarray, y: np.ndarray) -> Fit:
    """Least squares of y [n] on columns [n, p]; columns should be of about equal size."""
    left, singular, right = np.linalg.svd(columns, full_matrices=False)
    rank = int((singular > 1e-8 * singular.max(initial=0)).sum())
    left, singular, right = left[:, :rank], singular[:rank], right[:rank]
    along = left.T @ y
    inverse = right.T / singular
    residual = float(((y - left @ along) ** 2).sum())
    return Fit(inverse @ along, inverse @ inverse.T, right.T @ right, residual, rank, len(y))


def t_quantile(share: float, freedom: float) -> float:
    """Of Student's distribution."""
    # scipy.stats takes seconds to load, and these are all that is needed of it.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share)) if freedom > 0 else float("nan")


def t_tail(ratio: float, freedom: float) -> float:
    """Two-sided p-value."""
    from scipy.special import stdtr

    return float(2 * stdtr(freedom, -abs(ratio))) if freedom > 0 else float("nan")


def f_tail(ratio: float, numerator: int, denominator: int) -> float:
    """p-value of Fisher's F."""
    from scipy.special import fdtrc

    return float(fdtrc(numerator, denominator, ratio)) if numerator > 0 and denominator > 0 else float("nan")


def holm(values: list[float]) -> list[float]:
    """p-values adjusted for having tested them all (Holm, 1979); NaN stays and does not count."""
    known = sorted((value, at) for at, value in enumerate(values) if value == value)
    adjusted, highest = [float("nan")] * len(values), 0.0
    for place, (value, at) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - place)))
        adjusted[at] = highest
    return adjusted
