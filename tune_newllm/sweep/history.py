"""What has happened in a sweep so far, as the driver needs it: built from records, kept up to date by records."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tune_newllm.records import EpochRecord, Record, SweepStarted, TrialCreated, TrialEnded, TrialStarted


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


@dataclass
class Suggestion:
    """A suggested configuration and the trials that run it, one for each of `seeds` seeds."""

    seeds: int
    trials: list[TrialHistory] = field(default_factory=list)

    @property
    def id(self) -> str:
        """`t0007`, whatever its replicates add to it."""
        return self.trials[0].id.removesuffix("-0") if self.seeds > 1 else self.trials[0].id

    @property
    def parameters(self) -> dict[str, Any]:
        """Searched values by dotted path."""
        return self.trials[0].parameters

    @property
    def complete(self) -> bool:
        """Whether every replicate has been created."""
        return len(self.trials) == self.seeds

    @property
    def state(self) -> str:
        """`waiting`, `running`, or once every replicate has ended what they say of the configuration together.

        A replicate that diverged, did not fit or was stopped speaks for all; `completed` needs one that completed. One
        that crashed or failed says nothing of the configuration, unless none says more.
        """
        states = [trial.state for trial in self.trials]
        if not self.complete or any(trial.ended is None for trial in self.trials):
            return "waiting" if set(states) == {"waiting"} else "running"
        order = ("diverged", "infeasible", "stopped", "completed", "crashed", "failed")
        return next(state for state in order if state in states)

    @property
    def value(self) -> float | None:
        """Mean of the replicates' values: of the completed ones if any has completed, else of all that have one."""
        valued = [trial for trial in self.trials if trial.value is not None]
        counted = [trial for trial in valued if trial.state == "completed"] or valued
        return statistics.fmean(trial.value or 0.0 for trial in counted) if counted else None

    def level(self, epoch: int) -> float | None:
        """Mean val_loss of the replicates that reached an epoch, once each has reached it or ended; else None.

        From then on it never changes, so that it is the same whether it is taken live or from the records.
        """
        settled = all(epoch in trial.epochs or trial.ended is not None for trial in self.trials)
        reached = [trial.epochs[epoch].val_loss for trial in self.trials if epoch in trial.epochs]
        return statistics.fmean(reached) if reached and settled and self.complete else None


class History:
    """All trials of a sweep in order of creation, and the suggestions that they run.

    Args:
        records: what is on record.
        seeds: replicates of each suggestion.
    """

    def __init__(self, records: Iterable[Record] = (), seeds: int = 1) -> None:
        self._seeds = seeds
        self.trials: dict[str, TrialHistory] = {}
        self.suggestions: dict[int, Suggestion] = {}
        self.epochs: list[EpochRecord] = []
        """Every epoch in the order of the file: what replaying ASHA needs."""
        self.sessions: list[tuple[float, float]] = []
        """(Start, last record) of each driver that has worked on the sweep, in Unix seconds."""
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in one more record."""
        if isinstance(record, SweepStarted):
            self.sessions.append((record.time, record.time))
        elif self.sessions:
            self.sessions[-1] = (self.sessions[-1][0], record.time)
        if isinstance(record, TrialCreated):
            trial = self.trials[record.trial_id] = TrialHistory(record)
            self.suggestions.setdefault(record.number, Suggestion(self._seeds)).trials.append(trial)
        elif isinstance(record, TrialStarted):
            self.trials[record.trial_id].started = True
        elif isinstance(record, EpochRecord):
            self.trials[record.trial_id].epochs[record.epoch] = record
            self.epochs.append(record)
        elif isinstance(record, TrialEnded):
            self.trials[record.trial_id].ended = record

    def suggestion(self, trial: TrialHistory) -> Suggestion:
        """The suggestion that a trial belongs to."""
        return self.suggestions[trial.created.number]

    def unfinished(self) -> list[TrialHistory]:
        """Trials without an end, in order of creation."""
        return [trial for trial in self.trials.values() if trial.ended is None]

    def count(self, *states: str) -> int:
        """Number of trials in any of the states."""
        return sum(trial.state in states for trial in self.trials.values())

    def best(self) -> Suggestion | None:
        """The configuration with the lowest value: of the completed ones, else of those that may still complete or
        were stopped; one that diverged or failed says nothing for its configuration."""
        valued = [suggestion for suggestion in self.suggestions.values() if suggestion.value is not None]
        completed = [suggestion for suggestion in valued if suggestion.state == "completed"]
        others = [suggestion for suggestion in valued if suggestion.state in ("running", "stopped", "crashed")]
        return min(completed or others, key=lambda suggestion: suggestion.value or 0.0, default=None)
