"""Ray Tune's side of the sweep: the searcher that hands out trials and the scheduler that stops them.

Both are thin: what they learn goes to the driver, which records it before Ray acts on it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from tune_newllm.sweep.driver import Driver
from tune_newllm.sweep.history import TrialHistory
from tune_newllm.sweep.spec import EarlyTerminate, SweepSpec
from tune_newllm.sweep.trial import TrialRunner


class DriverSearcher(Searcher):
    """Gives Ray the trials that a stopped sweep left unfinished, then new ones until the driver has no more.

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
        self._unfinished = driver.history.unfinished()
        self._running: dict[str, str] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:  # type: ignore[override]
        """The configuration of one Ray trial: our trial's id, its values, and how far its records go."""
        trial = self._unfinished.pop(0) if self._unfinished else self._driver.create()
        while trial is not None and trial.ended is not None:
            trial = None if self._stop() else self._driver.create()
        if trial is None:
            return Searcher.FINISHED
        self._driver.started(trial.id)
        self._running[trial_id] = trial.id
        configuration = self._driver.configuration(trial)
        own = {"id": trial.id, "configuration": configuration.to_dict(), "recorded": max(trial.epochs, default=0)}
        return {**self._trial_config, **own}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ray lost the trial's process: everything a trial can go wrong by itself it reports as a result."""
        if error:
            self._driver.ended(self._running[trial_id], "crashed", "its worker process was lost")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records hold everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class RecordingASHA(FIFOScheduler):
    """Records each epoch, then lets Ray's ASHA decide on it, with rungs of its own for each value of `within`.

    A new instance replays the recorded epochs, so that a resumed sweep prunes as if it had never stopped.
    """

    def __init__(self, driver: Driver) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._driver = driver
        self._strata: dict[str, Any] = {}
        for trial in driver.history.trials.values():
            self._add(trial)
        for row in list(driver.history.epochs):
            decision = self._decide(row.trial_id, row.model_dump())
            # The crash came between an epoch's record and the stop that followed from it.
            if row.epoch == max(driver.history.trials[row.trial_id].epochs):
                self._act(row.trial_id, decision)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Ray is about to run a trial."""
        self._add(self._driver.history.trials[trial.config["id"]])

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """An epoch that is not the trial's last."""
        trial_id = trial.config["id"]
        self._driver.epoch(trial_id, result)
        return self._act(trial_id, self._decide(trial_id, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A trial's last result: its last epoch, or that it diverged, did not fit or failed."""
        trial_id = trial.config["id"]
        if result.get("state"):
            if result.get("epoch") is not None:
                self._driver.epoch(trial_id, result)
                self._decide(trial_id, result)
            self._driver.ended(trial_id, result["state"], result["reason"])

    def _add(self, trial: TrialHistory) -> None:
        rule = self._driver.spec.early_terminate
        if rule is None:
            return
        stratum = _stratum(trial, rule)
        if stratum not in self._strata:
            self._strata[stratum] = _asha(self._driver.spec)
        self._strata[stratum].on_trial_add(None, SimpleNamespace(trial_id=trial.id))

    def _decide(self, trial_id: str, result: dict[str, Any]) -> str:
        rule = self._driver.spec.early_terminate
        if rule is None or result["epoch"] >= self._driver.spec.training.epochs:
            return TrialScheduler.CONTINUE
        trial = self._driver.history.trials[trial_id]
        return self._strata[_stratum(trial, rule)].on_trial_result(None, SimpleNamespace(trial_id=trial_id), result)

    def _act(self, trial_id: str, decision: str) -> str:
        if decision == TrialScheduler.STOP:
            self._driver.ended(trial_id, "stopped", "asha")
        return decision


def _stratum(trial: TrialHistory, rule: EarlyTerminate) -> str:
    """What trials must share to be compared: the value of `within`, which may be a mapping, as text; those that do not
    have the parameter are compared with each other."""
    return json.dumps(trial.parameters[rule.within], sort_keys=True) if rule.within in trial.parameters else ""


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
    resources = {"cpu": asked.cpus_per_trial, "gpu": asked.gpus_per_trial}
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
