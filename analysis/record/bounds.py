"""Which values a numeric setting may have by the configuration's own rules, so that none beyond them is proposed."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..load import Sweep
from ..tables import absent, configured

BASE_BATCH = 32
"""Batch size for which the rates of `training.lr_rule` hold."""


class Bounds(NamedTuple):
    """The ends of what is allowed; by default any finite number above 0."""

    low: float = 0.0
    high: float = math.inf
    above: bool = True
    """Whether `low` itself is not allowed."""
    below: bool = True
    """Likewise `high`."""

    def hold(self, value: float) -> bool:
        """Whether the value is allowed."""
        over = value > self.low if self.above else value >= self.low
        return over and (value < self.high if self.below else value <= self.high)

    def reached(self, edge: float, wanted: float) -> float:
        """As far from an allowed `edge` towards `wanted` as is allowed: half the way to an end that itself is not."""
        if self.hold(wanted):
            return wanted
        end, excluded = (self.high, self.below) if wanted > edge else (self.low, self.above)
        return (edge + end) / 2 if excluded else end


_FROM_ZERO = Bounds(above=False)
_SHARE = Bounds(high=1.0, below=False)
_BOUNDS = {
    "training.beta1": Bounds(high=1.0, above=False),
    "training.beta2": Bounds(high=1.0, above=False),
    "training.weight_decay": _FROM_ZERO,
    "training.clip.percentile": Bounds(high=100.0, above=False, below=False),
    "training.early_stopping.min_delta": _FROM_ZERO,
    "training.lr_schedule.final": _SHARE._replace(above=False),
    "training.lr_schedule.factor": _SHARE,
    "training.fixed_point.stop_share": _SHARE,
    "training.fixed_point.noise": _FROM_ZERO,
    "training.fixed_point.diversity": Bounds(high=1.0, above=False),
    "training.fixed_point.validation_passes": Bounds(low=2.0, above=False),
    "model.dropout": Bounds(high=1.0, above=False),
    "model.num_input_tokens": Bounds(low=1.0, high=3.0, above=False, below=False),
}
_DIVIDES = {"model.num_heads": "model.embed_dim", "model.blocks": "model.ctx_dim"}
"""Setting -> the one that it must divide."""


def bounds(sweep: Sweep, path: str, row: Mapping[str, Any]) -> Bounds:
    """What a setting may be while the others are those of a row of `Sweep.trials`."""

    def other(name: str) -> Any:
        value = row.get(name, math.nan)
        return configured(sweep.spec, name) if absent(value) else value

    if path.startswith("training.lr_schedule.") and path not in _BOUNDS:
        return _in_schedule(path, other("training.lr_schedule.by"), other("training.epochs"))
    if path == "training.batch_size" and other("training.lr_rule") == "sqrt-sde":
        beta = min(other("training.beta1") or 0.0, other("training.beta2") or 0.0)
        return Bounds(high=math.floor(BASE_BATCH / (1 - beta) + 1e-6), below=False)
    if path == "model.num_positions" and isinstance(window := other("corpus.window"), int):
        return Bounds(low=window - 1, above=False)
    return _BOUNDS.get(path, Bounds())


def _in_schedule(path: str, by: Any, epochs: Any) -> Bounds:
    """Of the lengths in a course of the learning rate, which are shares of it unless they are counted in `by`."""
    warmup = path.endswith(".warmup")
    if by == "epoch" and warmup and isinstance(epochs, int):
        return Bounds(high=epochs, above=False)
    if by in (None, "share") and not path.endswith(".restarts"):
        return Bounds(high=1.0, above=not warmup, below=warmup)
    return Bounds(above=not warmup)


def divides(sweep: Sweep, path: str, value: float, row: Mapping[str, Any]) -> bool:
    """Whether what must divide something else, or be divided, is so."""
    for part, whole in _DIVIDES.items():
        sizes = [value if path == name else row.get(name, configured(sweep.spec, name)) for name in (part, whole)]
        if path in (part, whole) and all(isinstance(size, int) for size in sizes) and sizes[1] % sizes[0]:
            return False
    return True
