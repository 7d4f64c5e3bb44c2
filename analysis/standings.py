"""Where the best configurations of several sweeps stand among each other."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .best import best
from .load import Sweep


class Standing(NamedTuple):
    """Where the best configuration of a sweep stands among those of the others."""

    sweep: str
    loss: float
    """Nats per token, the mean over its seeds."""
    behind: float
    """The lowest such loss of all sweeps."""
    noise: float | None
    """Two standard errors of `behind` by the spread over seeds; None where no sweep has seeds."""


def standings(sweeps: Sequence[Sweep], names: Sequence[str]) -> list[Standing]:
    """The best configurations of the sweeps that have one at full fidelity, the lowest mean loss first."""
    rankings = [best(sweep, 10) for sweep in sweeps]
    found = [(name, each.trials) for name, each in zip(names, rankings, strict=True) if each.full_fidelity]
    variances = [float((rows["deviation"] ** 2).mean()) for _, rows in found]
    known = [variance for variance in variances if math.isfinite(variance)]
    shared = float(np.mean(known)) if known else None
    entries = []
    for (name, rows), variance in zip(found, variances, strict=True):
        own = variance if math.isfinite(variance) else shared
        square = None if own is None else own / int(rows["replicates"].iloc[0])
        entries.append((float(rows["mean"].iloc[0]), name, square))
    entries.sort(key=lambda entry: entry[:2])
    return [
        Standing(name, loss, loss - entries[0][0], _two_errors(entries[0][2], square) if at else None)
        for at, (loss, name, square) in enumerate(entries)
    ]


def _two_errors(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else 2 * math.sqrt(one + other)
