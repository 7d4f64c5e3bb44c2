"""Marginal slices: what each parameter does to the loss, the others held fixed, with the uncertainty as a band."""

import html
import math

import numpy as np
import plotly.graph_objects as go

from ..effects import Effect, effects
from ..load import Sweep
from ..words import digits, shown
from .axes import linear_ticks, log_ticks, shortened
from .style import MUTED, STATE_COLOURS, base

HEIGHT = 260

MOST_PANELS = 12

BAND = "rgba(0,114,178,0.18)"

LONGEST_TICK = 12
"""Characters of a category's name below the axis."""


def effects_data(sweep: Sweep) -> list[Effect]:
    """The effects worth a panel: the strongest first, at most `MOST_PANELS`."""
    return sorted(effects(sweep).effects, key=lambda one: -one.span)[:MOST_PANELS]


def effect_frame(found: list[Effect]) -> tuple[float, float]:
    """One range for the vertical axes of all panels, so that sizes can be compared; wide bands may leave it."""
    low, high = min(float(one.effect.min()) for one in found), max(float(one.effect.max()) for one in found)
    margin = 0.2 * max(high - low, 1e-9)
    return low - margin, high + margin


def effect_figure(effect: Effect, frame: tuple[float, float]) -> go.Figure:
    """A line with its 95 % band for a range, points with intervals for the values of a list or category."""
    figure = base(HEIGHT, showlegend=False)
    figure.add_hline(0, line={"width": 1, "dash": "dot", "color": MUTED})
    colour = STATE_COLOURS["completed"]
    said = [
        f"{html.escape(effect.label)} {html.escape(shown(_rounded(value)))}<br>{_signed(middle)} nats<br>"
        f"95 % interval {_signed(low)} to {_signed(high)}"
        for value, middle, low, high in zip(effect.values, effect.effect, effect.low, effect.high, strict=True)
    ]
    hover = {"text": said, "hovertemplate": "%{text}<extra></extra>"}
    if effect.kind in ("log", "linear"):
        x = np.array(effect.values, dtype="float64")
        band = {"x": [*x, *x[::-1]], "y": [*effect.high, *effect.low[::-1]], "mode": "none", "hoverinfo": "skip"}
        figure.add_trace(go.Scatter(**band, fill="toself", fillcolor=BAND))
        figure.add_trace(go.Scatter(x=x, y=effect.effect, mode="lines", line={"color": colour, "width": 2.5}, **hover))
        _range_axis(figure, effect, float(x[0]), float(x[-1]))
    else:
        places = list(range(len(effect.values)))
        reach = {"type": "data", "array": effect.high - effect.effect, "color": colour, "thickness": 1.5, "width": 5}
        marker = {"size": 9, "color": colour}
        figure.add_trace(go.Scatter(x=places, y=effect.effect, error_y=reach, mode="markers", marker=marker, **hover))
        names = [html.escape(text) for text in shortened([shown(value) for value in effect.values], LONGEST_TICK)]
        figure.update_xaxes(tickvals=places, ticktext=names, range=[-0.5, len(places) - 0.5])
    figure.update_xaxes(title_text=html.escape(effect.label))
    figure.update_yaxes(title_text="effect (nats)", nticks=6, range=list(frame))
    return figure


def _range_axis(figure: go.Figure, effect: Effect, low: float, high: float) -> None:
    if effect.kind == "log":
        ticks, pad = log_ticks(low, high), 0.03 * math.log10(high / low)
        ends = [math.log10(low) - pad, math.log10(high) + pad]
        figure.update_xaxes(type="log", range=ends)
    else:
        ticks, pad = linear_ticks(low, high), 0.03 * (high - low)
        figure.update_xaxes(range=[low - pad, high + pad])
    figure.update_xaxes(tickvals=ticks, ticktext=[shown(tick) for tick in ticks])


def _rounded(value: object) -> object:
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '-' if value < 0 else ''}{digits(abs(float(value)), 2)}"
