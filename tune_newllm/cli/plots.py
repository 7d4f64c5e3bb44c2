"""Plots in the terminal, readable without colours."""

import math
from typing import TYPE_CHECKING

from analysis.figures.axes import linear_ticks, log_ticks
from analysis.words import shown

if TYPE_CHECKING:
    from tune_newllm.cli.curves import Curve, Plot

HEIGHT = 15


def drawn(plot: "Plot", width: int) -> str:
    """The plot in lines of at most `width` characters: a title, a legend where there are several curves, the curves.

    A curve alone is a fine line; several are made of a letter or digit each, of which the later covers the earlier.
    """
    import plotext

    letters = _letters([curve.label for curve in plot.curves])
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)
    plotext.plotsize(width, HEIGHT)
    for curve, letter in zip(plot.curves, letters, strict=True):
        points = [(x, y) for x, y in zip(curve.x, curve.y, strict=True) if y is not None]
        if points:
            plotext.plot(*zip(*points, strict=True), marker=letter if len(letters) > 1 else "braille")
    _scales(plot)
    plotext.xlabel(plot.x_label)
    lines = [line.rstrip() for line in plotext.uncolorize(plotext.build()).splitlines()]
    return "\n".join([plot.title, *_legend(plot.curves, letters, width), *lines])


def _scales(plot: "Plot") -> None:
    """Axes with round ticks, the vertical one from 0 unless it is logarithmic."""
    import plotext

    across = [x for curve in plot.curves for x in curve.x]
    up = [y for curve in plot.curves for y in curve.y if y is not None]
    if plot.log:
        plotext.xscale("log")
        plotext.yscale("log")
        sizes = sorted(set(across))
        x_ticks = sizes if len(sizes) <= 10 else log_ticks(sizes[0], sizes[-1])
        y_ticks = log_ticks(min(up), max(up))
    else:
        top = max(up)
        plotext.ylim(0, top)
        x_ticks, y_ticks = linear_ticks(0, math.ceil(max(across))), linear_ticks(0, top)
        plotext.xlim(0, math.ceil(max(across)))
    plotext.xticks(x_ticks, [shown(tick) for tick in x_ticks])
    plotext.yticks(y_ticks, [shown(tick) for tick in y_ticks])


def _legend(curves: "list[Curve]", letters: list[str], width: int) -> list[str]:
    """What the letters stand for, where there are several curves, and which have no numbers to draw."""
    lines = [""]
    for curve, letter in zip(curves, letters, strict=True):
        entry = f"{letter} {curve.label}{'' if any(y is not None for y in curve.y) else ' (not drawn)'}"
        if len(lines[-1]) + len(entry) + 3 > width and lines[-1]:
            lines.append("")
        lines[-1] += f"   {entry}"
    return lines if len(curves) > 1 else []


def _letters(labels: list[str]) -> list[str]:
    """For each label a letter of its own, its first where that is free; then digits, then a star for all the rest."""
    taken: list[str] = []
    for label in labels:
        wanted = [letter for letter in label.lower() if letter.isalpha()] + list("xyzabcdefghijklmnopqrstuvw0123456789")
        taken.append(next((letter for letter in wanted if letter not in taken), "*"))
    return taken
