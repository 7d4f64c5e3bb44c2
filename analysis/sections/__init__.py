"""The sections of the report, in order: the evidence for the answers, then where it comes from."""

from ..load import Sweep
from ..markup import Section
from .cost import fronts, throughput
from .data import data
from .effects import clipping, effects, importances, interactions
from .families import family_comparison
from .laws import bowls, lr_batch, lr_size
from .provenance import provenance
from .training import curves, signals, stopping
from .trials import best_configurations, failed, parallel, slices

_ORDER = (
    best_configurations,
    family_comparison,
    parallel,
    lr_batch,
    bowls,
    lr_size,
    data,
    slices,
    effects,
    importances,
    interactions,
    clipping,
    fronts,
    curves,
    signals,
    stopping,
    throughput,
    failed,
    provenance,
)


def sections(sweep: Sweep) -> list[Section]:
    """Those sections for which the sweep has anything to show."""
    made = [make(sweep) for make in _ORDER]
    return [section for section in made if section is not None]
