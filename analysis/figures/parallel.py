"""Parallel coordinates: every trial a line through its settings to its loss; brush an axis to keep only some."""

import html
import math
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from ..load import Sweep
from ..once import once
from ..words import digits
from .axes import Axis, axis, linear_ticks, parameter_axis, shortened
from .style import ACCENT, LOSS_SCALE, base, colour_bar, leader, sampled, upper_frame, varied

BEST_SHARE = 0.04
"""Share of the colour scale that is the best trial's own."""

HEIGHT, TOP, BOTTOM = 480, 92, 28
"""Of the figure and of its margins, in pixels."""

MOST_DRAWN = 2000
"""Trials drawn; more lines are one surface, and brushing them is slow without a graphics card."""

MOST_TICKS = 200
"""Steps of a brush on an axis; two pixels apart, they feel like none."""

LONGEST_TICK = 12
"""Characters of a category's name that fit between two axes."""


class ParallelCoordinates(NamedTuple):
    """One line per trial. All arrays follow `trial_ids`."""

    trial_ids: np.ndarray
    """In order of suggestion."""
    axes: list[Axis]
    """From left to right: the searched parameters that vary, epochs if they do, val loss."""
    loss: np.ndarray
    """NaN where no epoch was finished."""
    low: float
    high: float
    """Losses between which colours change."""
    best: str | None
    """The best trial."""


@once
def parallel_coordinates_data(sweep: Sweep) -> ParallelCoordinates:
    """All trials of the sweep."""
    trials = sweep.trials
    axes = [parameter_axis(sweep, trials, path) for path in varied(sweep)]
    if trials["epochs"].nunique() > 1:
        axes.append(axis(trials["epochs"], "epochs"))
    loss = trials["value"].to_numpy(dtype="float64")
    low, high = float(np.nanmin(loss, initial=np.inf)), upper_frame(loss)
    if high > low:
        axes.append(_loss_axis(loss, low, high))
    return ParallelCoordinates(trials["trial_id"].to_numpy(), axes, loss, low, high, leader(sweep))


def _loss_axis(loss: np.ndarray, low: float, high: float) -> Axis:
    """Losses above `high` lie together at the top, trials without one above them."""
    ticks = linear_ticks(low, high)
    text = [digits(tick) for tick in ticks]
    top, above = high + 0.06 * (high - low), high + 0.14 * (high - low)
    positions = np.where(np.isnan(loss), above, np.where(loss > high, top, loss))
    if np.nanmax(loss) > high:
        ticks, text = [*ticks, top], [*text, f"> {digits(high)}"]
    missing = above if np.isnan(loss).any() else None
    if missing:
        ticks, text = [*ticks, above], [*text, "no loss"]
    return Axis("val_loss", "val loss", "linear", positions, ticks, text, low, float(positions.max()), missing)


def parallel_coordinates(sweep: Sweep) -> go.Figure:
    """Brushable: drag along an axis to keep a range, click it to let go; drag a name to move its axis.

    The best trial is drawn as several lines a pixel apart, because parcoords has one width for all lines; brushing
    treats them as one. Of very many trials an even sample over their losses is drawn.
    """
    data = parallel_coordinates_data(sweep)
    longest = max((len(text.strip()) for first in data.axes[:1] for text in _ticks(first)[1]), default=0)
    figure = base(HEIGHT, margin={"l": max(60, 8 * longest), "r": 24, "t": TOP, "b": BOTTOM})
    if data.best is None or not data.high > data.low:
        return figure
    first = int(np.flatnonzero(data.trial_ids == data.best)[0])
    drawn = np.flatnonzero(np.isin(data.trial_ids, sampled(sweep.trials, MOST_DRAWN)["trial_id"]))
    drawn = np.union1d(drawn, [first])
    rows = np.append(drawn, [first] * 4)
    shift = np.append(np.zeros(len(drawn)), [-1.0, 1.0, -0.5, 0.5]) / (HEIGHT - TOP - BOTTOM)
    figure.add_trace(
        go.Parcoords(
            dimensions=[_dimension(line, rows, shift) for line in data.axes],
            line=_colours(data, rows),
            labelfont={"size": 13},
            tickfont={"size": 12},
        )
    )
    figure.update_layout(updatemenus=[_shares(data)])
    return figure


