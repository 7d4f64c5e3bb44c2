"""Learning signals: how the trials learned, one small figure per signal, and when they left the unigram plateau."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..best import UNFIT
from ..load import Sweep
from ..plateau import SIGNALS, plateau
from ..words import digits, shown
from .axes import linear_ticks, log_ticks
from .curves import Curves, end_to_end
from .style import ACCENT, MUTED, STATE_COLOURS, as_markup, base, hover_lines, leader, upper_frame

MOST_LINES = 50
"""Trials in one figure; the best ones where there are more."""

LEAST_SHARE = 0.05
"""An axis of shares goes up to this at least, lest next to nothing fill the figure."""

HEIGHT = 230


class Signal(NamedTuple):
    """How a signal is shown."""

    column: str
    title: str
    guide: str
    axis: str
    log: bool = False
    share: bool = False
    """Of 1, shown in percent."""
    mark: float | None = None
    """A value to compare with, drawn as a dotted line."""


PANELS = (
    Signal(
        "noise_scale",
        "Gradient noise against batch size",
        "Above the line the batch is smaller than the gradient noise scale: a larger one would save steps. Below it "
        "a larger one gains little. A gap is an epoch of noise alone, far above the batch.",
        "noise scale / batch size",
        log=True,
        mark=1.0,
    ),
    Signal(
        "update_ratio",
        "Size of an update",
        "How far one step moves the weights, as a share of their size. About 0.001 (the line) is a rule of thumb: far "
        "above it training is unstable, far below it slow.",
        "update / weights",
        log=True,
        mark=1e-3,
    ),
    Signal(
        "dead_relu",
        "Dead hidden units",
        "Hidden units that are 0 at every position: they neither say nor learn anything. A share that climbs points to "
        "a learning rate that is too high.",
        "dead units",
        share=True,
    ),
    Signal(
        "ctx_norm",
        "Length of the context vector",
        "Near 0 the context carries nothing from word to word; if it never stops growing, training is not stable.",
        "context norm",
        log=True,
    ),
    Signal(
        "ctx_rank",
        "Use of the context vector",
        "Effective rank of the contexts as a share of their dimensions. A small share that stays small: a smaller "
        "context would do.",
        "effective rank / context size",
        share=True,
    ),
)


class SignalLines(NamedTuple):
    """One signal of the trials at full fidelity (of all that are not unfit while there is none)."""

    signal: Signal
    lines: Curves
    best: Curves | None


def signals_data(sweep: Sweep) -> list[SignalLines]:
    """The signals that were recorded. Noise scale and effective rank are relative to what they are compared with."""
    trials = sweep.trials[~sweep.trials["state"].isin(UNFIT)]
    trials = trials[trials["full_fidelity"]] if trials["full_fidelity"].any() else trials
    shown = trials.sort_values("value").head(MOST_LINES)["trial_id"]
    rows = sweep.epochs[["trial_id", "epoch", *SIGNALS]]
    rows = _relative(sweep, rows[rows["trial_id"].isin(shown)])
    first = leader(sweep)
    made = []
    for signal in PANELS:
        known = rows[np.isfinite(rows[signal.column]) & ((rows[signal.column] > 0) | (not signal.log))]
        own = known[known["trial_id"] == first]
        if len(known):
            best = None if own.empty else end_to_end(own, signal.column)
            made.append(SignalLines(signal, end_to_end(known, signal.column), best))
    return made


def _relative(sweep: Sweep, rows: pd.DataFrame) -> pd.DataFrame:
    def of(path: str) -> pd.Series:
        sizes = pd.to_numeric(sweep.setting(path), errors="coerce").set_axis(sweep.trials["trial_id"])
        return rows["trial_id"].map(sizes).astype("float64")

    return rows.assign(
        noise_scale=rows["noise_scale"] / of("training.batch_size"), ctx_rank=rows["ctx_rank"] / of("model.ctx_dim")
    )


def signal_figure(data: SignalLines) -> go.Figure:
    """One thin line per trial, the best one thick; small, for a grid of several."""
    figure = base(HEIGHT, showlegend=False)
    form = ".1%" if data.signal.share else ".3~g"
    template = f"trial %{{customdata}}<br>epoch %{{x}}: %{{y:{form}}}<extra></extra>"
    last = float(np.nanmax(data.lines.epochs))
    faint = float(np.clip(15 / data.lines.trials, 0.25, 0.8))
    for curves, line, opacity in (
        (data.lines, {"color": STATE_COLOURS["completed"], "width": 1.2}, faint),
        (data.best, {"color": ACCENT, "width": 3}, 1.0),
    ):
        if curves is not None:
            points = {"x": curves.epochs, "y": curves.values, "customdata": as_markup(curves.trial_ids), "line": line}
            mode = "lines" if last > 1 else "markers"
            figure.add_trace(go.Scatter(**points, mode=mode, opacity=opacity, hovertemplate=template))
    margin = 0.02 * last
    figure.update_xaxes(title_text="epoch", tickformat="d", dtick=1 if last <= 8 else None, nticks=8)
    figure.update_xaxes(range=[1 - margin, last + margin])
    _scale(figure, data)
    return figure


def _scale(figure: go.Figure, data: SignalLines) -> None:
    """The vertical axis, and the line to compare with."""
    signal = data.signal
    figure.update_yaxes(title_text=signal.axis)
    if signal.mark is not None:
        figure.add_hline(signal.mark, line={"width": 1.5, "dash": "dot", "color": MUTED})
    if signal.share:
        high = max(float(np.nanmax(data.lines.values)), LEAST_SHARE)
        ticks = linear_ticks(0, high)
        figure.update_yaxes(tickvals=ticks, ticktext=[f"{digits(100 * tick)} %" for tick in ticks])
        figure.update_yaxes(range=[-0.03 * high, 1.06 * high])
        return
    values = np.append(data.lines.values, [] if signal.mark is None else signal.mark)
    low, high = float(np.nanmin(values)) / 1.1, float(np.nanmax(values)) * 1.1
    ticks = log_ticks(low, high) if high > 5 * low else linear_ticks(low, high)
    figure.update_yaxes(type="log", range=[math.log10(low), math.log10(high)])
    figure.update_yaxes(tickvals=ticks, ticktext=[shown(tick) for tick in ticks])


class PlateauPoints(NamedTuple):
    """One point per trial that has a value; all arrays follow `trial_ids`."""

    trial_ids: np.ndarray
    epoch: np.ndarray
    """When the trial left the unigram plateau, in epochs; NaN if it never did."""
    loss: np.ndarray
    full: np.ndarray
    """Whether the trial ran to its end."""
    best: str | None


def plateau_data(sweep: Sweep) -> PlateauPoints:
    """The trials whose learning signals are known."""
    trials = plateau(sweep)
    trials = trials[trials["value"].notna() & ~trials["state"].isin(UNFIT)]
    ids, epoch, loss, full = (
        trials[name].to_numpy() for name in ("trial_id", "plateau_epoch", "value", "full_fidelity")
    )
    return PlateauPoints(ids, epoch, loss, full, leader(sweep))


def plateau_figure(sweep: Sweep) -> go.Figure:
    """Lowest loss against the epoch in which a trial left the plateau; those that never did stand apart at the right.

    Losses far above the others lie on the upper edge.
    """
    data = plateau_data(sweep)
    figure = base(HEIGHT, showlegend=False)
    never, first = np.isnan(data.epoch), data.trial_ids == data.best
    if never.all():
        return figure
    last = float(np.nanmax(data.epoch))
    x = np.where(never, 1.2 * last, data.epoch)
    low, high = float(data.loss.min()), upper_frame(data.loss)
    y, step = np.minimum(data.loss, high), 0.08 * max(high - low, 1e-9)
    hover = hover_lines(sweep, data.trial_ids)
    left = sweep.trials.set_index("trial_id")["plateau_step"].loc[data.trial_ids]
    for index, (taken, epoch) in enumerate(zip(left, data.epoch, strict=True)):
        hover[index] += "<br>never left it" if never[index] else f"<br>left at step {taken:,}, epoch {digits(epoch, 2)}"
    for chosen, marker in (
        (~data.full & ~first, {"size": 6, "symbol": "circle-open", "color": STATE_COLOURS["stopped"]}),
        (data.full & ~first, {"size": 8, "color": STATE_COLOURS["completed"], "opacity": 0.7}),
        (first, {"size": 11, "color": ACCENT}),
    ):
        points = {"x": x[chosen], "y": y[chosen], "text": hover[chosen], "mode": "markers"}
        figure.add_trace(go.Scatter(**points, marker=marker, hovertemplate="%{text}<extra></extra>"))
    ticks = linear_ticks(0, last)
    named = [*map(shown, ticks)]
    if never.any():
        ticks, named = [tick for tick in ticks if tick < 1.1 * last] + [1.2 * last], [*named, "never"]
    figure.update_xaxes(title_text="left in epoch", tickvals=ticks, ticktext=named, range=[-0.03 * last, 1.28 * last])
    figure.update_yaxes(title_text="val loss", nticks=6, range=[low - step, high + step])
    return figure
