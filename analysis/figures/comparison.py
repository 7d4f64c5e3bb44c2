"""Several sweeps in one figure, each in its own colour and its own dashes."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from ..anytime import best_so_far
from ..load import Sweep
from ..words import shown
from .axes import log_ticks
from .lr_batch import LrBatch, lr_batch_data
from .lr_law import LawLines, batch_law, law_lines_data
from .style import MUTED, base, hover_lines, leader, upper_frame

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Of Okabe and Ito's colour-blind-safe palette."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
"""So that sweeps can be told apart in grey."""


class Line(NamedTuple):
    """One line of one sweep."""

    name: str
    x: np.ndarray
    """Epochs."""
    loss: np.ndarray
    """val_loss in nats per token."""
    hover: str
    """What is said of all of it, as markup."""


def best_curves_data(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[Line | None]:
    """The learning curve of the best trial of each sweep; None where it has none."""
    lines: list[Line | None] = []
    for sweep, name in zip(sweeps, names, strict=True):
        first = leader(sweep)
        rows = sweep.epochs[sweep.epochs["trial_id"] == first]
        line = None
        if first is not None and len(rows):
            hover = str(hover_lines(sweep, np.array([first]))[0])
            line = Line(name, rows["epoch"].to_numpy(), rows["val_loss"].to_numpy(), hover)
        lines.append(line)
    return lines


def best_curves(sweeps: Sequence[Sweep], names: Sequence[str]) -> go.Figure:
    """The best trial of each sweep: validation loss after each of its epochs."""
    figure = _lines(best_curves_data(sweeps, names), "lines+markers", "linear")
    last = max((float(trace.x.max()) for trace in figure.data), default=1.0)
    figure.update_xaxes(title_text="epoch", tickformat="d", dtick=1 if last <= 12 else None)
    return figure


def anytime_data(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[Line | None]:
    """The lowest loss of any trial against the epochs that all trials together had trained; see `best_so_far`."""
    found = [(name, *best_so_far(sweep)) for sweep, name in zip(sweeps, names, strict=True)]
    return [Line(name, spent, lowest, "") if spent.size else None for name, spent, lowest in found]


def anytime(sweeps: Sequence[Sweep], names: Sequence[str]) -> go.Figure:
    """How low the loss was after how much work."""
    figure = _lines(anytime_data(sweeps, names), "lines", "hv")
    figure.update_xaxes(title_text="epochs spent, all trials together", tickformat=",d")
    return figure


def _lines(lines: Sequence[Line | None], mode: str, shape: str) -> go.Figure:
    figure = base(400)
    for at, line in enumerate(lines):
        if line is None:
            continue
        style = {"color": COLOURS[at % 6], "dash": DASHES[at % 6], "width": 2.5, "shape": shape}
        name, template = html.escape(line.name), "%{text}<br>epoch %{x:,}: val loss %{y:.4~g}<extra></extra>"
        text = "<br>".join([f"<b>{name}</b>", *([line.hover] if line.hover else [])])
        trace = go.Scatter(x=line.x, y=line.loss, mode=mode, name=name, line=style, text=[text] * len(line.x))
        figure.add_trace(trace.update(hovertemplate=template))
    losses = np.concatenate([line.loss[np.isfinite(line.loss)] for line in lines if line is not None] or [np.array([])])
    figure.update_yaxes(title_text="val loss (nats per token)")
    if losses.size:
        low, high = float(losses.min()), upper_frame(losses)
        margin = 0.04 * max(high - low, 1e-9)
        figure.update_yaxes(range=[low - margin, high + margin])
    return figure


class Overlay(NamedTuple):
    """Learning rate against batch size in one sweep."""

    trials: LrBatch
    law: LawLines | None
    """None where no law was found."""


def lr_batch_overlay_data(sweeps: Sequence[Sweep]) -> list[Overlay | None]:
    """What each has to show; None where learning rate and batch size do not both vary."""
    found = [lr_batch_data(sweep) for sweep in sweeps]
    laws = [batch_law(sweep) for sweep in sweeps]
    return [
        None if trials is None else Overlay(trials, None if law is None else law_lines_data(law))
        for trials, law in zip(found, laws, strict=True)
    ]


def lr_batch_overlay(sweeps: Sequence[Sweep], names: Sequence[str]) -> go.Figure:
    """Learning rate against batch size; small: every trial, large: the best of each batch size; lines: the laws."""
    figure = base(460)
    data = [(at, found) for at, found in enumerate(lr_batch_overlay_data(sweeps)) if found is not None]
    for at, found in data:
        name, hover = html.escape(names[at]), hover_lines(sweeps[at], found.trials.trial_ids)
        if found.law is not None:
            _law(figure, found.law, at, name)
        full = found.trials.outcome == "full"
        best = np.isin(found.trials.trial_ids, list(found.trials.best_per_batch.values()))
        _dots(figure, found.trials, hover, full & ~best, at, {"size": 6, "opacity": 0.55})
        _dots(figure, found.trials, hover, ~full, at, {"size": 6, "opacity": 0.2})
        outline = {"width": 1, "color": MUTED}
        shown_as = name if found.law is None else f"{name}, best of a batch size"
        _dots(figure, found.trials, hover, best, at, {"size": 13, "line": outline}, shown_as)
    if data:
        _log_axes(figure, [found.trials for _, found in data])
    return figure


def _law(figure: go.Figure, law: LawLines, at: int, name: str) -> None:
    """The line of a law in the colour of its sweep, and its 95 % band."""
    colour, bounded = COLOURS[at % 6], np.isfinite(law.low)
    sizes = law.sizes[bounded]
    band = go.Scatter(x=[*sizes, *sizes[::-1]], y=[*law.high[bounded], *law.low[bounded][::-1]], mode="none")
    figure.add_trace(band.update(fill="toself", fillcolor=f"{colour}26", hoverinfo="skip", showlegend=False))
    line = {"color": colour, "dash": DASHES[at % 6], "width": 2.5}
    figure.add_trace(go.Scatter(x=law.sizes, y=law.lr, mode="lines", name=f"{name}, law", line=line, hoverinfo="skip"))


def _dots(
    figure: go.Figure,
    data: LrBatch,
    hover: np.ndarray,
    chosen: np.ndarray,
    at: int,
    look: dict[str, Any],
    name: str = "",
) -> None:
    marker = look | {"color": COLOURS[at % 6], "symbol": SYMBOLS[at % 6]}
    dots = go.Scatter(x=data.batch[chosen], y=data.lr[chosen], text=hover[chosen], mode="markers", name=name)
    figure.add_trace(dots.update(marker=marker, hovertemplate="%{text}<extra></extra>", showlegend=bool(name)))


def _log_axes(figure: go.Figure, data: Sequence[LrBatch]) -> None:
    batches = np.unique(np.concatenate([found.batch for found in data]))
    rates = np.concatenate([found.lr for found in data])
    sizes = batches.tolist() if batches.size <= 10 else log_ticks(float(batches[0]), float(batches[-1]))
    ticks = log_ticks(float(rates.min()), float(rates.max()))
    figure.update_xaxes(type="log", title_text="batch size (sequences)", tickvals=sizes, ticktext=[*map(shown, sizes)])
    figure.update_yaxes(type="log", title_text="learning rate", tickvals=ticks, ticktext=[*map(shown, ticks)])
