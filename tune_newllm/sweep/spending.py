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


def uses(spec: SweepSpec, history: History, elapsed: float | None) -> list[Use]:
    """The use of every limit that the sweep's budget sets.

    Wall time is that of all drivers, from their start to their last record. A device hour is an hour of training and
    evaluation on one GPU, or on one processor where trials have no GPU; epochs that were never recorded do not count.

    Args:
        elapsed: seconds that the last driver has worked so far; None: it does not work any more.
    """
    limits = spec.budget
    found = []
    if limits.wall is not None:
        worked = [session.worked for session in history.sessions]
        if elapsed is not None and worked:
            worked[-1] = max(worked[-1], elapsed)
        found.append(Use("wall", sum(worked), limits.wall))
    if limits.device_hours is not None:
        gpus = spec.resources.gpus_per_trial
        usual = gpus if gpus != "auto" and gpus else spec.resources.cpus
        used = sum(seconds * (usual if devices is None else devices) for seconds, devices in history.work)
        found.append(Use("device_hours", used / 3600, limits.device_hours))
    if limits.epochs is not None:
        found.append(Use("epochs", len(history.work), limits.epochs))
    return found
