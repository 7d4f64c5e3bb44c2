"""Figures of a sweep. Each has a data function, which returns plain numbers, and a drawing function, which returns a
`plotly.graph_objects.Figure` without background that reads on light and dark pages.
"""

from plotly.graph_objects import Figure

from .clip_schedules import clip_schedules_data, clip_schedules_figure
from .comparison import (
    Line,
    anytime,
    anytime_data,
    best_curves,
    best_curves_data,
    lr_batch_overlay,
    lr_batch_overlay_data,
)
from .cost import CostPoints, cost_data, cost_figure
from .curves import LearningCurves, learning_curves, learning_curves_data
from .data_law import PplTokens, ppl_tokens, ppl_tokens_data
from .effects import effect_figure, effect_frame, effects_data
from .hazard import hazard_data, hazard_figure
from .importances import importances_data, importances_figure
from .lr_batch import LrBatch, lr_batch, lr_batch_data
from .lr_law import Bowl, LawLines, batch_law, bowls_data, bowls_figure, law_figure, law_lines_data
from .parallel import MOST_DRAWN, ParallelCoordinates, parallel_coordinates, parallel_coordinates_data
from .pareto import pareto_data, pareto_figure
from .signals import (
    MOST_LINES,
    PlateauPoints,
    SignalLines,
    plateau_data,
    plateau_figure,
    signal_figure,
    signals_data,
)
from .slices import Slice, slice_data, slice_figure
from .survival import rung_survival, rung_survival_data

__all__ = [
    "MOST_DRAWN",
    "MOST_LINES",
    "Bowl",
    "CostPoints",
    "Figure",
    "LawLines",
    "LearningCurves",
    "Line",
    "LrBatch",
    "ParallelCoordinates",
    "PlateauPoints",
    "PplTokens",
    "SignalLines",
    "Slice",
    "anytime",
    "anytime_data",
    "batch_law",
    "best_curves",
    "best_curves_data",
    "bowls_data",
    "bowls_figure",
    "clip_schedules_data",
    "clip_schedules_figure",
    "cost_data",
    "cost_figure",
    "effect_figure",
    "effect_frame",
    "effects_data",
    "hazard_data",
    "hazard_figure",
    "importances_data",
    "importances_figure",
    "law_figure",
    "law_lines_data",
    "learning_curves",
    "learning_curves_data",
    "lr_batch",
    "lr_batch_data",
    "lr_batch_overlay",
    "lr_batch_overlay_data",
    "parallel_coordinates",
    "parallel_coordinates_data",
    "pareto_data",
    "pareto_figure",
    "plateau_data",
    "plateau_figure",
    "ppl_tokens",
    "ppl_tokens_data",
    "rung_survival",
    "rung_survival_data",
    "signal_figure",
    "signals_data",
    "slice_data",
    "slice_figure",
]
