"""The one writer of a sweep: every event goes first to the records, then to memory, study and listener."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from tune_newllm.errors import FolderError, SpecError
from tune_newllm.models import parameter_count
from tune_newllm.records import (
    CodeForced,
    EndReason,
    EpochRecord,
    Record,
    SweepEnded,
    SweepExtended,
    SweepStarted,
    TrialCrashed,
    TrialCreated,
    TrialEnded,
    TrialStarted,
    TrialState,
)
from tune_newllm.sweep.checkpoints import Pruner
from tune_newllm.sweep.extension import extended_training
from tune_newllm.sweep.folder import RecordWriter, SweepFolder
from tune_newllm.sweep.history import History, TrialHistory
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.spending import Use, uses
from tune_newllm.sweep.study import Study, config_id
from tune_newllm.training.config import Configuration
from tune_newllm.training.optim import effective_lr

Listener = Callable[[Record], None]
FIRST_FAILURES = 3
"""A driver whose first trials, so many, all fail for one reason stops: the next ones would fail as well."""

_logger = logging.getLogger(__name__)


class Driver:
    """Turns what happens in a sweep into records.

    Args:
        folder: the sweep, new or with a past; its past is read and the study rebuilt from it.
        vocab_size: words of its corpus.
        listener: told each record after it was written; progress displays live here.
        decided: what changes the sweep before this driver begins, and goes on record when it does.

    Raises:
        FolderError: the folder cannot be written to, or its records name trials outside it.
    """

    def __init__(
        self,
        folder: SweepFolder,
        spec: SweepSpec,
        vocab_size: int,
        listener: Listener,
        decided: Sequence[SweepExtended | CodeForced] = (),
    ) -> None:
        self.folder, self.spec, self._decided = folder, spec, decided
        damaged: list[str] = []
        self.history = History([*folder.read(damaged), *decided], spec.seeds)
        for name in self.history.trials:
            folder.trial(name)
        for text in damaged:
            _logger.warning("%s", text)
        for name in sorted(self.history.lost):
            _logger.warning("%s: the line that created this trial is damaged, so the others of it are left out", name)
        self.halted: str | None = None
        """Why nothing can be written any more, in one line."""
        self._vocab_size = vocab_size
        self._listener = listener
        self._began: float | None = None
        self._endings: list[TrialEnded] = []
        self._pruner = Pruner(folder)
        with self.writing():
            self.study = Study(spec, folder.journal, self.history)
            self._writer = RecordWriter(folder)

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles all it is given for a restore that never happens: a resume reads the records.
        return {}

    @property
    def elapsed(self) -> float | None:
        """Seconds that this driver has worked; None before its start."""
        return None if self._began is None else time.monotonic() - self._began

    def start(self, started: SweepStarted) -> None:
        """A driver begins to work."""
        for record in self._decided:
            with self.writing():
                self._writer.append(record)
            self._listener(record)
        self._began = time.monotonic()
        self._write(started)
        for trial in self.history.unfinished():
            # The crash came between an impossible trial's first record and its last.
            self._end_impossible(trial)
        self._pruner.prune(self.history, self.spec.resources.keep_checkpoints)

    def exhausted(self) -> bool:
        """Nothing is unfinished, and nothing would follow."""
        return not self.history.unfinished() and self._next() is None

    def over_budget(self) -> list[Use]:
        """The limits of the budget that are reached."""
        return [use for use in uses(self.spec, self.history, self.elapsed) if use.reached]

    def failing(self) -> str | None:
        """The one reason for which the first trials of this driver have all failed; None where they have not."""
        first = self._endings[:FIRST_FAILURES]
        reasons = {each.reason.replace(each.trial_id, "ID") for each in first if each.state in ("failed", "crashed")}
        alike = len(first) == FIRST_FAILURES and all(each.state in ("failed", "crashed") for each in first)
        return first[0].reason if alike and len(reasons) == 1 else None

    def configuration(self, trial: TrialHistory) -> Configuration:
        """What a trial trains: its values in the base configuration, its own seed, schedules laid out as when it was
        created.

        Raises:
            SpecError: the values make an impossible configuration.
        """
        configuration = self.spec.configuration(trial.parameters)
        training = replace(configuration.training, seed=trial.created.seed)
        return replace(configuration, training=extended_training(training, trial.longer))

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
        self._put_aside(created.trial_id)
        self._write(created)
        trial = self.history.trials[created.trial_id]
        if created.replicate == 0:
            with self.writing():
                self.study.add(trial)
        self._end_impossible(trial)
        return trial

    def _put_aside(self, trial_id: str) -> None:
        """A new trial must not go on from what one left behind whose records are lost, as its values may be others."""
        left = self.folder.trial(trial_id)
        if left.exists():
            _logger.warning("%s: a trial of this name is not on record any more; its folder is put aside", trial_id)
            with self.writing():
                left.rename(left.with_name(f"{trial_id}.lost-{int(time.time())}"))

    def _end_impossible(self, trial: TrialHistory) -> None:
        try:
            self.configuration(trial)
        except SpecError as error:
            self.ended(trial.id, "infeasible", f"impossible configuration: {error}")

    def _next(self) -> dict[str, Any] | None:
        """What the next trial is: a further replicate of the last suggestion, or the first of a new one."""
        number, replicate = self.history.next_number, 0
        suggestion: tuple[dict[str, Any], str] | None = None
        last = self.history.suggestions.get(number - 1)
        if last is not None and not last.complete:
            number, replicate = number - 1, last.made
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

    def epoch(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A worker reports an epoch; one that is on record already is not written twice. Returns whether it is new."""
        trial = self.history.trials[trial_id]
        if result["epoch"] in trial.epochs:
            return False
        row = EpochRecord.model_validate({**result, "time": time.time(), "trial_id": trial_id})
        self._write(row)
        self._tell(trial)
        return True

    def crashed(self, trial_id: str, reason: str) -> None:
        """The process of a trial was lost: the trial stays unfinished, unless that has happened too often in a row."""
        trial = self.history.trials[trial_id]
        if trial.ended is not None:
            return
        attempt = trial.crashes + 1
        if attempt > self.spec.resources.retries:
            self.ended(trial_id, "crashed", reason if attempt == 1 else f"{reason}, {attempt} times in a row")
            return
        _logger.warning("%s: %s; it goes on from its checkpoint", trial_id, reason)
        epoch = max(trial.epochs, default=0)
        self._write(TrialCrashed(time=time.time(), trial_id=trial_id, epoch=epoch, attempt=attempt, reason=reason))

    def ended(self, trial_id: str, state: TrialState, reason: str) -> None:
        """A trial has reached its final state; told again, nothing happens."""
        trial = self.history.trials[trial_id]
        if trial.ended is not None:
            return
        epoch = max(trial.epochs, default=0)
        ending = TrialEnded(time=time.time(), trial_id=trial_id, state=state, epoch=epoch, reason=reason)
        self._write(ending)
        self._endings.append(ending)
        self._tell(trial)
        self._pruner.prune(self.history, self.spec.resources.keep_checkpoints)

    def finish(self, reason: EndReason, detail: str = "") -> None:
        """The driver stops working."""
        # On a full disk the sweep ends without this line, as after a crash.
        with suppress(FolderError):
            self._write(SweepEnded(time=time.time(), reason=reason, detail=detail))
        self._writer.close()

    def halt(self, reason: str) -> None:
        """Nothing can be written any more: the sweep stops as soon as Ray asks."""
        self.halted = self.halted or reason

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a disk that takes no more into a halt.

        Raises:
            FolderError: it does not.
        """
        try:
            yield
        except OSError as error:
            # shutil's own kind has a list of files for its text and no errno.
            reason = error.strerror or str(error)[:200]
            self.halt(f"{self.folder.path} cannot be written to ({reason}): make room or give it back its rights")
            raise FolderError(f"{self.halted}, then resume") from error

    def _tell(self, trial: TrialHistory) -> None:
        with self.writing():
            self.study.update(self.history.suggestion(trial))

    def _write(self, record: Record) -> None:
        record = record.model_copy(update={"elapsed": self.elapsed})
        with self.writing():
            self._writer.append(record)
        self.history.add(record)
        try:
            self._listener(record)
        except OSError:
            # The terminal that showed the progress is gone; the sweep is not.
            self._listener = lambda record: None
