"""What has happened in a sweep so far, as the driver needs it: built from records, kept up to date by records."""

import json
import re
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from tune_newllm.records import (
    CodeForced,
    EpochRecord,
    Record,
    SweepExtended,
    SweepStarted,
    TrialCrashed,
    TrialCreated,
    TrialEnded,
    TrialStarted,
    extended_end,
)
from tune_newllm.sweep.session import Session


@dataclass
class TrialHistory:
    """One trial: how it was made, its epochs in order, how it ended (None while it has not)."""

    created: TrialCreated
    epochs: dict[int, EpochRecord] = field(default_factory=dict)
    ended: TrialEnded | None = None
    started: bool = False
    crashes: int = 0
    """How often its process was lost since its last new epoch."""
    continued: int = 0
    """Epochs it had trained when the last extension took it up again; 0 where none did."""
    longer: list[SweepExtended] = field(default_factory=list)
    """Extensions to more epochs since it was created, which leave its schedules laid out as they were."""

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

    def add(self, record: TrialStarted | TrialCrashed | EpochRecord | TrialEnded) -> None:
        """Take in what happened to the trial."""
        if isinstance(record, TrialStarted):
            self.started = True
        elif isinstance(record, TrialCrashed):
            self.crashes += 1
        elif isinstance(record, EpochRecord):
            self.epochs[record.epoch] = record
            self.crashes = 0
        else:
            self.ended = record

    def extend(self, extension: SweepExtended) -> None:
        """Be unfinished again, or count as stopped, where all epochs were trained and there are more now."""
        if extension.epochs_before is not None and extension.epochs_before < extension.epochs:
            self.longer = [*self.longer, extension]
        if self.ended is not None:
            ended = extended_end(extension, self.ended)
            self.continued = self.continued if ended else self.ended.epoch
            self.ended = ended


@dataclass
class Suggestion:
    """A suggested configuration and the trials that run it, one for each of `seeds` seeds."""

    seeds: int
    trials: list[TrialHistory] = field(default_factory=list)
    made: int = 0
    """Replicates created so far, those whose creation is not on record any more included."""

    @property
    def id(self) -> str:
        """`t0007`, whatever its replicates add to it."""
        return self.trials[0].id.partition("-")[0]

    @property
    def parameters(self) -> dict[str, Any]:
        """Searched values by dotted path."""
        return self.trials[0].parameters

    @property
    def complete(self) -> bool:
        """Whether every replicate has been created."""
        return self.made >= self.seeds

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
        self.sessions: list[Session] = []
        """The drivers that have worked on the sweep."""
        self.work: list[tuple[float, float | None]] = []
        """(Seconds, devices or None where not known) of every epoch, those of lost trials included."""
        self.earlier: list[tuple[int, dict[int, Suggestion]]] = []
        """(Epochs of a full trial, the suggestions as they stood) before each extension to more epochs."""
        self.lost: set[str] = set()
        """Trials whose creation is not on record any more: a damaged line. What else is known of them is left out."""
        self.next_number = 0
        """One above every number that a suggestion has had, lost ones included."""
        for record in records:
            self.add(record)

    def add(self, record: Record) -> None:
        """Take in one more record."""
        if isinstance(record, SweepExtended | CodeForced):
            if isinstance(record, SweepExtended):
                self._extend(record)
            return
        session = self._session(record)
        if isinstance(record, EpochRecord):
            self.work.append((record.seconds, session.devices))
        if isinstance(record, TrialCreated):
            self._create(record)
        elif isinstance(record, TrialStarted | TrialCrashed | EpochRecord | TrialEnded):
            if record.trial_id not in self.trials:
                self._lose(record.trial_id)
                return
            self.trials[record.trial_id].add(record)
            if isinstance(record, EpochRecord):
                self.epochs.append(record)

    def _session(self, record: Record) -> Session:
        """The work that a record belongs to; a driver whose first line is damaged begins with its second."""
        if not self.sessions or not self.sessions[-1].wrote(record):
            devices = record.devices if isinstance(record, SweepStarted) else None
            self.sessions.append(Session(record.time, devices))
        self.sessions[-1].add(record)
        return self.sessions[-1]

    def _create(self, record: TrialCreated) -> None:
        if record.number not in self.suggestions:
            if last := next(reversed(self.suggestions.values()), None):
                # Replicates are created one after the other: of one that is missing the line is damaged.
                last.made = self._seeds
            self.suggestions[record.number] = Suggestion(self._seeds)
        trial = self.trials[record.trial_id] = TrialHistory(record)
        suggestion = self.suggestions[record.number]
        suggestion.trials.append(trial)
        suggestion.made = max(suggestion.made, record.replicate + 1)
        self.next_number = max(self.next_number, record.number + 1)

    def _lose(self, trial_id: str) -> None:
        self.lost.add(trial_id)
        if name := re.fullmatch(r"t(\d+)(?:-(\d+))?", trial_id):
            number, replicate = int(name[1]), int(name[2] or 0)
            self.next_number = max(self.next_number, number + 1)
            if number in self.suggestions:
                self.suggestions[number].made = max(self.suggestions[number].made, replicate + 1)

    def _extend(self, record: SweepExtended) -> None:
        known = {epochs for epochs, _ in self.earlier}
        if (
            record.epochs_before is not None
            and record.epochs_before < record.epochs
            and (record.epochs_before not in known)
        ):
            stood = {
                number: replace(each, trials=[replace(trial, epochs=dict(trial.epochs)) for trial in each.trials])
                for number, each in self.suggestions.items()
            }
            self.earlier.append((record.epochs_before, stood))
        for trial in self.trials.values():
            trial.extend(record)

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


def stratum(parameters: dict[str, Any], within: str | None) -> str:
    """What configurations must share to be compared: the value of `within`, which may be a mapping, as text; those that
    do not have the parameter are compared with each other."""
    return json.dumps(parameters[within], sort_keys=True) if within in parameters else ""
