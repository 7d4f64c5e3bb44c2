"""Gradient clipping by the global L2 norm."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from tune_newllm.training.checks import one_of, positive, require
from tune_newllm.training.schedules import Position

ClipSchedule = Literal["none", "constant", "original", "piecewise", "linear", "percentile"]
ClipUnit = Literal["epoch", "step", "tokens"]
_ORIGINAL = ((0, 0.5), (10, 1.0), (30, 2.0))


@dataclass(frozen=True)
class ClipConfig:
    """Limit on the global L2 norm of the gradient.

    `none`: no limit. `constant`: `norm` always. `original`: 0.5, from the 11th epoch 1.0, from the 31st 2.0 (original
    research). `piecewise`: `table` of (start, norm) rows, each valid from its start on; the first starts at 0.
    `linear`: from `norm` at the start to `final` at `until`, and `final` from there on. `percentile`: the percentile of
    all gradient norms of the run so far, that of the step itself included (AutoClip, Seetharaman et al. 2020, arXiv
    2007.14469). Starts and `until` are counted in units of `by`; `original` always counts epochs, which are more
    updates the smaller the batch. A field is read only by the schedules it belongs to, so that a search may vary
    `schedule` alone.

    Raises:
        ValueError: a value breaks these rules.
    """

    schedule: ClipSchedule = "constant"
    norm: float = 1.0
    by: ClipUnit = "epoch"
    table: tuple[tuple[int, float], ...] | None = None
    final: float = 2.0
    until: float | None = None
    """None: the end of the run."""
    percentile: float = 10.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        one_of(ClipSchedule, "clip.schedule", self.schedule)
        one_of(ClipUnit, "clip.by", self.by)
        require(positive(self.norm), "clip.norm must be a finite number above 0", self.norm)
        require(positive(self.final), "clip.final must be a finite number above 0", self.final)
        if self.until is not None:
            require(positive(self.until), "clip.until must be a finite number above 0", self.until)
        require(0 <= self.percentile <= 100, "clip.percentile must be from 0 to 100", self.percentile)
        if self.table is not None:
            starts = [start for start, _ in self.table]
            increasing = all(before < after for before, after in itertools.pairwise(starts))
            require(starts[:1] == [0] and increasing, "clip.table must start at 0 and increase", self.table)
            require(all(positive(norm) for _, norm in self.table), "clip.table norms must be above 0", self.table)
        elif self.schedule == "piecewise":
            raise ValueError("clip.table must be given when clip.schedule is piecewise, e.g. [[0, 0.5], [10, 1.0]]")


def clip_limit(config: ClipConfig, position: Position, norms: Sequence[float]) -> float | None:
    """Largest norm allowed in the step that follows a position, None for no limit.

    Args:
        config: the schedule.
        position: where the run stands before the step.
        norms: of all gradients so far, this step's included, in ascending order; read by `percentile` alone. None so
            far is no limit.
    """
    if config.schedule == "constant":
        return config.norm
    if config.schedule == "original":
        return _valid(_ORIGINAL, position.at("epoch"))
    if config.schedule == "piecewise" and config.table is not None:
        return _valid(config.table, position.at(config.by))
    if config.schedule == "linear":
        share = min(1.0, position.at(config.by) / (config.until or position.end(config.by)))
        return config.norm + (config.final - config.norm) * share
    return _percentile(norms, config.percentile) if config.schedule == "percentile" and norms else None


def _valid(table: Sequence[tuple[int, float]], at: float) -> float:
    return max((start, norm) for start, norm in table if start <= at)[1]


def _percentile(ascending: Sequence[float], percentile: float) -> float:
    """Linear between the two nearest ranks, as numpy's."""
    rank = (len(ascending) - 1) * percentile / 100
    low, high = ascending[math.floor(rank)], ascending[math.ceil(rank)]
    return low + (high - low) * (rank % 1)
