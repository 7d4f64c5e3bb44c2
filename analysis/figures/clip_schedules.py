"""Clip schedules: the loss of each at its own best learning rate, with its interval."""

import html
import math

import plotly.graph_objects as go

from ..clip_schedules import Schedule, clip_schedules
from ..load import Sweep
from ..words import digits
from .axes import shortened
from .style import ACCENT, STATE_COLOURS, base

LONGEST_NAME = 24


def clip_schedules_data(sweep: Sweep) -> list[Schedule]:
    """The schedules that have a fitted loss, the lowest first."""
    found = clip_schedules(sweep)
    return [] if found is None else [one for one in found.schedules if not math.isnan(one.loss)]


def clip_schedules_figure(sweep: Sweep) -> go.Figure:
    """Points with 95 % intervals; open where the best learning rate may lie beyond those tried."""
    found = clip_schedules_data(sweep)
    figure = base(80 + 34 * max(1, len(found)), showlegend=False)
    if not found:
        return figure
    names = [html.escape(name) for name in shortened([one.name for one in found], LONGEST_NAME)]
    said = [
        f"{html.escape(one.name)}: {digits(one.loss)}<br>95 % interval {digits(one.low)} to {digits(one.high)}"
        + ("" if math.isnan(one.lr) else f"<br>best learning rate {digits(one.lr, 2)}")
        for one in found
    ]
    colours = [ACCENT if one.verdict == "best" else STATE_COLOURS["completed"] for one in found]
    figure.add_trace(
        go.Scatter(
            y=list(range(len(found))),
            x=[one.loss for one in found],
            error_x={
                "type": "data",
                "array": [one.high - one.loss for one in found],
                "color": STATE_COLOURS["stopped"],
                "thickness": 1.5,
                "width": 5,
            },
            mode="markers",
            marker={
                "size": 10,
                "color": colours,
                "symbol": ["circle-open" if one.edge else "circle" for one in found],
            },
            text=said,
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(tickvals=list(range(len(found))), ticktext=names, range=[len(found) - 0.5, -0.5], ticks="")
    figure.update_xaxes(title_text="val loss at its best learning rate", nticks=6)
    return figure
