"""Ray Tune's side of the sweep: the searcher that hands out trials and the scheduler that stops them.

Both are thin: what they learn goes to the driver, which records it before Ray acts on it.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tune_newllm.sweep.driver import Driver
from tune_newllm.sweep.history import TrialHistory, stratum
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.trial import TrialRunner

_logger = logging.getLogger(__name__)


class DriverSearcher(Searcher):
    """Gives Ray the trials that a stopped sweep left unfinished, then new ones until the driver has no more.

    A trial whose process was lost is handed out again before any new one, as a Ray trial of its own.

    Args:
        driver: makes the trials.
        trial_config: what all trials are told besides.
        stop: whether the sweep shall stop; asked between trials that end without running.
    """

    def __init__(self, driver: Driver, trial_config: dict[str, Any], stop: Callable[[], bool]) -> None:
        super().__init__()
        self._driver = driver
        self._trial_config = trial_config
        self._stop = stop
        self._waiting = driver.history.unfinished()
        self._running: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """The configuration of one Ray trial: our trial's id, its values, and how far its records go.

        None while there is nothing new but a running trial may still come back.
        """
        trial = self._waiting.pop(0) if self._waiting else self._driver.create()
        while trial is not None and trial.ended is not None:
            trial = None if self._stop() else self._driver.create()
        if trial is None:
            return None if self._running else Searcher.FINISHED
        self._driver.started(trial.id)
        self._running[trial_id] = trial.id
        configuration = self._driver.configuration(trial)
        own = {"id": trial.id, "configuration": configuration.to_dict(), "recorded": sorted(trial.epochs)}
        return {**self._trial_config, **own}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The trial has ended, or its process was lost and it has to run on in another one."""
        trial = self._driver.history.trials[self._running.pop(trial_id)]
        if error and trial.ended is None and not self._stop():
            self._waiting.append(trial)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records hold everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class RecordingASHA(FIFOScheduler):
    """Records each epoch, then lets Ray's ASHA decide on it, with rungs of its own for each value of `within`.

    A new instance replays the recorded epochs, so that a resumed sweep prunes as if it had never stopped.

    Args:
        driver: keeps the records.
        stop: whether the sweep shall stop; processes that are lost then were not lost by the trials.
    """

    def __init__(self, driver: Driver, stop: Callable[[], bool] = lambda: False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver = driver
        self._stop = stop
        self._strata: dict[str, Any] = {}
        self._noted: dict[str, Any] = {}
        for trial in driver.history.trials.values():
            self._add(trial)
        for row in list(driver.history.epochs):
            decision = self._decide(row.trial_id, row.model_dump())
            trial = driver.history.trials[row.trial_id]
            # The crash came between an epoch's record and the stop that followed from it. What an extension takes up
            # again is past that, and a trial out of patience has ended for that reason.
            if trial.continued < row.epoch == max(trial.epochs) and not self._out_of_patience(trial):
                self._act(row.trial_id, decision)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Ray is about to run a trial."""
        self._add(self._driver.history.trials[trial.config["id"]])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """An epoch that is not the trial's last."""
        trial_id = trial.config["id"]
        self._note(trial_id, result)
        if not self._driver.epoch(trial_id, result):
            # Trained again, because it came after the last checkpoint; it has been decided on.
            return TrialScheduler.CONTINUE
        return self._act(trial_id, self._decide(trial_id, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial's last result: its last epoch, or that it diverged, did not fit or failed."""
        trial_id = trial.config["id"]
        self._note(trial_id, result)
        if result.get("halt"):
            self._driver.halt(result["halt"])
        elif result.get("state"):
            if result.get("epoch") is not None and self._driver.epoch(trial_id, result):
                self._decide(trial_id, result)
            self._driver.ended(trial_id, result["state"], result["reason"])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Ray lost the trial's process; what a trial can go wrong by itself it reports as a result."""
        if self._stop():
            return
        error = trial.get_pickled_error()
        if isinstance(error, RayTaskError):
            cause = str(error.cause).splitlines() or [type(error.cause).__name__]
            self._driver.ended(trial.config["id"], "failed", cause[0])
        elif "OutOfMemory" in type(error).__name__:
            self._driver.crashed(trial.config["id"], "its worker process was killed: the machine ran out of memory")
        else:
            self._driver.crashed(trial.config["id"], "its worker process was lost")

    def _note(self, trial_id: str, result: dict[str, Any]) -> None:
        # Ray shows a stopped trial's last result a second time.
        for note in result.get("notes") or ():
            if self._noted.get(trial_id) != result.get("training_iteration"):
                _logger.warning("%s: %s", trial_id, note)
        self._noted[trial_id] = result.get("training_iteration")

    def _rungs(self, trial: TrialHistory) -> Any:
        """Ray's ASHA for the trials that this one competes with."""
        rule = self._driver.spec.early_terminate
        assert rule is not None
        competing = stratum(trial.parameters, rule.within)
        if competing not in self._strata:
            self._strata[competing] = _asha(self._driver.spec)
        return self._strata[competing]

    def _out_of_patience(self, trial: TrialHistory) -> bool:
        training = self._driver.configuration(trial).training
        return training.out_of_patience([row.val_loss for _, row in sorted(trial.epochs.items())])

    def _add(self, trial: TrialHistory) -> None:
        if self._driver.spec.early_terminate is not None:
            self._rungs(trial).on_trial_add(None, SimpleNamespace(trial_id=trial.id))

    def _decide(self, trial_id: str, result: dict[str, Any]) -> str:
        if self._driver.spec.early_terminate is None or result["epoch"] >= self._driver.spec.training.epochs:
            return TrialScheduler.CONTINUE
        rungs = self._rungs(self._driver.history.trials[trial_id])
        return rungs.on_trial_result(None, SimpleNamespace(trial_id=trial_id), result)

    def _act(self, trial_id: str, decision: str) -> str:
        if decision == TrialScheduler.STOP:
            self._driver.ended(trial_id, "stopped", "asha")
        return decision


def _asha(spec: SweepSpec) -> Any:
    assert spec.early_terminate is not None
    epochs = spec.training.epochs
    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric="val_loss",
        mode="min",
        max_t=epochs,
        grace_period=min(spec.early_terminate.first, epochs),  # type: ignore[arg-type]
        reduction_factor=spec.early_terminate.eta,
    )


class _Stop(Stopper):
    """Ends the whole experiment once a signal or the budget asks for it; never a single trial."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._stop()


def tuner(
    spec: SweepSpec, searcher: DriverSearcher, scheduler: RecordingASHA, stop: Callable[[], bool], scratch: Path
) -> tune.Tuner:
    """Ray's tuner for a resolved sweep, which asks several times a second whether to `stop`.

    Its own files go to `scratch`, which holds nothing a resume needs.
    """
    asked = spec.resources
    assert asked.gpus_per_trial != "auto"
    assert asked.max_concurrent != "auto"
    resources = {"cpu": asked.cpus, "gpu": asked.gpus_per_trial}
    return tune.Tuner(
        tune.with_resources(TrialRunner, resources),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=asked.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(scratch),
            stop=_Stop(stop),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
        ),
    )
