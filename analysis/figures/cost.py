"""Throughput and memory: tokens per second and peak memory against batch size and model size."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..load import Sweep
from ..words import digits, shown
from .axes import linear_ticks, log_ticks
from .style import ACCENT, STATE_COLOURS, base, hover_lines, leader, sampled

HEIGHT = 280

MOST_POINTS = 500

MOST_SIZES = 12
"""Different sizes up to which a line joins their medians."""

_AGAINST = {"training.batch_size": "batch size (sequences)", "model_size": "parameters"}
_QUANTITIES = {"tokens_per_s": "tokens per second", "memory": "peak memory"}


class CostPoints(NamedTuple):
    """One panel; one point per trial that finished an epoch. All arrays follow `trial_ids`."""

    quantity: str
    """`tokens_per_s` (median of its epochs) or `memory` (bytes, highest of its epochs)."""
    against: str
    """`training.batch_size` or `model_size`."""
    trial_ids: np.ndarray
    size: np.ndarray
    value: np.ndarray
    medians: dict[float, float]
    """By size; empty where there are more than `MOST_SIZES` sizes."""


def cost_data(sweep: Sweep) -> list[CostPoints]:
    """A panel for each quantity against each size that differs between trials; none where no size does."""
    epochs = sweep.epochs.groupby("trial_id")
    ids = sweep.trials["trial_id"]
    trials = sweep.trials.assign(
        **{
            "training.batch_size": pd.to_numeric(sweep.setting("training.batch_size"), errors="coerce"),
            "tokens_per_s": ids.map(epochs["tokens_per_s"].median()).astype("float64"),
            "memory": ids.map(epochs["peak_memory_bytes"].max()).astype("float64"),
        }
    )
    made = []
    for against in _AGAINST:
        for quantity in _QUANTITIES:
            size, value = (
                trials[name].astype("Float64").to_numpy("float64", na_value=np.nan) for name in (against, quantity)
            )
            known = np.isfinite(size) & np.isfinite(value) & (size > 0) & (value > 0)
            if known.sum() < 2 or np.ptp(size[known]) == 0:
                continue
            rows = trials[known].assign(size_=size[known], value_=value[known])
            medians = rows.groupby("size_")["value_"].median()
            kept, few = sampled(rows, MOST_POINTS), len(medians) <= MOST_SIZES
            made.append(
                CostPoints(
                    quantity,
                    against,
                    kept["trial_id"].to_numpy(dtype="object"),
                    kept["size_"].to_numpy(),
                    kept["value_"].to_numpy(),
                    dict(zip(medians.index.tolist(), medians.tolist(), strict=True)) if few else {},
                )
            )
    return made


def cost_figure(sweep: Sweep, data: CostPoints) -> go.Figure:
    """A point for each trial, the best one orange, a line through the medians."""
    figure = base(HEIGHT, showlegend=False)
    colour, first = STATE_COLOURS["completed"], data.trial_ids == leader(sweep)
    scale, unit = 1.0, ""
    if data.quantity == "memory":
        scale, unit = (1e9, " (GB)") if data.value.max() >= 2e9 else (1e6, " (MB)")
    hover = hover_lines(sweep, data.trial_ids)
    for at, value in enumerate(data.value / scale):
        hover[at] += f"<br>{digits(float(value), 3)} {unit.strip(' ()') or 'tokens/s'}"
    if data.medians:
        x, y = list(data.medians), np.array(list(data.medians.values())) / scale
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line={"color": colour, "width": 2}, hoverinfo="skip"))
    for chosen, marker in (
        (~first, {"size": 7, "color": colour, "opacity": 0.55}),
        (first, {"size": 12, "color": ACCENT, "symbol": "diamond"}),
    ):
        if chosen.any():
            points = {"x": data.size[chosen], "y": data.value[chosen] / scale, "text": hover[chosen]}
            points |= {"mode": "markers", "marker": marker, "hovertemplate": "%{text}<extra></extra>"}
            figure.add_trace(go.Scatter(points))
    low, high = float(data.size.min()), float(data.size.max())
    sizes = np.unique(data.size)
    if sizes.size <= 8 and data.against == "training.batch_size":
        ticks = sizes.tolist()
    else:
        ticks = log_ticks(low, high) if high > 5 * low else linear_ticks(low, high)
    figure.update_xaxes(type="log", title_text=_AGAINST[data.against], tickvals=ticks, ticktext=[*map(shown, ticks)])
    title = _QUANTITIES[data.quantity] + unit
    figure.update_yaxes(title_text=title, nticks=6, rangemode="tozero", separatethousands=True)
    return figure
