"""What a sweep found: tables, rankings, figures and the report, from a sweep folder alone.

>>> import analysis
>>> sweep = analysis.load("sweeps/lr_batch")
>>> analysis.best(sweep, 3).trials
>>> analysis.figures.lr_batch(sweep)
"""

from . import figures
from .answers import answers
from .best import Best, best
from .failures import Failure, failures
from .load import Sweep, load
from .report import write_report
from .rungs import RungCount, rung_epochs, survival
from .summary import summary

__all__ = [
    "Best",
    "Failure",
    "RungCount",
    "Sweep",
    "answers",
    "best",
    "failures",
    "figures",
    "load",
    "rung_epochs",
    "summary",
    "survival",
    "write_report",
]
