"""Rung survival: how many trials reached each rung of early stopping and how many it let go on."""

import html

import plotly.graph_objects as go

from ..load import Sweep
from ..rungs import RungCount, survival
from ..words import label, shown
from .style import STATE_COLOURS, base


def rung_survival_data(sweep: Sweep) -> list[RungCount]:
    """One row per group and rung; empty without early stopping."""
    return survival(sweep)


def rung_survival(sweep: Sweep) -> go.Figure:
    """Bars of what became of the trials at each rung, one block of bars per rung where rungs are kept apart."""
    rows = rung_survival_data(sweep)
    figure = base(90 + 30 * len(rows), barmode="stack", bargap=0.35)
    if not rows:
        return figure
    rows = sorted(rows, key=lambda row: row.rung)
    names = _names(rows, (sweep.spec.get("early_terminate") or {}).get("within"))
    for field, title, state in (
        ("went_on", "went on", "completed"),
        ("stopped", "stopped", "stopped"),
        ("undecided", "not decided yet", "running"),
    ):
        counts = [getattr(row, field) for row in rows]
        if any(counts):
            text = [str(count) if count else "" for count in counts]
            figure.add_trace(
                go.Bar(
                    y=names,
                    x=counts,
                    orientation="h",
                    name=title,
                    marker={"color": STATE_COLOURS[state]},
                    text=text,
                    textposition="inside",
                    insidetextanchor="middle",
                    textangle=0,
                    insidetextfont={"color": "#ffffff" if state == "completed" else "#101418"},
                    hovertemplate="%{y}: %{x} " + title + "<extra></extra>",
                )
            )
    figure.update_layout(legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed", ticks="", showgrid=False)
    most = max(row.reached for row in rows)
    figure.update_xaxes(title_text="trials", tickformat="d", rangemode="tozero", dtick=1 if most <= 10 else None)
    return figure


def _names(rows: list[RungCount], within: str | None) -> list[str] | list[list[str]]:
    """Names of the bars; two levels, rung and group, where rungs are kept apart."""
    rungs = [f"epoch {row.rung}" for row in rows]
    if within is None:
        return rungs
    return [rungs, [html.escape(f"{label(within)} {shown(row.group)}") for row in rows]]
