"""Learning curves: the validation loss after each epoch, one line per trial."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..load import Sweep
from ..rungs import rung_epochs
from ..words import STATES
from .style import (
    ACCENT,
    MUTED,
    STATE_COLOURS,
    STATE_SYMBOLS,
    base,
    hover_lines,
    leader,
    sampled,
    upper_frame,
)

MOST_CURVES = 200
"""Trials drawn, beyond which more lines only hide each other; somewhat more where several states are rare."""


class Curves(NamedTuple):
    """Curves of several trials end to end, with a gap (None, NaN, NaN) between two of them."""

    trial_ids: np.ndarray
    epochs: np.ndarray
    values: np.ndarray

    @property
    def trials(self) -> int:
        return int(np.isnan(self.epochs).sum()) + 1

    def ends(self) -> "Curves":
        """The last point of each curve."""
        last = np.isnan(np.append(self.epochs[1:], np.nan)) & ~np.isnan(self.epochs)
        return Curves(self.trial_ids[last], self.epochs[last], self.values[last])


class LearningCurves(NamedTuple):
    """All epochs of the trials, or of an even sample over their losses in each state where there are many."""

    groups: dict[str, Curves]
    """By state, in the order of `words.STATES`; a state without a finished epoch is not in it."""
    trials: dict[str, int]
    """Trials with a finished epoch by state, drawn or not."""
    best: Curves | None
    rungs: list[int]
    """Epochs at which trials are compared."""
    low: float
    high: float
    """The losses worth framing; a trial may lie above."""


def learning_curves_data(sweep: Sweep) -> LearningCurves:
    """Curves of `val_loss` in nats per token."""
    rows = sweep.epochs[["trial_id", "epoch", "val_loss"]]
    trials = sweep.trials[sweep.trials["trial_id"].isin(rows["trial_id"].unique())]
    drawn = rows.merge(sampled(trials, MOST_CURVES)[["trial_id", "state"]], on="trial_id")
    first = leader(sweep)
    finite = rows.loc[np.isfinite(rows["val_loss"]), "val_loss"].to_numpy()
    counts = trials["state"].value_counts()
    present = [state for state in STATES if state in counts]
    return LearningCurves(
        {state: end_to_end(drawn[drawn["state"] == state], "val_loss") for state in present},
        {state: int(counts[state]) for state in present},
        None if first is None else end_to_end(rows[rows["trial_id"] == first], "val_loss"),
        rung_epochs(sweep.spec),
        float(finite.min()) if finite.size else np.nan,
        upper_frame(finite),
    )


def learning_curves(sweep: Sweep) -> go.Figure:
    """One line per trial, coloured by how it ended, the best trial on top; dotted lines at the rungs.

    The last point of each line tells how the trial ended by its shape as well.
    """
    data = learning_curves_data(sweep)
    figure = base(440)
    hover = _hover(sweep, [*data.groups.values(), *([data.best] if data.best else [])])
    for state, curves in data.groups.items():
        drawn = "" if curves.trials == data.trials[state] else f"{curves.trials:,} of "
        name, colour = f"{STATES[state]} ({drawn}{data.trials[state]:,})", STATE_COLOURS[state]
        faint = float(np.clip(40 / curves.trials, 0.25, 0.85))
        lines = _lines(curves, hover, name, colour, 1.3)
        figure.add_trace(lines.update(opacity=faint, legendgroup=state, showlegend=False))
        marker = {"color": colour, "size": 6, "symbol": STATE_SYMBOLS[state], "line": {"color": colour, "width": 1.3}}
        ends = go.Scatter(**_points(curves.ends(), hover), mode="markers", name=name, marker=marker)
        figure.add_trace(ends.update(legendgroup=state))
    if data.best:
        name = f"best (trial {html.escape(data.best.trial_ids[0])})"
        figure.add_trace(_lines(data.best, hover, name, ACCENT, 3))
    for rung in data.rungs:
        figure.add_vline(rung, line={"width": 1, "dash": "dot", "color": MUTED})
    figure.update_yaxes(title_text="val loss (nats per token)")
    figure.update_xaxes(title_text="epoch", tickformat="d")
    if np.isfinite(data.low):
        margin = 0.04 * max(data.high - data.low, 1e-9)
        last = float(sweep.epochs["epoch"].max())
        figure.update_yaxes(range=[data.low - margin, data.high + margin])
        figure.update_xaxes(range=[1 - 0.02 * last, last + 0.02 * last], dtick=1 if last <= 12 else None)
    return figure


def end_to_end(rows: pd.DataFrame, column: str) -> Curves:
    """A column over the epochs; rows sorted by trial and epoch, with a gap before each further trial."""
    ids = rows["trial_id"].to_numpy(dtype="object")
    starts = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    epochs, values = (np.insert(rows[name].to_numpy(dtype="float32"), starts, np.nan) for name in ("epoch", column))
    return Curves(np.insert(ids, starts, np.array(None)), epochs, values)


def _hover(sweep: Sweep, groups: Sequence[Curves]) -> dict[str | None, str | None]:
    """What is shown of each trial."""
    ids = list(dict.fromkeys(trial for curves in groups for trial in curves.trial_ids if trial is not None))
    return {None: None, **dict(zip(ids, hover_lines(sweep, np.array(ids, dtype="object")), strict=True))}


def _lines(curves: Curves, hover: Mapping[str | None, str | None], name: str, colour: str, width: float) -> go.Scatter:
    return go.Scatter(**_points(curves, hover), mode="lines", name=name, line={"color": colour, "width": width})


def _points(curves: Curves, hover: Mapping[str | None, str | None]) -> dict[str, Any]:
    return {
        "x": curves.epochs,
        "y": curves.values,
        "customdata": np.array([hover[trial] for trial in curves.trial_ids], dtype="object"),
        "hovertemplate": "%{customdata}<br>at epoch %{x}: val loss %{y:.4~g}<extra></extra>",
    }
