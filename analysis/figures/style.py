"""What all figures share: colours, layout, and the frame that keeps outliers from squeezing everything else."""

import html
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from ..best import best
from ..failures import FAILED
from ..load import Sweep
from ..once import once
from ..words import STATES, digits, label, shown

ACCENT = "#d55e00"
"""The best trial, in every figure; of Okabe and Ito's colour-blind-safe palette, as are all colours of states."""

STATE_COLOURS = {
    "completed": "#0072b2",
    "stopped": "#8d949c",
    "running": "#009e73",
    "interrupted": "#56b4e9",
    "diverged": "#cc79a7",
    "infeasible": "#e69f00",
    "crashed": "#e69f00",
    "failed": "#e69f00",
}

STATE_SYMBOLS = {
    "completed": "circle",
    "stopped": "circle-open",
    "running": "triangle-right",
    "interrupted": "triangle-right-open",
    "diverged": "x-thin",
    "infeasible": "cross-thin",
    "crashed": "cross-thin",
    "failed": "cross-thin",
}
"""The same without colour. The thin ones show by their outline alone."""

LEAST_SAMPLED = 20
"""Trials of each state that a sample holds, where there are so many."""

LOSS_SCALE = ["#472c7a", "#3b518b", "#2c718e", "#21908d", "#27ad81", "#5cc863", "#aadc32"]
"""Viridis without its ends, which vanish on black or white. Low losses take the dark end; a dark page turns it."""

MUTED = "#80868e"
"""Ink that can be read on white and on black, for figures shown outside the report, which sets its own."""


@once
def leader(sweep: Sweep) -> str | None:
    """The best trial, that of the best configuration with the lowest value, if any has a value."""
    first: list[str] = best(sweep, 1).trials["trial_id"].tolist()
    return first[0] if first else None


def varied(sweep: Sweep) -> list[str]:
    """The searched parameters that have more than one value, absence counted as one."""
    return [path for path in sweep.searched if sweep.trials[path].map(str).nunique() > 1]


def outcome(trials: pd.DataFrame) -> np.ndarray:
    """`full` for trials at full fidelity, `failed` for those in a state of `FAILED`, `partial` for all others."""
    ended = np.where(trials["state"].isin(FAILED), "failed", "partial")
    return np.where(trials["full_fidelity"], "full", ended)


def sampled(trials: pd.DataFrame, most: int) -> pd.DataFrame:
    """Trials to draw where all of them would be too many: about `most`, each state by its share.

    Of each state every so many-th by rising loss, the lowest and the highest among them, the first of those without a
    loss; always the same trials. In the order of `trials`.
    """
    if len(trials) <= most:
        return trials
    kept = []
    for _, group in trials.groupby("state"):
        share = max(LEAST_SAMPLED, most * len(group) // len(trials))
        places = np.unique(np.linspace(0, len(group) - 1, min(share, len(group))).round().astype(int))
        kept += group["value"].sort_values(kind="stable").index[places].tolist()
    return trials.loc[sorted(kept)]


def base(height: int, **layout: Any) -> go.Figure:
    """An empty figure without background, so that it takes the colour of the page it is on."""
    axis = {
        "automargin": True,
        "zeroline": False,
        "gridcolor": "rgba(128,134,142,0.2)",
        "title": {"standoff": 10, "font": {"size": 13}},
    }
    # In one piece: plotly takes ten times as long for updates.
    figure = go.Figure(
        layout={
            "template": "none",
            "height": height,
            "autosize": True,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": MUTED, "size": 13},
            "margin": {"l": 8, "r": 8, "t": 16, "b": 8},
            "hoverlabel": {"align": "left"},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
            "xaxis": axis | {"ticks": "outside", "ticklen": 4, "tickcolor": "rgba(128,134,142,0.4)"},
            "yaxis": axis,
        }
    )
    if layout:
        figure.update_layout(layout)
    return figure


def colour_bar(low: float, high: float, clipped: bool) -> dict[str, Any]:
    """A colour bar of losses with few ticks; `clipped` says that losses above `high` share its colour."""
    ticks = np.linspace(low, high, 4)
    text = [digits(float(tick)) for tick in ticks]
    return {
        "title": {"text": "val loss<br> ", "side": "top", "font": {"size": 12}},
        "tickfont": {"size": 12},
        "tickvals": ticks.tolist(),
        "ticktext": [*text[:-1], f"≥ {text[-1]}" if clipped else text[-1]],
        "thickness": 10,
        "outlinewidth": 0,
        "len": 0.9,
    }


def upper_frame(values: Iterable[float]) -> float:
    """The highest value worth framing: at most five times as far above the lowest as the median is.

    A learning rate far too high gives losses that would leave the rest of the figure a flat line.
    """
    finite = np.array([value for value in values if math.isfinite(value)])
    if finite.size == 0:
        return math.nan
    lowest, median = float(finite.min()), float(np.median(finite))
    return float(finite[finite <= lowest + 5 * (median - lowest)].max(initial=lowest))


def as_markup(texts: np.ndarray) -> np.ndarray:
    """The same texts for plotly, which reads what it hovers as markup; None stays None."""
    escaped = {text: text and html.escape(text) for text in set(texts.tolist())}
    return np.array([escaped[text] for text in texts], dtype="object")


def hover_lines(sweep: Sweep, trial_ids: np.ndarray) -> np.ndarray:
    """One text for each of the trials with its whole configuration, safe to give to plotly as markup."""
    lines: np.ndarray = _hover_lines(sweep).loc[trial_ids].to_numpy(dtype="object")
    return lines.copy()


@once
def _hover_lines(sweep: Sweep) -> pd.Series:
    """Of all trials, by their id: most figures show most of them."""
    rows = sweep.trials
    columns = [_texts(rows["trial_id"], lambda trial: f"<b>trial {html.escape(str(trial))}</b>")]
    columns += [_texts(rows[path], partial(_setting, html.escape(label(path)))) for path in sweep.searched]
    values = _texts(rows["value"], lambda value: "no epoch finished" if pd.isna(value) else f"val loss {digits(value)}")
    ends = zip(values, rows["state"], rows["epochs"], strict=True)
    columns.append([f"{value}, {STATES[state]} after epoch {epochs}" for value, state, epochs in ends])
    lines = ["<br>".join(parts) for parts in zip(*columns, strict=True)]
    return pd.Series(lines, index=rows["trial_id"].tolist(), dtype="object")


def _setting(name: str, value: Any) -> str:
    return f"{name} {html.escape(shown(value))}"


def _texts(values: pd.Series, text: Callable[[Any], str]) -> list[str]:
    """The text of each value, made once for values that repeat."""
    items = [(type(value), value) for value in values.tolist()]
    made = {item: text(item[1]) for item in set(items)}
    return [made[item] for item in items]
