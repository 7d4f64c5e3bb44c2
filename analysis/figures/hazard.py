"""Failures: how many trials came to nothing, along the parameter with which that goes most clearly."""

import html

import plotly.graph_objects as go

from ..hazard import Hazard, hazard
from ..load import Sweep
from ..words import STATES
from .axes import shortened
from .style import STATE_COLOURS, base

LONGEST_NAME = 24

_PATTERNS = {"diverged": "x", "infeasible": "/", "failed": "."}
"""For print without colours, and because two of the states share one."""


PATTERN = {"fillmode": "overlay", "fgcolor": "#101418", "size": 6, "solidity": 0.2}


def hazard_data(sweep: Sweep) -> Hazard | None:
    """Counts by value of that parameter; None where no parameter tells failures from others."""
    return hazard(sweep)


def hazard_figure(found: Hazard) -> go.Figure:
    """Stacked bars, one for each value or part of a range, smallest on top."""
    figure = base(90 + 30 * len(found.bins), barmode="stack", bargap=0.35)
    counts = {"did not fail": [each.fine for each in found.bins]}
    counts |= {STATES[state]: [each.failed[state] for each in found.bins] for state in _PATTERNS}
    colours = {"did not fail": STATE_COLOURS["stopped"]} | {STATES[state]: STATE_COLOURS[state] for state in _PATTERNS}
    patterns = {STATES[state]: shape for state, shape in _PATTERNS.items()}
    for name, numbers in counts.items():
        if any(numbers):
            figure.add_trace(
                go.Bar(
                    y=list(range(len(numbers))),
                    x=numbers,
                    orientation="h",
                    name=name,
                    marker={
                        "color": colours[name],
                        "pattern": PATTERN | {"shape": patterns.get(name, "")},
                    },
                    hovertemplate="%{x} " + name + "<extra></extra>",
                )
            )
    names = [html.escape(name) for name in shortened([each.name for each in found.bins], LONGEST_NAME)]
    figure.update_layout(legend_traceorder="normal")
    figure.update_yaxes(title_text=html.escape(found.label), tickvals=list(range(len(names))), ticktext=names)
    figure.update_yaxes(range=[len(names) - 0.5, -0.5], ticks="", showgrid=False)
    most = max(each.fine + sum(each.failed.values()) for each in found.bins)
    figure.update_xaxes(title_text="trials", tickformat="d", rangemode="tozero", dtick=1 if most <= 10 else None)
    return figure
