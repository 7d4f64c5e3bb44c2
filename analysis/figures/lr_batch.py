"""Learning rate against batch size, the loss as colour."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..best import best
from ..load import Sweep
from ..words import shown
from .axes import log_ticks
from .lr_law import batch_law, draw_law, law_lines_data
from .style import ACCENT, LOSS_SCALE, MUTED, base, colour_bar, hover_lines, leader, outcome, upper_frame


class LrBatch(NamedTuple):
    """One point per trial; all arrays follow `trial_ids`."""

    trial_ids: np.ndarray
    batch: np.ndarray
    """Sequences per optimizer step."""
    lr: np.ndarray
    """Effective peak learning rate."""
    loss: np.ndarray
    """Lowest val_loss; NaN before the first epoch."""
    outcome: np.ndarray
    """See `style.outcome`."""
    best_per_batch: dict[float, str]
    """The best trial at full fidelity for each batch size that has one."""
    best: str | None


def lr_batch_data(sweep: Sweep) -> LrBatch | None:
    """The points; None unless both the learning rate and the batch size vary over the trials that have them."""
    trials = sweep.trials.assign(batch=pd.to_numeric(sweep.setting("training.batch_size"), errors="coerce"))
    trials = trials[(trials["batch"] > 0) & (trials["lr"] > 0)]
    if trials["batch"].nunique() < 2 or trials["lr"].nunique() < 2:
        return None
    ranked = best(sweep, len(sweep.trials)).trials
    full = trials.loc[ranked.index[ranked.index.isin(trials.index[trials["full_fidelity"]])]]
    firsts = full.drop_duplicates("batch").set_index("batch")["trial_id"].sort_index()
    return LrBatch(
        trials["trial_id"].to_numpy(),
        trials["batch"].to_numpy(dtype="float64"),
        trials["lr"].to_numpy(),
        trials["value"].to_numpy(),
        outcome(trials),
        dict(zip(firsts.index.astype("float64").tolist(), firsts.tolist(), strict=True)),
        leader(sweep),
    )


def lr_batch(sweep: Sweep) -> go.Figure:
    """Log-log scatter. Filled: full fidelity; small and open: stopped early or running; cross: diverged or failed."""
    data = lr_batch_data(sweep)
    figure = base(460)
    if data is None:
        return figure
    hover = hover_lines(sweep, data.trial_ids)
    for name, title, marker in _kinds(data):
        chosen = data.outcome == name
        if chosen.any():
            figure.add_trace(
                go.Scatter(
                    x=data.batch[chosen],
                    y=data.lr[chosen],
                    mode="markers",
                    name=title,
                    text=hover[chosen],
                    hovertemplate="%{text}<extra></extra>",
                    marker=marker | ({"color": data.loss[chosen]} if name == "full" else {}),
                )
            )
    law = batch_law(sweep)
    lines = None if law is None else law_lines_data(law)
    if lines is not None:
        draw_law(figure, lines)
    winners = np.isin(data.trial_ids, list(data.best_per_batch.values()))
    _ring(figure, data, winners, "best of its batch size", MUTED, 1.5)
    _ring(figure, data, data.trial_ids == data.best, "best of all", ACCENT, 3)
    _log_axes(figure, data)
    return figure


def _kinds(data: LrBatch) -> list[tuple[str, str, dict[str, Any]]]:
    full = data.loss[data.outcome == "full"]
    scale: dict[str, Any] = {}
    if full.size:
        low, high = float(full.min()), upper_frame(full)
        bar = colour_bar(low, high, bool(full.max() > high))
        scale = {"colorscale": LOSS_SCALE, "cmin": low, "cmax": high, "showscale": True, "colorbar": bar}
    return [
        ("partial", "stopped early or running", {"size": 7, "symbol": "circle-open", "color": MUTED}),
        ("failed", "diverged or failed", {"size": 9, "symbol": "x-thin-open", "color": MUTED, "line": {"width": 2}}),
        ("full", "full length", {"size": 13, "line": {"width": 1, "color": "rgba(128,134,142,0.6)"}} | scale),
    ]


def _ring(figure: go.Figure, data: LrBatch, chosen: np.ndarray, name: str, colour: str, width: float) -> None:
    if chosen.any():
        figure.add_trace(
            go.Scatter(
                x=data.batch[chosen],
                y=data.lr[chosen],
                mode="markers",
                name=name,
                hoverinfo="skip",
                marker={"size": 20, "symbol": "circle-open", "color": colour, "line": {"width": width}},
            )
        )


def _log_axes(figure: go.Figure, data: LrBatch) -> None:
    sizes = np.unique(data.batch)
    batch_ticks = sizes.tolist() if sizes.size <= 10 else log_ticks(sizes[0], sizes[-1])
    lr_ticks = log_ticks(float(data.lr.min()), float(data.lr.max()))
    figure.update_xaxes(
        type="log", title_text="batch size (sequences)", tickvals=batch_ticks, ticktext=[*map(shown, batch_ticks)]
    )
    figure.update_yaxes(type="log", title_text="learning rate", tickvals=lr_ticks, ticktext=[*map(shown, lr_ticks)])
