"""The one writer of a sweep: every event goes first to the records, then to memory, study and listener."""

import time
from collections.abc import Callable
from typing import Any, Literal

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
from tune_newllm.sweep.study import Study, config_id

Listener = Callable[[Record], None]


class Driver:
    """Turns what happens in a sweep into records.

    Args:
        folder: the sweep, new or with a past; its past is read and the study rebuilt from it.
        listener: told each record after it was written; progress displays live here.
    """

    def __init__(self, folder: SweepFolder, spec: SweepSpec, listener: Listener) -> None:
        self.folder, self.spec = folder, spec
        self.history = History(folder.read())
        self.study = Study(spec, folder.journal, self.history)
        self._writer = RecordWriter(folder)
        self._listener = listener

    def __getstate__(self) -> dict[str, Any]:
        # Ray pickles all it is given for a restore that never happens: a resume reads the records.
        return {}

    def start(self, command: list[str], resumed: bool) -> None:
        """A driver begins to work."""
        self._write(SweepStarted(time=time.time(), command=command, resumed=resumed))

    def create(self) -> TrialHistory | None:
        """Suggest the next trial, or None when the cap is reached or nothing new is left."""
        number = len(self.history.trials)
        if self.spec.run_cap is not None and number >= self.spec.run_cap:
            return None
        suggestion = self.study.suggest()
        if suggestion is None:
            return None
        parameters, origin = suggestion
        created = TrialCreated.model_validate(
            {
                "time": time.time(),
                "trial_id": f"t{number:04d}",
                "config_id": config_id(parameters),
                "number": number,
                "seed": self.spec.training.seed,
                "origin": origin,
                "parameters": parameters,
            }
        )
        self._write(created)
        trial = self.history.trials[created.trial_id]
        self.study.add(trial)
        return trial

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
        self.study.report(trial_id, row.epoch, row.val_loss)

    def ended(self, trial_id: str, state: TrialState, reason: str) -> None:
        """A trial has reached its final state; told again, nothing happens."""
        trial = self.history.trials[trial_id]
        if trial.ended is not None:
            return
        epoch = max(trial.epochs, default=0)
        self._write(TrialEnded(time=time.time(), trial_id=trial_id, state=state, epoch=epoch, reason=reason))
        self.study.tell(trial)

    def finish(self, reason: Literal["finished", "interrupted"]) -> None:
        """The driver stops working."""
        self._write(SweepEnded(time=time.time(), reason=reason))
        self._writer.close()

    def _write(self, record: Record) -> None:
        self._writer.append(record)
        self.history.add(record)
        self._listener(record)
