"""A parameter as an axis: positions to draw at, and ticks that show the parameter's own values."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from ..load import Sweep
from ..tables import absent, order
from ..words import ABSENT, label, shown

MOST_CATEGORIES = 12


class Axis(NamedTuple):
    """One parameter of all trials.

    Positions are log10 of the value (`log`), the value (`linear`) or the index of the value among the sorted values
    (`category`). A trial without the parameter lies at `missing`, below all others, under the tick `ABSENT`; where all
    trials have it, `missing` is None.
    """

    path: str
    label: str
    kind: Literal["log", "linear", "category"]
    positions: np.ndarray
    ticks: list[float]
    tick_text: list[str]
    low: float
    high: float
    missing: float | None


def parameter_axis(sweep: Sweep, trials: pd.DataFrame, path: str) -> Axis:
    """A searched parameter over `trials`: a list of few values is spread evenly, a range keeps its scale."""
    rule = (sweep.spec.get("parameters") or {}).get(path)
    return axis(trials[path], path, rule if isinstance(rule, Mapping) else {})


def axis(values: pd.Series, path: str, rule: Mapping[str, Any] | None = None) -> Axis:
    """The axis of any column; `rule` is the parameter's entry in the sweep file, where it has one."""
    rule = rule or {}
    distinct = sorted({value for value in values.tolist() if not absent(value)}, key=order)
    numeric = pd.api.types.is_numeric_dtype(values)
    listed = "values" in rule and len(distinct) <= MOST_CATEGORIES
    if not numeric or listed or len(distinct) < 2:
        index = {value: float(position) for position, value in enumerate(distinct)}
        positions = np.array([math.nan if absent(value) else index[value] for value in values])
        text = [shown(value) for value in distinct]
        return _finish(path, "category", positions, list(index.values()), text, (0.0, len(distinct) - 1.0))
    numbers = values.to_numpy(dtype="float64", na_value=math.nan)
    low, high = _bounds(rule, float(np.nanmin(numbers)), float(np.nanmax(numbers)))
    if low > 0 and ("log" in str(rule.get("distribution", "")) or high / low >= 20):
        ticks = log_ticks(low, high)
        logs = [math.log10(value) for value in (*ticks, low, high)]
        return _finish(path, "log", np.log10(numbers), logs[:-2], [*map(shown, ticks)], (logs[-2], logs[-1]))
    ticks = linear_ticks(low, high)
    if all(value % 1 == 0 for value in distinct):
        ticks = [tick for tick in ticks if tick.is_integer()]
    return _finish(path, "linear", numbers, ticks, [*map(shown, ticks)], (low, high))


def _bounds(rule: Mapping[str, Any], low: float, high: float) -> tuple[float, float]:
    """The searched range where the sweep file gives it in the parameter's own unit, else that of the trials."""
    lowest, highest = rule.get("min"), rule.get("max")
    if isinstance(lowest, int | float) and isinstance(highest, int | float) and lowest <= low < high <= highest:
        # W&B's log_uniform states exponents instead of values; such bounds may enclose the values by chance.
        return (low, high) if str(rule.get("distribution")).endswith("log_uniform") else (float(lowest), float(highest))
    return low, high


def _finish(
    path: str, kind: Any, positions: np.ndarray, ticks: list[float], text: list[str], ends: tuple[float, float]
) -> Axis:
    missing = None
    low, high = ends if ends[0] < ends[1] else (ends[0] - 1, ends[1] + 1)
    if np.isnan(positions).any():
        missing = -1.0 if kind == "category" else low - 0.12 * (high - low)
        positions = np.where(np.isnan(positions), missing, positions)
        ticks, text, low = [missing, *ticks], [ABSENT, *text], missing
    return Axis(path, label(path), kind, positions, ticks, text, low, high, missing)


def shortened(texts: list[str], longest: int) -> list[str]:
    """Texts of at most `longest` characters that still differ."""
    short: list[str] = []
    for number, text in enumerate(texts):
        cut = text if len(text) <= longest else f"{text[: longest - 1]}…"
        short.append(f"{cut[: longest - 3]}…{number}" if cut in short else cut)
    return short


def log_ticks(low: float, high: float) -> list[float]:
    """Round values from low to high, about evenly spaced in the logarithm: 1, 2, 5 or 1, 3 or powers of ten."""
    decades = math.log10(high) - math.log10(low)
    steps = (1, 2, 5) if decades < 2 else (1, 3) if decades < 4 else (1,)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    # Rounding in decimal keeps 3e-4 from becoming 0.00030000000000000003.
    ticks = [float(f"{step}e{power}") for power in range(first, last + 1) for step in steps]
    inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
    return inside if len(inside) >= 2 else [float(f"{low:.3g}"), float(f"{high:.3g}")]


def linear_ticks(low: float, high: float) -> list[float]:
    """Four to nine round values from low to high."""
    raw = (high - low) / 5
    if not 0 < raw < math.inf:
        return [low]
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]
