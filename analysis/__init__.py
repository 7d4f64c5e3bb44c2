"""What a sweep found: tables, rankings, figures and the report, from a sweep folder alone.

>>> import analysis
>>> sweep = analysis.load("sweeps/lr_batch")
>>> analysis.best(sweep, 3).trials
>>> analysis.figures.lr_batch(sweep)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .answers import answers
from .best import Best, best
from .clip_schedules import ClipSchedules, clip_schedules
from .data_law import DataLaw, data_law
from .effects import Effects, effects
from .failures import Failure, failures
from .floor_law import FloorLaw, fit_floor_law
from .hazard import Hazard, hazard
from .importance import Importances, importances
from .interactions import Interaction, interactions
from .load import Sweep, load
from .pareto import Front, pareto
from .power_law import PowerLaw, Prediction, fit_power_law
from .run_folder import is_run, load_run
from .rungs import RungCount, rung_epochs, survival
from .summary import summary

if TYPE_CHECKING:
    from . import figures
    from .comparison import compare
    from .lr_fit import fit_lr_batch_law, fit_lr_size_law
    from .record import record, write_record
    from .report import write_comparison, write_evaluation, write_report, write_training, write_training_picture

__all__ = [
    "Best",
    "ClipSchedules",
    "DataLaw",
    "Effects",
    "Failure",
    "FloorLaw",
    "Front",
    "Hazard",
    "Importances",
    "Interaction",
    "PowerLaw",
    "Prediction",
    "RungCount",
    "Sweep",
    "answers",
    "best",
    "clip_schedules",
    "compare",
    "data_law",
    "effects",
    "failures",
    "figures",
    "fit_floor_law",
    "fit_lr_batch_law",
    "fit_lr_size_law",
    "fit_power_law",
    "hazard",
    "importances",
    "interactions",
    "is_run",
    "load",
    "load_run",
    "pareto",
    "record",
    "rung_epochs",
    "summary",
    "survival",
    "write_comparison",
    "write_evaluation",
    "write_record",
    "write_report",
    "write_training",
    "write_training_picture",
]


def __getattr__(name: str) -> Any:
    """The figures and the report, once they are asked for: plotly alone takes longer to load than `status` may."""
    if name == "figures":
        return import_module(".figures", __name__)
    if name in ("fit_lr_batch_law", "fit_lr_size_law"):
        return getattr(import_module(".lr_fit", __name__), name)
    if name == "compare":
        return import_module(".comparison", __name__).compare
    if name in ("record", "write_record"):
        return getattr(import_module(".record", __name__), name)
    if name in ("write_comparison", "write_evaluation", "write_report", "write_training", "write_training_picture"):
        return getattr(import_module(".report", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
