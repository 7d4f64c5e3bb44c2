"""What a sweep has used of its budget, counted from its records."""

from typing import NamedTuple

from tune_newllm.sweep.history import History
from tune_newllm.sweep.spec import SweepSpec


class Use(NamedTuple):
    """How much of one limit is used: `wall` in seconds, `device_hours` in hours, `epochs` as a number."""

    key: str
    used: float
    limit: float

    @property
    def reached(self) -> bool:
        """Nothing is left."""
        return self.used >= self.limit


def uses(spec: SweepSpec, history: History, now: float | None) -> list[Use]:
    """The use of every limit that the sweep's budget sets.

    Wall time is that of all drivers, from their start to their last record. A device hour is an hour of training and
    evaluation on one GPU, or on one processor where trials have no GPU; epochs that were lost are not counted.

    Args:
        now: Unix time in seconds up to which the last driver has worked; None: it does not work any more.
    """
    limits = spec.budget
    found = []
    if limits.wall is not None:
        wall = sum(last - start for start, last in history.sessions)
        since = max(0.0, now - history.sessions[-1][1]) if now is not None and history.sessions else 0.0
        found.append(Use("wall", wall + since, limits.wall))
    if limits.device_hours is not None:
        gpus = spec.resources.gpus_per_trial
        devices = gpus if gpus != "auto" and gpus else spec.resources.cpus_per_trial
        hours = sum(row.seconds for row in history.epochs) * devices / 3600
        found.append(Use("device_hours", hours, limits.device_hours))
    if limits.epochs is not None:
        found.append(Use("epochs", len(history.epochs), limits.epochs))
    return found
