"""Figures of a comparison of checkpoints: how time and memory grow with what was read, and how the scores differ."""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import plotly.graph_objects as go

from ..evaluation import Row, measure, scores_of, size
from ..words import digits
from .comparison import COLOURS, DASHES, SYMBOLS
from .style import base

LONGEST_TICK = 18


class Growth(NamedTuple):
    """One checkpoint's line."""

    checkpoint: str
    context: list[int]
    """Tokens read."""
    values: list[float]


def growth_data(found: Row, key: str, batch: int) -> list[Growth]:
    """`ms`, `tokens_per_s` or `state_bytes` against the tokens read, of each checkpoint that was measured."""
    lines = []
    for checkpoint in found["checkpoints"]:
        rows = [r for r in found["readings"] if r["checkpoint"] == checkpoint["name"] and r["batch"] == batch]
        if rows:
            lines.append(Growth(checkpoint["name"], [r["context"] for r in rows], [r[key] for r in rows]))
    return lines


def growth_figure(found: Row, key: str, batch: int) -> go.Figure:
    """The same drawn, both axes logarithmic but that of time, which starts at 0."""
    figure, lines = base(320), growth_data(found, key, batch)
    for at, line in enumerate(lines):
        name = html.escape(line.checkpoint)
        said = [size(value) if key == "state_bytes" else f"{digits(value, 3)} ms" for value in line.values]
        trace = go.Scatter(
            x=line.context,
            y=line.values,
            text=said,
            name=name,
            mode="lines+markers",
            line={"color": COLOURS[at % 6], "dash": DASHES[at % 6], "width": 2.5},
            marker={"symbol": SYMBOLS[at % 6], "size": 8},
        )
        figure.add_trace(trace.update(hovertemplate=f"<b>{name}</b><br>%{{x:,}} tokens read: %{{text}}<extra></extra>"))
    contexts = sorted({context for line in lines for context in line.context})
    figure.update_xaxes(title_text="tokens read", type="log", tickvals=contexts, ticktext=_thousands(contexts))
    if key == "state_bytes":
        powers = [2**power for power in range(4, 41, 2)]
        low, high = min(min(line.values) for line in lines), max(max(line.values) for line in lines)
        ticks = [each for each in powers if low / 4 <= each <= high * 4]
        figure.update_yaxes(title_text="state", type="log", tickvals=ticks, ticktext=[size(each) for each in ticks])
    else:
        figure.update_yaxes(title_text="ms a token" if batch == 1 else f"ms for {batch} tokens", rangemode="tozero")
    return figure


def scores_data(found: Row) -> tuple[str, dict[str, list[float]]]:
    """What is compared, and for each corpus the checkpoints' values in their order."""
    key, name = measure(found)
    return name, {corpus: [row[key] for row in scores_of(found, corpus)] for corpus in found["corpora"]}


def scores_figure(found: Row) -> go.Figure:
    """A group of bars for each checkpoint, a bar in it for each corpus."""
    name, values = scores_data(found)
    names = [html.escape(row["name"]) for row in found["checkpoints"]]
    figure = base(320, barmode="group", bargap=0.35)
    for at, (corpus, heights) in enumerate(values.items()):
        figure.add_trace(
            _bars(names, heights, html.escape(corpus), COLOURS[at % 6], [digits(each) for each in heights])
        )
    figure.update_layout(showlegend=len(values) > 1)
    figure.update_yaxes(title_text=name, rangemode="tozero")
    _short_names(figure, found)
    return figure


def memory_figure(found: Row) -> go.Figure:
    """Bytes of the weights."""
    names = [html.escape(row["name"]) for row in found["checkpoints"]]
    count = [row["weight_bytes"] for row in found["checkpoints"]]
    figure = base(320, showlegend=False, bargap=0.5)
    figure.add_trace(
        _bars(names, [each / 2**20 for each in count], "weights", COLOURS[0], [size(each) for each in count])
    )
    figure.update_yaxes(title_text="weights (MiB)", rangemode="tozero")
    _short_names(figure, found)
    return figure


def _short_names(figure: go.Figure, found: Row) -> None:
    """Only the ends of long names below the bars, for which a phone has no room."""
    names = [row["name"] for row in found["checkpoints"]]
    texts = [name if len(name) <= LONGEST_TICK else f"…{name[1 - LONGEST_TICK :]}" for name in names]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=[html.escape(text) for text in texts])


def _bars(names: Sequence[str], heights: Sequence[float], name: str, colour: str, texts: Sequence[str]) -> Any:
    bars = go.Bar(x=list(names), y=list(heights), name=name, marker={"color": colour}, text=list(texts), width=None)
    return bars.update(
        textposition="outside", cliponaxis=False, hovertemplate="%{x}: %{text}<extra>" + name + "</extra>"
    )


def _thousands(numbers: Sequence[int]) -> list[str]:
    return [f"{number:,}" for number in numbers]
