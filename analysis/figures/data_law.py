"""Perplexity against training tokens, with the law and how far it can be trusted."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from ..data_law import FURTHER, data_law
from ..load import Sweep
from ..words import digits, shown
from .axes import log_ticks
from .style import ACCENT, MUTED, STATE_COLOURS, base, hover_lines, upper_frame


class PplTokens(NamedTuple):
    """Points and lines in tokens per epoch and perplexity."""

    tokens: np.ndarray
    ppl: np.ndarray
    hover: np.ndarray
    best: np.ndarray
    """Which of the points are the best of their amount of data."""
    line: np.ndarray
    """Tokens at which the law is drawn, up to `FURTHER` beyond the data; empty where there is no law."""
    law: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % prediction interval for one further measurement."""
    floor: np.ndarray
    """The law with a floor along `line`; empty where the data do not say that there is one."""
    measured: float
    """The largest amount of data with a result."""


def ppl_tokens_data(sweeps: Sweep | Sequence[Sweep]) -> PplTokens | None:
    """See `data_law`; None where the amount of data was never varied or has no result yet."""
    several = [sweeps] if isinstance(sweeps, Sweep) else list(sweeps)
    found = data_law(several)
    if found is None or found.points.empty:
        return None
    tried = found.tried[np.isfinite(found.tried["ppl"])]
    texts = [
        hover_lines(several[at], np.array([name])) for at, name in zip(tried["source"], tried["trial_id"], strict=True)
    ]
    chosen = set(zip(found.points["source"], found.points["trial_id"], strict=True))
    line = np.array([])
    if not found.law.reason:
        low, high = found.law.measured
        line = np.geomspace(low, high * FURTHER[-1], 61)
    said = [found.law.predict(float(tokens)) for tokens in line]
    floor = [found.floor.predict(float(tokens)).estimate for tokens in line] if found.floor.above_zero else []
    return PplTokens(
        tried["tokens"].to_numpy(),
        tried["ppl"].to_numpy(),
        np.concatenate(texts) if texts else np.array([], dtype="object"),
        np.array([pair in chosen for pair in zip(tried["source"], tried["trial_id"], strict=True)], dtype=bool),
        line,
        np.array([prediction.estimate for prediction in said]),
        np.array([prediction.interval[0] for prediction in said]),
        np.array([prediction.interval[1] for prediction in said]),
        np.array(floor),
        float(found.points["tokens"].max()),
    )


def ppl_tokens(sweeps: Sweep | Sequence[Sweep]) -> go.Figure:
    """Log-log scatter; the law is dashed and its band goes on beyond the data."""
    data = ppl_tokens_data(sweeps)
    figure = base(440)
    if data is None:
        return figure
    if data.line.size:
        _band(figure, data)
        _line(figure, data.line, data.law, data.measured, "power law", STATE_COLOURS["completed"])
    if data.floor.size:
        _line(figure, data.line, data.floor, data.measured, "with a floor", STATE_COLOURS["diverged"])
    for chosen, name, marker in (
        (~data.best, "other configurations", {"size": 7, "symbol": "circle-open", "color": MUTED}),
        (data.best, "best of its amount of data", {"size": 12, "color": ACCENT}),
    ):
        if chosen.any():
            points = go.Scatter(x=data.tokens[chosen], y=data.ppl[chosen], text=data.hover[chosen])
            template = "%{text}<br>perplexity %{y:.4~g}, %{x:,} tokens<extra></extra>"
            figure.add_trace(points.update(mode="markers", name=name, hovertemplate=template, marker=marker))
    _axes(figure, data)
    return figure


def _band(figure: go.Figure, data: PplTokens) -> None:
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": "band"}
    figure.add_trace(go.Scatter(x=data.line, y=data.high, showlegend=False, **edge))
    filled = go.Scatter(x=data.line, y=data.low, fill="tonexty", fillcolor="rgba(0,114,178,0.15)", **edge)
    figure.add_trace(filled.update(name="95 % of further measurements"))


def _line(figure: go.Figure, tokens: np.ndarray, ppl: np.ndarray, measured: float, name: str, colour: str) -> None:
    """Full within the data, dotted beyond."""
    inside = tokens <= measured * 1.001
    for part, dash in ((inside, "solid"), (~inside, "dot")):
        line: dict[str, Any] = {"color": colour, "width": 2, "dash": dash}
        template = f"{name}: perplexity %{{y:.4~g}} at %{{x:,.4~g}} tokens<extra></extra>"
        trace = go.Scatter(x=tokens[part], y=ppl[part], mode="lines", name=name, line=line, hovertemplate=template)
        figure.add_trace(trace.update(legendgroup=name, showlegend=dash == "solid"))


def _axes(figure: go.Figure, data: PplTokens) -> None:
    tokens = np.concatenate([data.tokens, data.line])
    # A wide band says enough where it leaves the frame.
    lines = np.concatenate([data.law, data.floor])
    low, high = float(min([*data.ppl, *lines])), float(max([upper_frame(data.ppl), *data.ppl[data.best], *lines]))
    if data.line.size:
        low, high = min(low, max(float(data.low.min()), low / 4)), max(high, min(float(data.high.max()), high * 4))
    ticks, sizes = log_ticks(low, high), log_ticks(float(tokens.min()), float(tokens.max()))
    margin = 0.04 * max(math.log10(high / low), 0.05)
    figure.update_yaxes(range=[math.log10(low) - margin, math.log10(high) + margin])
    figure.update_xaxes(
        type="log", title_text="training tokens in an epoch", tickvals=sizes, ticktext=[*map(digits, sizes)]
    )
    figure.update_yaxes(type="log", title_text="validation perplexity", tickvals=ticks, ticktext=[*map(shown, ticks)])
