"""What has happened in a sweep so far, as the driver needs it: built from records, kept up to date by records."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tune_newllm.records import EpochRecord, Record, TrialCreated, TrialEnded, TrialStarted


@dataclass
class TrialHistory:
    """One trial: how it was made, its epochs in order, how it ended (None while it has not)."""

    created: TrialCreated
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    ended: TrialEnded | None = None
    started: bool = False

    @property
    def id(self) -> str:
        """Name of the trial and of its folder."""
        return self.created.trial_id

    @property
    def parameters(self) -> dict[str, Any]:
        """Searched values by dotted path."""
        return self.created.parameters

    @property
    def state(self) -> str:
        """`waiting`, `running` or a final state."""
        if self.ended is not None:
            return self.ended.state
        return "running" if self.started else "waiting"

    @property
    def value(self) -> float | None:
        """Lowest val_loss so far (nats per token)."""
        return min((row.val_loss for row in self.epochs.values()), default=None)


class History:
    """All trials of a sweep in order of suggestion."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self.trials: dict[str, TrialHistory] = {}
        self.epochs: list[EpochRecord] = []
        """Every epoch in the order of the file: what replaying ASHA needs."""
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in one more record."""
        if isinstance(record, TrialCreated):
            self.trials[record.trial_id] = TrialHistory(record)
        elif isinstance(record, TrialStarted):
            self.trials[record.trial_id].started = True
        elif isinstance(record, EpochRecord):
            self.trials[record.trial_id].epochs[record.epoch] = record
            self.epochs.append(record)
        elif isinstance(record, TrialEnded):
            self.trials[record.trial_id].ended = record

    def unfinished(self) -> list[TrialHistory]:
        """Trials without an end, in order of suggestion."""
        return [trial for trial in self.trials.values() if trial.ended is None]

    def count(self, *states: str) -> int:
        """Number of trials in any of the states."""
        return sum(trial.state in states for trial in self.trials.values())

    def best(self) -> TrialHistory | None:
        """The trial with the lowest value: of the completed ones, else of those that may still complete or were
        stopped; one that diverged or failed says nothing for its configuration."""
        valued = [trial for trial in self.trials.values() if trial.value is not None]
        completed = [trial for trial in valued if trial.state == "completed"]
        others = [trial for trial in valued if trial.state in ("running", "stopped", "crashed")]
        return min(completed or others, key=lambda trial: trial.value or 0.0, default=None)
