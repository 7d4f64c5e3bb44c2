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
from .data_law import DataLaw, data_law
from .failures import Failure, failures
from .floor_law import FloorLaw, fit_floor_law
from .load import Sweep, load
from .power_law import PowerLaw, Prediction, fit_power_law
from .rungs import RungCount, rung_epochs, survival
from .summary import summary

if TYPE_CHECKING:
    from . import figures
    from .comparison import compare
    from .lr_fit import fit_lr_batch_law, fit_lr_size_law
    from .report import write_comparison, write_report

__all__ = [
    "Best",
    "DataLaw",
    "Failure",
    "FloorLaw",
    "PowerLaw",
    "Prediction",
    "RungCount",
    "Sweep",
    "answers",
    "best",
    "compare",
    "data_law",
    "failures",
    "figures",
    "fit_floor_law",
    "fit_lr_batch_law",
    "fit_lr_size_law",
    "fit_power_law",
    "load",
    "rung_epochs",
    "summary",
    "survival",
    "write_comparison",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """The figures and the report, once they are asked for: plotly alone takes longer to load than `status` may."""
    if name == "figures":
        return import_module(".figures", __name__)
    if name in ("fit_lr_batch_law", "fit_lr_size_law"):
        return getattr(import_module(".lr_fit", __name__), name)
    if name == "compare":
        return import_module(".comparison", __name__).compare
    if name in ("write_comparison", "write_report"):
        return getattr(import_module(".report", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
