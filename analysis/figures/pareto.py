"""Pareto fronts: the loss against what a configuration costs, the front as a step line."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ..load import Sweep
from ..pareto import Front, pareto, priced
from .axes import linear_ticks, log_ticks
from .style import ACCENT, MUTED, STATE_COLOURS, base, hover_lines, upper_frame

HEIGHT = 300

MOST_POINTS = 1000
"""Configurations that are drawn beside the front."""

TITLES = {"parameters": "parameters", "seconds": "training time", "memory": "peak memory"}

_UNITS = {"parameters": ((1e6, "million"), (1, "")), "memory": ((1e9, "GB"), (1e6, "MB"), (1, "bytes"))}
_TIMES = ((3600, "h"), (60, "min"), (1, "s"))


def pareto_data(sweep: Sweep) -> list[Front]:
    """The fronts over the costs that differ by more than noise."""
    return pareto(sweep)


def pareto_figure(sweep: Sweep, front: Front) -> go.Figure:
    """All configurations, the front in blue, the best one orange; losses far above the others are not in the frame."""
    figure = base(HEIGHT, showlegend=False)
    low, high = float(front.losses.min()), upper_frame(front.losses)
    order = np.argsort(front.losses, kind="stable")
    kept = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), MOST_POINTS)).round().astype(int))]
    ids = np.array(front.trial_ids, dtype="object")
    _points(figure, sweep, ids[kept], front.costs[kept], front.losses[kept], {"size": 6, "color": MUTED})
    chosen = np.array([point.trial_id for point in front.points], dtype="object")
    costs, losses = (np.array([getattr(point, name) for point in front.points]) for name in ("cost", "mean"))
    end = float(front.costs.max())
    figure.add_trace(
        go.Scatter(
            x=[*costs, end],
            y=[*losses, losses[-1]],
            mode="lines",
            line={"color": STATE_COLOURS["completed"], "width": 2, "shape": "hv"},
            hoverinfo="skip",
        )
    )
    # The best one has a shape of its own for those who see no colours.
    marker = {
        "size": [9] * (len(chosen) - 1) + [12],
        "color": [STATE_COLOURS["completed"]] * (len(chosen) - 1) + [ACCENT],
        "symbol": ["circle"] * (len(chosen) - 1) + ["diamond"],
    }
    _points(figure, sweep, chosen, costs, losses, marker, [priced(front.cost, cost) for cost in costs])
    step = 0.06 * max(high - low, 1e-9)
    figure.update_yaxes(title_text="val loss", nticks=6, range=[low - step, high + step])
    cost_axis(figure, front.cost, front.costs)
    return figure


def _points(
    figure: go.Figure,
    sweep: Sweep,
    ids: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    marker: dict[str, Any],
    more: list[str] | None = None,
) -> None:
    hover = hover_lines(sweep, ids)
    for at, text in enumerate(more or []):
        hover[at] += f"<br>{html.escape(text)}"
    figure.add_trace(
        go.Scatter(x=x, y=y, text=hover, mode="markers", marker=marker, hovertemplate="%{text}<extra></extra>")
    )


def cost_axis(figure: go.Figure, cost: str, values: np.ndarray) -> None:
    """The horizontal axis of parameters, seconds or bytes, in a unit of few digits."""
    low, high = float(values.min()), float(values.max())
    size, unit = next((each for each in _UNITS.get(cost, _TIMES) if high >= 2 * each[0]), (1, ""))
    log = low > 0 and high / low >= 20
    ticks = log_ticks(low / size, high / size) if log else linear_ticks(low / size, high / size)
    title = TITLES[cost] + (f" ({unit})" if unit else "")
    text = [f"{tick:,.6g}" for tick in ticks]
    figure.update_xaxes(title_text=title, tickvals=[tick * size for tick in ticks], ticktext=text)
    if log:
        figure.update_xaxes(type="log")
    pad = 0.04 * ((np.log10(high) - np.log10(low)) if log else high - low)
    ends = (np.log10(low), np.log10(high)) if log else (low, high)
    figure.update_xaxes(range=[ends[0] - pad, ends[1] + pad])
