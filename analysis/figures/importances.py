"""Importances: how much each parameter decides whether a configuration is among the best."""

import html

import plotly.graph_objects as go

from ..importance import Importance, importances
from ..load import Sweep
from ..words import digits
from .axes import shortened
from .style import MUTED, STATE_COLOURS, base

MOST_BARS = 15

LONGEST_NAME = 24


def importances_data(sweep: Sweep) -> list[Importance]:
    """The most important parameters first, at most `MOST_BARS`; empty where importances are not determined."""
    return importances(sweep).parameters[:MOST_BARS]


def importances_figure(sweep: Sweep) -> go.Figure:
    """Bars from the top, with the middle 90 % of the repeats as lines."""
    found = importances_data(sweep)
    figure = base(70 + 34 * max(1, len(found)), showlegend=False, bargap=0.4)
    if not found:
        return figure
    names = [html.escape(name) for name in shortened([one.label for one in found], LONGEST_NAME)]
    said = [
        f"{html.escape(one.label)}: {_share(one.importance)}<br>{_share(one.low)} to {_share(one.high)}"
        for one in found
    ]
    figure.add_trace(
        go.Bar(
            y=list(range(len(found))),
            x=[one.importance for one in found],
            orientation="h",
            marker={"color": STATE_COLOURS["completed"], "opacity": 0.75},
            error_x={
                "type": "data",
                "array": [one.high - one.importance for one in found],
                "arrayminus": [one.importance - one.low for one in found],
                "color": MUTED,
                "thickness": 1.5,
                "width": 5,
            },
            text=said,
            textposition="none",
            hovertemplate="%{text}<extra></extra>",
        )
    )
    figure.update_yaxes(
        tickvals=list(range(len(found))), ticktext=names, range=[len(found) - 0.5, -0.5], ticks="", showgrid=False
    )
    high = min(1.0, max(one.high for one in found) * 1.05)
    figure.update_xaxes(title_text="share of the importance", range=[0, high], nticks=6, tickformat=".0%")
    return figure


def _share(value: float) -> str:
    return f"{digits(100 * value, 2)} %"
