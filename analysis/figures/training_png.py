"""Curves of one training as a picture for a document."""

import io
import math
from typing import TYPE_CHECKING, Any

from .style import ACCENT, MUTED
from .training_curves import TRAIN, VALIDATION, TrainingCurves, Values

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_png(data: TrainingCurves) -> bytes:
    """Loss and perplexity side by side as the original research drew them: 14 by 5 inches at 150 dots per inch, train
    as circles, validation as squares. matplotlib draws it.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 5), dpi=150, layout="constrained")
    figure.suptitle(data.name)
    left, right = figure.subplots(1, 2)
    _panel(left, data, data.train_losses, data.val_losses, "loss (nats per token)")
    _panel(right, data, data.train_ppls, data.val_ppls, "perplexity")
    if data.tallest is not None:
        right.set_ylim(0, data.tallest)
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _panel(axes: "Axes", data: TrainingCurves, train: Values, validation: Values, label: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for values, name, colour, marker in ((train, "train", TRAIN, "o"), (validation, "validation", VALIDATION, "s")):
        known = [math.nan if value is None else value for value in values]
        axes.plot(data.epochs, known, color=colour, marker=marker, markersize=4, linewidth=1.5, label=name)
    best = validation[data.best - 1]
    if best is not None:
        mark: dict[str, Any] = {"marker": "s", "markersize": 10, "markerfacecolor": "none", "linestyle": "none"}
        axes.plot([data.best], [best], color=ACCENT, label=f"best: {best:.4g}, epoch {data.best}", **mark)
    for epoch in data.courses:
        axes.axvline(epoch + 0.5, color=MUTED, linestyle=":", linewidth=1)
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
