"""The law of the best learning rate: its line with a band, the optima behind it, and the bowls behind those."""

import math
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from ..load import Sweep
from ..lr_law import BATCH, EXPONENTS, LrLaw
from ..lr_words import lr_laws
from ..words import digits, shown
from .axes import log_ticks
from .style import LOSS_SCALE, MUTED, base, upper_frame

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "pentagon", "star", "cross")
LAW = "#0072b2"
_POINTS = 33
_DASHES = ("dot", "dash", "dashdot")
AXES = {BATCH: "batch size (sequences)", "model_size": "parameters"}


class LawLines(NamedTuple):
    """A law to draw; learning rates everywhere, NaN where they are not bounded."""

    sizes: np.ndarray
    """From the smallest size to the largest, where the law was measured."""
    lr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    optima: np.ndarray
    """[optima, 4]: size, best learning rate, ends of its interval."""
    references: dict[str, np.ndarray]
    """Other laws through the middle of this one, by name, at `sizes`."""


class Bowl(NamedTuple):
    """Loss against learning rate for one size."""

    size: float
    lr: np.ndarray
    """Of the trials that ran to their end."""
    loss: np.ndarray
    curve_lr: np.ndarray
    """Of the fitted bowl; empty without one."""
    curve_loss: np.ndarray
    best_lr: float
    """Where it is lowest; NaN without one."""


def law_lines_data(law: LrLaw) -> LawLines | None:
    """What there is to draw; None where no law was found."""
    inside = [each for each in law.optima if each.position == "inside"]
    if law.interval is None or len(inside) < 2:
        return None
    sizes = np.geomspace(inside[0].size, inside[-1].size, _POINTS)
    advice = [law.predict(size) for size in sizes.tolist()]
    ends = np.array([each.interval or (math.nan, math.nan) for each in advice])
    rows = [[each.size, each.lr, *(each.interval or (math.nan, math.nan))] for each in inside]
    middle = float(np.exp(np.log(sizes).mean()))
    through = law.predict(middle).lr
    references = {
        name: through * (sizes / middle) ** exponent for name, exponent in EXPONENTS[law.against].items() if exponent
    }
    return LawLines(sizes, np.array([a.lr for a in advice]), ends[:, 0], ends[:, 1], np.array(rows), references)


def draw_law(figure: go.Figure, data: LawLines) -> None:
    """Add a law to a figure with the size to the right and the learning rate upwards, both on log axes."""
    band = np.isfinite(data.low)
    if band.any():
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([data.sizes[band], data.sizes[band][::-1]]),
                y=np.concatenate([data.high[band], data.low[band][::-1]]),
                fill="toself",
                fillcolor="rgba(0,114,178,0.18)",
                mode="none",
                name="95 % band",
                hoverinfo="skip",
            )
        )
    for (name, lr), dash in zip(data.references.items(), _DASHES, strict=False):
        style = {"color": MUTED, "dash": dash, "width": 1.5}
        figure.add_trace(go.Scatter(x=data.sizes, y=lr, mode="lines", name=name, line=style, hoverinfo="skip"))
    line = {"color": LAW, "width": 2.5}
    figure.add_trace(go.Scatter(x=data.sizes, y=data.lr, mode="lines", name="law", line=line, hoverinfo="skip"))
    size, lr, low, high = data.optima.T
    text = [
        f"at {shown(each[0])} best at {digits(each[1], 2)}"
        + ("" if math.isnan(each[2]) else f" ({digits(each[2], 2)} to {digits(each[3], 2)})")
        for each in data.optima.tolist()
    ]
    figure.add_trace(
        go.Scatter(
            x=size,
            y=lr,
            mode="markers",
            name="fitted optimum",
            text=text,
            hovertemplate="%{text}<extra></extra>",
            marker={"symbol": "diamond", "size": 11, "color": LAW, "line": {"width": 1.5, "color": "white"}},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": np.nan_to_num(high - lr),
                "arrayminus": np.nan_to_num(lr - low),
                "color": LAW,
                "thickness": 1.5,
                "width": 4,
            },
        )
    )


def law_figure(law: LrLaw) -> go.Figure:
    """A law by itself."""
    figure = base(380)
    data = law_lines_data(law)
    if data is None:
        return figure
    draw_law(figure, data)
    sizes = data.optima[:, 0].tolist()
    seen = np.concatenate([data.lr, data.optima[:, 1:].ravel()])
    ticks = log_ticks(float(np.nanmin(seen)), float(np.nanmax(seen)))
    figure.update_xaxes(type="log", title_text=AXES[law.against], tickvals=sizes, ticktext=[*map(shown, sizes)])
    figure.update_yaxes(type="log", title_text="learning rate", tickvals=ticks, ticktext=[*map(shown, ticks)])
    return figure


def bowls_data(sweep: Sweep, law: LrLaw) -> list[Bowl]:
    """The trials at full fidelity of every size, and the bowl fitted to them."""
    trials = sweep.trials[sweep.trials["full_fidelity"] & sweep.trials["value"].notna()]
    found = []
    for each in law.optima:
        rows = trials[trials[law.against] == each.size].sort_values("lr")
        if len(rows):
            curve = law.bowl(each.size)
            found.append(Bowl(each.size, rows["lr"].to_numpy(), rows["value"].to_numpy(), *curve, each.lr))
    return found


def bowls_figure(sweep: Sweep, law: LrLaw) -> go.Figure:
    """Loss against learning rate, one colour and shape for every size."""
    data, figure = bowls_data(sweep, law), base(420)
    if not data:
        return figure
    shades = sample_colorscale(LOSS_SCALE, np.linspace(0, 1, len(data)).tolist() if len(data) > 1 else [0.0])
    for index, (bowl, shade) in enumerate(zip(data, shades, strict=True)):
        name = shown(bowl.size)
        marker = {"color": shade, "symbol": _SYMBOLS[index % len(_SYMBOLS)], "size": 7}
        hover = "learning rate %{x:.2~e}<br>val loss %{y:.4~f}<extra>" + name + "</extra>"
        figure.add_trace(
            go.Scatter(
                x=bowl.lr, y=bowl.loss, mode="markers", name=name, legendgroup=name, marker=marker, hovertemplate=hover
            )
        )
        if bowl.curve_lr.size:
            line = {"color": shade, "width": 2}
            figure.add_trace(
                go.Scatter(
                    x=bowl.curve_lr, y=bowl.curve_loss, mode="lines", legendgroup=name, showlegend=False, line=line,
                    hoverinfo="skip",
                )
            )  # fmt: skip
    losses = np.concatenate([bowl.loss for bowl in data])
    low, high = float(losses.min()), upper_frame(losses)
    rates = np.concatenate([bowl.lr for bowl in data])
    ticks = log_ticks(float(rates.min()), float(rates.max()))
    pad = 0.05 * (high - low) or 0.01
    figure.update_xaxes(type="log", title_text="learning rate", tickvals=ticks, ticktext=[*map(shown, ticks)])
    figure.update_yaxes(title_text="val loss (nats per token)", range=[low - pad, high + pad])
    figure.update_layout(legend={"title": {"text": AXES[law.against].split(" (")[0]}})
    return figure


def batch_law(sweep: Sweep) -> LrLaw | None:
    """The law against the batch size, where the sweep can be asked for it."""
    return next((law for law in lr_laws(sweep) if law.against == BATCH), None)
