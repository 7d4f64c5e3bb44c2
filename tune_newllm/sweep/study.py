"""The Optuna study: where suggestions come from, and the journal that optuna-dashboard opens.

The records are the truth; the journal is rebuilt from them at every start. Its rows hold each parameter's coordinate
(`space.Parameter.to_study`) and, as user attributes, the trial's id and real values. What TPE is told follows DESIGN:
stopped trials are pruned ones; diverged and infeasible ones violate a constraint, because TPE never reads failed rows
and would go on suggesting beyond the edge; crashed and failed ones fail.
"""

import hashlib
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from tune_newllm.sweep.history import History, TrialHistory
from tune_newllm.sweep.spec import SweepSpec

STARTUP_PER_STRATUM = 4
STARTUP = 10
DUPLICATE_TRIES = 100
MOST_GOOD = 25


class Study:
    """Suggests configurations and keeps the journal.

    A suggestion is a pure function of the trials told so far, the seed and its own number, so that a resumed sweep
    goes on as an undisturbed one would.
    """

    def __init__(self, spec: SweepSpec, journal: Path, history: History) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._spec = spec
        self._space = {path: p.distribution_in_study for path, p in spec.searched.items()}
        journal.unlink(missing_ok=True)
        backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
        self._study = optuna.create_study(storage=JournalStorage(backend), study_name="sweep", direction="minimize")
        self._live: dict[str, Trial] = {}
        self._known: set[str] = set()
        for trial in history.trials.values():
            self.add(trial)
            for epoch in trial.epochs.values():
                self.report(trial.id, epoch.epoch, epoch.val_loss)
            if trial.ended is not None:
                self.tell(trial)

    def suggest(self) -> tuple[dict[str, Any], str] | None:
        """The next configuration (values by path) and where it came from, or None when nothing new is left."""
        number = len(self._known)
        for attempt in range(DUPLICATE_TRIES):
            suggestion = self._grid(number) if self._spec.method == "grid" else self._sample(number, attempt)
            if suggestion is None:
                return None
            if config_id(suggestion[0]) not in self._known:
                return suggestion
        return None

    def add(self, trial: TrialHistory) -> None:
        """A row for a configuration that was suggested."""
        self._known.add(trial.created.config_id)
        parameters = {p: self._spec.searched[p].to_study(value) for p, value in trial.parameters.items()}
        attributes = {"trial_id": trial.id, **trial.parameters}
        self._study.enqueue_trial(parameters, user_attrs=attributes)
        self._live[trial.id] = self._study.ask(self._space)

    def report(self, trial_id: str, epoch: int, val_loss: float) -> None:
        """One more epoch of a running trial."""
        self._live[trial_id].report(val_loss, epoch)

    def tell(self, trial: TrialHistory) -> None:
        """The end of a trial."""
        row = self._live.pop(trial.id)
        if trial.state == "completed" and trial.value is not None:
            self._study.tell(row, trial.value)
        elif trial.state in ("stopped", "diverged", "infeasible"):
            if trial.state != "stopped":
                row.set_constraint("usable", 1.0)
            self._study.tell(row, state=TrialState.PRUNED)
        else:
            self._study.tell(row, state=TrialState.FAIL)

    def _grid(self, number: int) -> tuple[dict[str, Any], str] | None:
        """The number-th point of the grid; the last parameter varies fastest."""
        values = {}
        for path, parameter in reversed(self._spec.searched.items()):
            number, index = divmod(number, len(parameter.choices or ()))
            values[path] = (parameter.choices or ())[index]
        return None if number else (dict(reversed(values.items())), "grid")

    def _sample(self, number: int, attempt: int) -> tuple[dict[str, Any], str]:
        point = self._spec.points[number] if number < len(self._spec.points) and attempt == 0 else {}
        fixed = {**self._dealt(point), **point}
        peers = self._peers(fixed)
        free = {path: p for path, p in self._spec.searched.items() if path not in fixed}
        startup = STARTUP_PER_STRATUM if self._spec.balanced else STARTUP
        seed = _seed(self._spec.training.seed, number, attempt)
        bayes = self._spec.method == "bayes"
        if bayes and free and len(peers) >= startup and attempt < DUPLICATE_TRIES // 2:
            found, origin = self._model(peers, list(free), seed), "sampler"
        else:
            units = np.random.default_rng(seed).random(len(free))
            if bayes and attempt == 0:
                # Low-discrepancy points cover the range where few independent draws would leave holes in it.
                units = _sobol(len(free), len(peers), _seed(self._spec.training.seed, *fixed.values()))
            found = {path: p.from_unit(u) for (path, p), u in zip(free.items(), units, strict=True)}
            origin = "startup" if bayes else "random"
        merged = {**fixed, **found}
        return {path: merged[path] for path in self._spec.searched}, "point" if point else origin

    def _dealt(self, point: dict[str, Any]) -> dict[str, Any]:
        """The value of the balanced parameter that has had the fewest trials, points included."""
        path = self._spec.balanced
        if path is None or path in point:
            return {}
        choices = self._spec.searched[path].choices or []
        taken = [trial.user_attrs[path] for trial in self._study.get_trials(deepcopy=False)]
        return {path: min(choices, key=taken.count)}

    def _peers(self, fixed: dict[str, Any]) -> list[FrozenTrial]:
        """The trials to learn from: all, or those with the same value of the balanced parameter."""
        path = self._spec.balanced
        trials = self._study.get_trials(deepcopy=False)
        return [t for t in trials if path is None or t.user_attrs[path] == fixed[path]]

    def _model(self, peers: list[FrozenTrial], free: list[str], seed: int) -> dict[str, Any]:
        """TPE's suggestion for the free parameters, learnt from the peers alone.

        Within one value of the balanced parameter the others are conditional on it; a joint model whose sample is
        overwritten afterwards would suggest one batch size's learning rates for another.
        """
        with warnings.catch_warnings():
            # `gamma` leaves Optuna with version 6, which pyproject.toml therefore excludes.
            warnings.simplefilter("ignore", FutureWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, gamma=_number_of_good)
        model = optuna.create_study(direction="minimize", sampler=sampler)
        model.add_trials([_narrowed(trial, free) for trial in peers if trial.state != TrialState.FAIL])
        asked = model.ask({path: self._space[path] for path in free})
        return {path: self._spec.searched[path].from_study(asked.params[path]) for path in free}


