"""Curves of one training under a name: loss, perplexity, accuracy, learning rate and clip limit over the epochs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from .style import ACCENT, MUTED, base

TRAIN, VALIDATION = "#0072b2", "#e69f00"
"""Of the same colour-blind-safe palette as all figures."""
TALLEST_PPL = 1000
"""Above it the axis of the perplexity is cut, lest a first epoch leave the others a flat line (original research)."""
Values = Sequence[float | None]


class TrainingCurves(NamedTuple):
    """Everything over `epochs`, 1-based; None where there is no number."""

    name: str
    epochs: list[int]
    train_losses: Values
    val_losses: Values
    train_ppls: Values
    val_ppls: Values
    accuracies: Values
    rates: Values
    limits: Values
    best: int
    """The best epoch."""
    courses: list[int]
    """Epochs after which the learning rate began a new course."""
    tallest: float | None
    """Where the axis of the perplexity ends; None: above all values."""


def training_curves_data(progress: Mapping[str, Any]) -> TrainingCurves:
    """The curves in a `NAME_progress.json`."""
    return TrainingCurves(
        name=progress["model_name"],
        epochs=list(range(1, progress["current_epoch"] + 1)),
        train_losses=progress["train_losses"],
        val_losses=progress["val_losses"],
        train_ppls=progress["train_ppls"],
        val_ppls=progress["val_ppls"],
        accuracies=progress["val_accs"],
        rates=progress["lrs"],
        limits=progress["clips"],
        best=progress["best_epoch"],
        courses=[stage["after"] for stage in progress["lr_stages"]],
        tallest=tallest_ppl(progress["val_ppls"]),
    )


def tallest_ppl(ppls: Values) -> float | None:
    """Where the axis of the perplexity ends: where the highest is above 1,000 at 1.5 times the 95th percentile, or at
    the highest if that is lower (original research, curves); else None."""
    known = [value for value in ppls if value is not None]
    if not known or max(known) <= TALLEST_PPL:
        return None
    return float(min(1.5 * np.percentile(known, 95), max(known)))


def loss_figure(data: TrainingCurves) -> go.Figure:
    """Loss on the training and the validation text."""
    return _pair(data, data.train_losses, data.val_losses, "loss (nats per token)")


def ppl_figure(data: TrainingCurves) -> go.Figure:
    """Perplexity of both, cut where the first epochs would hide the others."""
    figure = _pair(data, data.train_ppls, data.val_ppls, "perplexity")
    if data.tallest is not None:
        figure.update_yaxes(range=[0, data.tallest])
    return figure


def accuracy_figure(data: TrainingCurves) -> go.Figure:
    """Share of the validation text's tokens that were predicted."""
    figure = _empty(data, 260)
    figure.add_trace(_line(data, data.accuracies, "validation", VALIDATION, "square", "accuracy %{y:.1%}"))
    figure.update_yaxes(title_text="accuracy", tickformat=".1~%")
    return figure.update_layout(showlegend=False)


def rate_figure(data: TrainingCurves) -> go.Figure:
    """Learning rate of each epoch's last step, and the largest norm that its gradient could have."""
    figure = _empty(data, 260)
    figure.add_trace(_line(data, data.rates, "learning rate", TRAIN, "circle", "learning rate %{y:.4~g}"))
    figure.update_yaxes(title_text="learning rate", rangemode="tozero", exponentformat="power")
    if any(limit is not None for limit in data.limits):
        clip = _line(data, data.limits, "clip limit (right)", VALIDATION, "square", "clip limit %{y:.4~g}")
        figure.add_trace(clip.update(yaxis="y2"))
        title = {"text": "clip limit", "standoff": 10, "font": {"size": 13}}
        right = {"overlaying": "y", "side": "right", "rangemode": "tozero", "tickmode": "auto", "nticks": 5}
        right |= {"showgrid": False, "zeroline": False, "automargin": True, "title": title}
        figure.update_layout(yaxis2=right)
    return figure


def _pair(data: TrainingCurves, train: Values, validation: Values, axis: str) -> go.Figure:
    figure = _empty(data, 380)
    figure.add_trace(_line(data, train, "train", TRAIN, "circle", "train %{y:.4f}"))
    figure.add_trace(_line(data, validation, "validation", VALIDATION, "square", "validation %{y:.4f}"))
    best = validation[data.best - 1]
    marker = {"color": "rgba(0,0,0,0)", "size": 13, "symbol": "square", "line": {"color": ACCENT, "width": 2}}
    figure.add_trace(go.Scatter(x=[data.best], y=[best], mode="markers", name="best", marker=marker, hoverinfo="skip"))
    return figure.update_yaxes(title_text=axis)


def _empty(data: TrainingCurves, height: int) -> go.Figure:
    last = data.epochs[-1]
    figure = base(height, hovermode="x unified")
    figure.update_xaxes(title_text="epoch", tickformat="d", hoverformat="d", dtick=1 if last <= 12 else None)
    figure.update_xaxes(range=[1 - 0.02 * last, last + 0.02 * last])
    for epoch in data.courses:
        figure.add_vline(epoch + 0.5, line={"width": 1, "dash": "dot", "color": MUTED})
    return figure


def _line(data: TrainingCurves, values: Values, name: str, colour: str, symbol: str, hover: str) -> go.Scatter:
    marker = {"symbol": symbol, "size": 6 if len(data.epochs) <= 60 else 3, "color": colour}
    line = {"color": colour, "width": 1.6}
    return go.Scatter(
        x=data.epochs, y=values, mode="lines+markers", name=name, marker=marker, line=line,
        hovertemplate=f"{hover}<extra></extra>",
    )  # fmt: skip