def _colours(data: ParallelCoordinates, rows: np.ndarray) -> dict[str, Any]:
    """Colours by the negative loss: parcoords draws higher numbers above lower ones, and the best belong on top."""
    best = -data.low + BEST_SHARE / (1 - BEST_SHARE) * (data.high - data.low)
    colour = np.where(data.trial_ids == data.best, best, -np.nan_to_num(data.loss, nan=data.high))
    shades = zip(np.linspace(0, 1 - BEST_SHARE, len(LOSS_SCALE)).tolist(), reversed(LOSS_SCALE), strict=True)
    # The palette has 256 entries: half of the best one's share stays dark, lest the runner-up turns orange as well.
    gap = 1 - BEST_SHARE / 2
    bar = colour_bar(data.low, data.high, bool(np.nanmax(data.loss) > data.high))
    return {
        "color": colour[rows],
        "colorscale": [*shades, (gap, LOSS_SCALE[0]), (gap + 1e-4, ACCENT), (1.0, ACCENT)],
        "cmin": -data.high,
        "cmax": best,
        "showscale": True,
        "colorbar": bar | {"tickvals": [-tick for tick in bar["tickvals"]]},
    }


def _dimension(line: Axis, rows: np.ndarray, shift: np.ndarray) -> dict[str, Any]:
    ticks, text = _ticks(line)
    return {
        "name": line.path,
        # Plotly reads labels as markup, but ticks as they are.
        "label": html.escape(line.label),
        "values": (line.positions[rows] + shift * (line.high - line.low)).clip(line.low, line.high),
        "range": [line.low, line.high],
        "tickvals": ticks,
        "ticktext": text,
    }


def _ticks(line: Axis) -> tuple[list[float], list[str]]:
    """Ticks with a text at both ends and at those of the axis that do not touch them, and blank ones between."""
    if line.kind == "category":
        return line.ticks, shortened(line.tick_text, LONGEST_TICK)
    reach = 0.06 * (line.high - line.low)
    named = dict(zip(line.ticks, line.tick_text, strict=True))
    inner = {tick: text for tick, text in named.items() if line.low + reach < tick < line.high - reach}
    ends = {end: named.get(end) or digits(10**end if line.kind == "log" else end) for end in (line.low, line.high)}
    # A brush snaps to ticks where an axis has its own, so every trial gets one; ticks need texts that differ.
    places = np.unique(line.positions)
    places = places if places.size <= MOST_TICKS else np.linspace(line.low, line.high, MOST_TICKS)
    blank = {place: " " * count for count, place in enumerate(places.tolist(), 1) if place not in inner | ends}
    ticks = {**blank, **inner, **ends}
    return list(ticks), list(ticks.values())


def _shares(data: ParallelCoordinates) -> dict[str, Any]:
    """Buttons that brush the loss axis to the best trials."""
    last = len(data.axes) - 1
    line = data.axes[last]
    known = np.sort(line.positions[np.isfinite(data.loss)])

    def button(text: str, share: float | None) -> dict[str, Any]:
        # Up to halfway to the first trial that is left out: parcoords brushes in steps of its own.
        count = math.ceil((share or 1) * len(known))
        kept = None if share is None else [line.low, float(known[count - 1 : count + 1].mean())]
        return {"label": text, "method": "restyle", "args": [{f"dimensions[{last}].constraintrange": [kept]}, [0]]}

    return {
        "type": "buttons",
        "direction": "right",
        "buttons": [button("all", None), button("best quarter", 0.25), button("best tenth", 0.1)],
        "showactive": False,
        "x": 0,
        "xanchor": "left",
        "y": 1 + (TOP - 4) / (HEIGHT - TOP - BOTTOM),
        "yanchor": "top",
        "pad": {"l": 0, "t": 0},
        "bgcolor": "rgba(0,0,0,0)",
        "bordercolor": "rgba(128,134,142,0.5)",
        "borderwidth": 1,
        "font": {"size": 12},
    }