def _number_of_good(trials: int) -> int:
    """How many of the trials TPE takes for good ones: a quarter.

    Optuna's tenth makes it one of eight, and the search then flees to the edges of the range, where the density of the
    others is lowest (`benchmarks/suggestions.py`).
    """
    return min(math.ceil(trials / 4), MOST_GOOD)


def config_id(parameters: dict[str, Any]) -> str:
    """Short hash of a configuration's searched values."""
    text = json.dumps(parameters, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _narrowed(trial: FrozenTrial, paths: list[str]) -> FrozenTrial:
    """The same trial with only some of its parameters."""
    return optuna.create_trial(
        state=trial.state,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params={path: trial.params[path] for path in paths},
        distributions={path: trial.distributions[path] for path in paths},
        intermediate_values=trial.intermediate_values,
        system_attrs=trial.system_attrs,
    )


def _sobol(dimensions: int, index: int, seed: int) -> np.ndarray:
    """The index-th point of a scrambled Sobol sequence in (0, 1)^dimensions."""
    if dimensions == 0:
        return np.empty(0)
    from scipy.stats import qmc

    engine = qmc.Sobol(dimensions, scramble=True, rng=seed)
    return np.clip(engine.fast_forward(index).random(1)[0] if index else engine.random(1)[0], 1e-9, 1 - 1e-9)


def _seed(*parts: Any) -> int:
    """A seed that depends on all parts, the same in every process."""
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "little")
