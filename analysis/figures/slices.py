"""Slices: the loss against one parameter at a time."""

import html
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go

from ..load import Sweep
from .axes import Axis, parameter_axis, shortened
from .style import ACCENT, MUTED, STATE_COLOURS, base, hover_lines, leader, outcome, upper_frame

LONGEST_TICK = 12
"""Characters of a category's name below the axis."""


class Slice(NamedTuple):
    """One point per trial, those without the parameter apart; all arrays follow `trial_ids`."""

    trial_ids: np.ndarray
    axis: Axis
    loss: np.ndarray
    """Lowest val_loss; NaN before the first epoch."""
    outcome: np.ndarray
    """See `style.outcome`."""
    best: str | None
    low: float
    high: float
    """The losses worth framing; failed trials and those above `high` are drawn on the upper edge."""


def slice_data(sweep: Sweep, path: str) -> Slice:
    """All trials against the searched parameter at `path`."""
    trials = sweep.trials
    loss, ends = trials["value"].to_numpy(dtype="float64"), outcome(trials)
    framed = loss[(ends != "failed") & np.isfinite(loss)]
    low = float(framed.min()) if framed.size else float("nan")
    axis = parameter_axis(sweep, trials, path)
    return Slice(trials["trial_id"].to_numpy(), axis, loss, ends, leader(sweep), low, upper_frame(framed))


def slice_figure(sweep: Sweep, path: str) -> go.Figure:
    """Scatter of loss against the parameter at `path`; small, for a grid of several."""
    data = slice_data(sweep, path)
    figure = base(280, showlegend=False)
    step = 0.06 * max(data.high - data.low, 1e-9)
    edge = data.high + step
    known = (data.outcome != "failed") & np.isfinite(data.loss)
    y = np.where(known & (data.loss <= data.high), data.loss, edge)
    x = data.axis.positions + _spread(data.axis)
    hover = hover_lines(sweep, data.trial_ids)
    above = known & (data.loss > data.high)
    full, partial = data.outcome == "full", data.outcome == "partial"
    for chosen, marker in (
        (partial & known & ~above, {"size": 6, "symbol": "circle-open", "color": STATE_COLOURS["stopped"]}),
        (above, {"size": 8, "symbol": "triangle-up-open", "color": MUTED}),
        (data.outcome == "failed", {"size": 8, "symbol": "x-thin-open", "color": MUTED, "line": {"width": 2}}),
        (full & ~above, {"size": 9, "color": STATE_COLOURS["completed"], "opacity": 0.75, "line": {"width": 0}}),
        (data.trial_ids == data.best, {"size": 11, "color": ACCENT, "line": {"width": 0}}),
    ):
        if chosen.any():
            points = {"x": x[chosen], "y": y[chosen], "text": hover[chosen], "mode": "markers"}
            figure.add_trace(go.Scatter(**points, marker=marker, hovertemplate="%{text}<extra></extra>"))
    names = [html.escape(text) for text in shortened(data.axis.tick_text, LONGEST_TICK)]
    figure.update_xaxes(title_text=html.escape(data.axis.label), tickvals=data.axis.ticks, ticktext=names)
    figure.update_xaxes(ticklabeloverflow="allow")
    pad = 0.5 if data.axis.kind == "category" else 0.04 * (data.axis.high - data.axis.low)
    figure.update_xaxes(range=[data.axis.low - pad, data.axis.high + pad])
    figure.update_yaxes(title_text="val loss", nticks=6)
    if np.isfinite(data.low):
        figure.update_yaxes(range=[data.low - step, edge + step])
    return figure


def _spread(axis: Axis) -> np.ndarray:
    """Small sideways offsets, the same at every call, so that points of one category do not cover each other."""
    offsets = (np.arange(len(axis.positions)) * 0.618034) % 1 - 0.5
    if axis.kind == "category":
        return 0.3 * offsets
    return np.where(axis.positions == axis.missing, 0.06 * (axis.high - axis.low) * offsets, 0)
