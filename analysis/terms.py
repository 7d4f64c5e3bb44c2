"""Searched parameters as columns of a regression: what a parameter's value adds to the loss, as a smooth function."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from .load import Sweep
from .tables import absent, order
from .words import label

MOST_LEVELS = 12
"""Values of a category, or of a list of numbers that is taken value by value."""

GRID = 25
"""Positions at which the effect of a range is given."""

Kind = Literal["log", "linear", "list", "category"]


class Term(NamedTuple):
    """One parameter in a regression over n configurations.

    A range lies at the logarithm of its values or at the values, scaled to -1 .. 1; a list of numbers at -1 .. 1 in
    equal steps; a category has a column for each value but the first. Columns are centred over the configurations that
    have the parameter and zero for the others: which of them have it is told by the parameter that decides it.
    """

    path: str
    label: str
    kind: Kind
    position: np.ndarray
    """[n] NaN where absent; of a category the number of the value."""
    columns: np.ndarray
    """[n, d]"""
    values: list[Any]
    """Where its effect is given: the values of a list or category, `GRID` values over a range."""
    grid: np.ndarray
    """[len(values), d] the columns there."""

    @property
    def straight(self) -> np.ndarray:
        """[n, 1 or levels - 1] the least that can interact: a straight line, or the levels of a category."""
        if self.kind == "category":
            return self.columns
        centred = self.position - np.nanmean(self.position)
        return np.nan_to_num(centred)[:, None]


def terms(
    sweep: Sweep, rows: pd.DataFrame, bends: int, levels: int = MOST_LEVELS, paths: list[str] | None = None
) -> list[Term]:
    """The searched parameters that vary over `rows` (and can be coded), in the order of the sweep file.

    Args:
        bends: columns for a range: 1 a straight line, 2 a parabola, 3 a cubic, more a cubic spline.
        levels: columns at most for a list of numbers; as many as it has values but one leave each value its own effect.
    """
    rules = sweep.spec.get("parameters") or {}
    chosen = sweep.searched if paths is None else paths
    made = [term(rows[path], path, rules.get(path), bends, levels) for path in chosen]
    return [one for one in made if one is not None]


def term(column: pd.Series, path: str, rule: Any = None, bends: int = 3, levels: int = MOST_LEVELS) -> Term | None:
    """None where fewer than two values are present, or more texts than a category may have."""
    rule = rule if isinstance(rule, Mapping) else {}
    present = [value for value in column.tolist() if not absent(value)]
    distinct = sorted(set(present), key=order)
    if len(distinct) < 2:
        return None
    listed = "values" in rule and len(distinct) <= MOST_LEVELS
    if not pd.api.types.is_numeric_dtype(column):
        return _category(column, path, distinct) if len(distinct) <= MOST_LEVELS else None
    raw = column.to_numpy(dtype="float64", na_value=math.nan)
    finite = np.isfinite(raw)
    if not finite.any() or (low := float(raw[finite].min())) >= (high := float(raw[finite].max())):
        return None
    if listed:
        index = {value: 2 * at / (len(distinct) - 1) - 1 for at, value in enumerate(distinct)}
        position = np.array([math.nan if absent(value) else index[value] for value in column.tolist()])
        return _smooth(path, "list", position, distinct, np.array(list(index.values())), levels)
    kind: Kind = "log" if low > 0 and ("log" in str(rule.get("distribution", "")) or high / low >= 20) else "linear"
    scaled = np.log(raw) if kind == "log" else raw
    first, last = np.nanmin(scaled), np.nanmax(scaled)
    places = np.linspace(first, last, GRID)
    values = np.exp(places) if kind == "log" else places
    return _smooth(
        path,
        kind,
        2 * (scaled - first) / (last - first) - 1,
        [low, *values[1:-1].tolist(), high],
        np.linspace(-1, 1, GRID),
        bends,
    )


def _category(column: pd.Series, path: str, distinct: list[Any]) -> Term:
    index = {value: at for at, value in enumerate(distinct)}
    position = np.array([math.nan if absent(value) else float(index[value]) for value in column.tolist()])
    dummies = (position[:, None] == np.arange(1, len(distinct))).astype("float64")
    grid = np.eye(len(distinct))[:, 1:]
    return _centred(path, "category", position, dummies, distinct, grid)


def _smooth(path: str, kind: Kind, position: np.ndarray, values: list[Any], places: np.ndarray, most: int) -> Term:
    degrees = min(most, len(np.unique(position[~np.isnan(position)])) - 1)
    if kind == "list" and degrees == len(values) - 1:
        own = (position[:, None] == places[1:]).astype("float64")
        return _centred(path, kind, position, own, values, np.eye(len(values))[:, 1:])
    return _centred(path, kind, position, _basis(position, degrees), values, _basis(places, degrees))


def _centred(
    path: str, kind: Kind, position: np.ndarray, columns: np.ndarray, values: list[Any], grid: np.ndarray
) -> Term:
    present = ~np.isnan(position)
    mean = columns[present].mean(axis=0)
    return Term(path, label(path), kind, position, np.where(present[:, None], columns - mean, 0.0), values, grid - mean)


def _basis(x: np.ndarray, degrees: int) -> np.ndarray:
    """[len(x), degrees] polynomials up to the third degree, then cubic splines (truncated powers) with evenly spaced
    knots between -1 and 1."""
    powers = [x ** (power + 1) for power in range(min(degrees, 3))]
    knots = np.linspace(-1, 1, max(degrees - 3, 0) + 2)[1:-1]
    return np.stack([*powers, *(np.maximum(x - knot, 0) ** 3 for knot in knots)], axis=1)
