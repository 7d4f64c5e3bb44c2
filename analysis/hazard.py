"""Where in the space of settings trials came to nothing."""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from .failures import FAILED
from .least_squares import holm
from .load import Sweep
from .once import once
from .terms import MOST_LEVELS, Term, term
from .words import counted, shown

LEAST_FAILED = 3

BINS = 6
"""Of equal width on its axis, that a range is cut into."""

LEVEL = 0.05


class Bin(NamedTuple):
    name: str
    """A value, or `low to high`."""
    start: str
    """The value, or `low`."""
    fine: int
    """Trials that did not fail."""
    failed: dict[str, int]
    """Trials by state, of the states in `FAILED` other than crashed."""

    @property
    def share(self) -> float:
        return sum(self.failed.values()) / max(1, self.fine + sum(self.failed.values()))


class Hazard(NamedTuple):
    """The parameter with which failures go most clearly."""

    path: str
    label: str
    ordered: bool
    """Whether the bins are sizes, not names."""
    bins: list[Bin]
    p: float
    """Of Pearson's chi-squared test that the share of failures is the same in all bins, adjusted for the number of
    parameters tested (Holm); rough where few trials fell into a bin."""


@once
def hazard(sweep: Sweep) -> Hazard | None:
    """None where fewer than three trials failed or no parameter tells them from the others.

    Trials that diverged, did not fit into memory or failed count as failed; those that run, were interrupted or lost
    their machine do not count at all.
    """
    trials = sweep.trials[~sweep.trials["state"].isin(("running", "interrupted", "crashed"))]
    failed = trials["state"].isin(FAILED).to_numpy(dtype="bool")
    if failed.sum() < LEAST_FAILED or failed.all():
        return None
    rules = sweep.spec.get("parameters") or {}
    coded = [term(trials[path], path, rules.get(path), 1) for path in sweep.searched]
    found = [(one, _binned(one)) for one in coded if one is not None]
    tests = [_chi_squared(at, failed) for _, (at, *_) in found]
    adjusted = holm(tests)
    known = [(p, place) for place, p in enumerate(adjusted) if not math.isnan(p)]
    if not known or (least := min(known))[0] >= LEVEL:
        return None
    one, (at, names, starts) = found[least[1]]
    states = trials["state"].to_numpy(dtype="object")
    bins = []
    for index, (name, start) in enumerate(zip(names, starts, strict=True)):
        here = states[at == index]
        counts = {state: int((here == state).sum()) for state in FAILED if state != "crashed"}
        bins.append(Bin(name, start, len(here) - sum(counts.values()), counts))
    return Hazard(one.path, one.label, one.kind != "category", bins, least[0])


def _binned(one: Term) -> tuple[np.ndarray, list[str], list[str]]:
    """[trials] the bin of each, -1 where it does not have the parameter, and the bins' names and starts."""
    known = ~np.isnan(one.position)
    if one.kind in ("category", "list"):
        last = len(one.values) - 1
        steps = one.position if one.kind == "category" else (one.position + 1) / 2 * last
        names = [shown(value) for value in one.values]
        return np.where(known, np.round(np.nan_to_num(steps)), -1).astype("int64"), names, names
    at = np.where(known, np.minimum((np.nan_to_num(one.position) + 1) / 2 * BINS, BINS - 1), -1).astype("int64")
    spaced = np.geomspace if one.kind == "log" else np.linspace
    edges = spaced(float(one.values[0]), float(one.values[-1]), BINS + 1).tolist()
    ends = [_short(edge) for edge in edges]
    return at, [f"{low} to {high}" for low, high in pairwise(ends)], ends[:-1]


def _short(value: float) -> str:
    return shown(float(f"{value:.2g}"))


def _chi_squared(at: np.ndarray, failed: np.ndarray) -> float:
    from scipy.special import chdtrc

    at, failed = at[at >= 0], failed[at >= 0]
    counts = np.array([np.bincount(at[failed == state], minlength=MOST_LEVELS) for state in (False, True)])
    counts = counts[:, counts.sum(axis=0) > 0].astype("float64")
    if counts.shape[1] < 2 or (counts.sum(axis=1) == 0).any():
        return math.nan
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    return float(chdtrc(counts.shape[1] - 1, ((counts - expected) ** 2 / expected).sum()))


def hazard_summary(found: Hazard | None) -> dict[str, Any] | None:
    """The same, ready for JSON."""
    if found is None:
        return None
    return found._asdict() | {"bins": [each._asdict() | {"share": each.share} for each in found.bins]}


def hazard_sentence(found: Hazard) -> str:
    """Where most failed: above or below a size, or at one value of a category."""
    counts = np.array([[sum(each.failed.values()), each.fine] for each in found.bins])
    splits = [(np.arange(len(counts)) >= at, found.bins[at].start) for at in range(1, len(counts))]
    if not found.ordered:
        splits = [(np.arange(len(counts)) == at, each.start) for at, each in enumerate(found.bins)]
    tables = [np.array([counts[chosen].sum(axis=0), counts[~chosen].sum(axis=0)]) for chosen, _ in splits]
    at = int(np.argmax([_contrast(table) for table in tables]))
    (here, there), start = tables[at], splits[at][1]
    where = f"at {start} and above" if found.ordered else f"at {start}"
    if here[0] / max(1, here.sum()) < there[0] / max(1, there.sum()):
        here, there = there, here
        where = f"below {start}" if found.ordered else f"elsewhere than at {start}"
    return (
        f"Failures go most clearly with the {found.label}: {here[0]} of {counted(int(here.sum()), 'trial')} failed "
        f"{where}, {there[0]} of the {there.sum()} others."
    )


def _contrast(table: np.ndarray) -> float:
    """Pearson's chi-squared of a table of two by two, up to a factor that is the same for all splits."""
    (a, b), (c, d) = table.astype("float64")
    return float((a * d - b * c) ** 2 / max(1.0, (a + b) * (c + d)))
