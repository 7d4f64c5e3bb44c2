"""The one writer of a sweep: every event goes first to the records, then to memory, study and listener."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from tune_newllm.errors import SpecError
from tune_newllm.models import parameter_count
from tune_newllm.records import (
    EpochRecord,
    Record,
    SweepEnded,
    SweepStarted,
    TrialCreated,
    TrialEnded,
    TrialStarted,
    TrialState,
)
from tune_newllm.sweep.folder import RecordWriter, SweepFolder
from tune_newllm.sweep.history import History, TrialHistory
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.spending import Use, uses
from tune_newllm.sweep.study import Study, config_id
from tune_newllm.training.config import Configuration
from tune_newllm.training.optim import effective_lr

Listener = Callable[[Record], None]


class Driver:
    """Turns what happens in a sweep into records.

    Args:
        folder: the sweep, new or with a past; its past is read and the study rebuilt from it.
        vocab_size: words of its corpus.
        listener: told each record after it was written; progress displays live here.
    """

    def __init__(self, folder: SweepFolder, spec: SweepSpec, vocab_size: int, listener: Listener) -> None:
        self.folder, self.spec = folder, spec
        self.history = History(folder.read(), spec.seeds)
        self.study = Study(spec, folder.journal, self.history)
        self._vocab_size = vocab_size
        self._writer = RecordWriter(folder)
        self._listener = listener
        self._working = False

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles all it is given for a restore that never happens: a resume reads the records.
        return {}

    def start(self, started: SweepStarted) -> None:
        """A driver begins to work."""
        self._write(started)
        self._working = True
        for trial in self.history.unfinished():
            # The crash came between an impossible trial's first record and its last.
            self._end_impossible(trial)

    def exhausted(self) -> bool:
        """Nothing is unfinished, and nothing would follow."""
        return not self.history.unfinished() and self._next() is None

    def over_budget(self) -> list[Use]:
        """The limits of the budget that are reached."""
        now = time.time() if self._working else None
        return [use for use in uses(self.spec, self.history, now) if use.reached]

    def configuration(self, trial: TrialHistory) -> Configuration:
        """What a trial trains: its values in the base configuration, and the seed of its own.

        Raises:
            SpecError: the values make an impossible configuration.
        """
        configuration = self.spec.configuration(trial.parameters)
        return replace(configuration, training=replace(configuration.training, seed=trial.created.seed))

    def create(self) -> TrialHistory | None:
        """The next trial, or None when the cap is reached or nothing new is left.

        One whose values make an impossible configuration has ended already, as infeasible.
        """
        row = self._next()
        if row is None:
            return None
        with suppress(SpecError):
            configuration = self.spec.configuration(row["parameters"])
            size = parameter_count(configuration.model, self._vocab_size)
            row |= {"model_size": size, "lr": effective_lr(configuration.training, size)}
        created = TrialCreated.model_validate({**row, "time": time.time()})
        self._write(created)
        trial = self.history.trials[created.trial_id]
        if created.replicate == 0:
            self.study.add(trial)
        self._end_impossible(trial)
        return trial

    def _end_impossible(self, trial: TrialHistory) -> None:
        try:
            self.configuration(trial)
        except SpecError as error:
            self.ended(trial.id, "infeasible", f"impossible configuration: {error}")

    def _next(self) -> dict[str, Any] | None:
        """What the next trial is: a further replicate of the last suggestion, or the first of a new one."""
        number, replicate = len(self.history.suggestions), 0
        suggestion: tuple[dict[str, Any], str] | None = None
        if number and not (last := self.history.suggestions[number - 1]).complete:
            number, replicate = number - 1, len(last.trials)
            suggestion = last.parameters, last.trials[0].created.origin
        elif self.spec.run_cap is None or number < self.spec.run_cap:
            suggestion = self.study.suggest()
        if suggestion is None:
            return None
        parameters, origin = suggestion
        return {
            "trial_id": f"t{number:04d}-{replicate}" if self.spec.seeds > 1 else f"t{number:04d}",
            "config_id": config_id(parameters),
            "number": number,
            "replicate": replicate,
            "seed": self.spec.training.seed + replicate,
            "origin": origin,
            "parameters": parameters,
        }

    def started(self, trial_id: str) -> None:
        """A worker takes the trial up, from its last finished epoch."""
        epoch = max(self.history.trials[trial_id].epochs, default=0)
        self._write(TrialStarted(time=time.time(), trial_id=trial_id, epoch=epoch))

    def epoch(self, trial_id: str, result: dict[str, Any]) -> None:
        """A worker reports an epoch; one that is on record already is not written twice."""
        if result["epoch"] in self.history.trials[trial_id].epochs:
            return
        row = EpochRecord.model_validate({**result, "time": time.time(), "trial_id": trial_id})
        self._write(row)
        self.study.update(self.history.suggestion(self.history.trials[trial_id]))

    def ended(self, trial_id: str, state: TrialState, reason: str) -> None:
        """A trial has reached its final state; told again, nothing happens."""
        trial = self.history.trials[trial_id]
        if trial.ended is not None:
            return
        epoch = max(trial.epochs, default=0)
        self._write(TrialEnded(time=time.time(), trial_id=trial_id, state=state, epoch=epoch, reason=reason))
        self.study.update(self.history.suggestion(trial))

    def finish(self, reason: Literal["finished", "interrupted", "budget"]) -> None:
        """The driver stops working."""
        self._write(SweepEnded(time=time.time(), reason=reason))
        self._writer.close()

    def _write(self, record: Record) -> None:
        self._writer.append(record)
        self.history.add(record)
        self._listener(record)
