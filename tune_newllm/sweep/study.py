"""Where suggestions come from: points, a grid, low-discrepancy points, or what Optuna's TPE has learnt.

The records are the truth; the journal is rebuilt from them at every start.
"""

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from tune_newllm.sweep.history import History, Suggestion, TrialHistory
from tune_newllm.sweep.journal import Journal, Rows
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.widening import widened

STARTUP_PER_STRATUM = 4
STARTUP = 10
DUPLICATE_TRIES = 100
MOST_GOOD = 25
ORIGINS = {"bayes": "startup", "random": "random", "quasi": "quasi", "grid": "grid"}
"""What a configuration is called whose values no model and no list has chosen."""


class Study:
    """Suggests configurations and keeps the journal.

    A suggestion is a pure function of the trials told so far, the seed and its own number, so that a resumed sweep
    goes on as an undisturbed one would. Parameters are chosen group by group: those with equal `when` together, after
    the parents that their conditions speak of; a group whose conditions do not hold is left out.
    """

    def __init__(self, spec: SweepSpec, journal: Path, history: History) -> None:
        self._spec = spec
        self._searched = spec.searched
        self._groups = _groups(spec)
        self._grid = grid(spec, spec.order, {})
        self._upcoming: dict[str, Any] | None = None
        file = Journal(journal)
        for epochs, suggestions in history.earlier:
            Rows(file.study(epochs), spec, suggestions.values()).close()
        self._rows = Rows(file.study(spec.training.epochs), spec, history.suggestions.values())
        self._suggestions = history.suggestions
        self._known = {suggestion.trials[0].created.config_id for suggestion in history.suggestions.values()}
        self._number = history.next_number

    def suggest(self) -> tuple[dict[str, Any], str] | None:
        """The next configuration (values by path) and where it came from.

        None when nothing new is left, but for what `widen` may ask for once further trials have ended.
        """
        for attempt in range(DUPLICATE_TRIES):
            if self._spec.method == "grid" and (self._number >= len(self._spec.points) or attempt):
                return self._grid_point() or self._widened()
            values, origin = self._sample(self._number, attempt)
            if config_id(values) not in self._known:
                return self._in_order(values), origin
        return None

    def add(self, trial: TrialHistory) -> None:
        """A configuration was suggested, of which `trial` is the first replicate."""
        self._known.add(trial.created.config_id)
        self._number = trial.created.number + 1
        self._rows.add(trial)

    def update(self, suggestion: Suggestion) -> None:
        """Something has happened to a suggestion's trials."""
        self._rows.update(suggestion)

    def _grid_point(self) -> tuple[dict[str, Any], str] | None:
        """The first configuration of the grid that is not known yet; the last parameter varies fastest."""
        while self._upcoming is None or config_id(self._upcoming) in self._known:
            values = next(self._grid, None)
            if values is None:
                return None
            self._upcoming = self._in_order(values)
        return self._upcoming, "grid"

    def _widened(self) -> tuple[dict[str, Any], str] | None:
        values = widened(self._spec, self._suggestions.values())
        return None if values is None else (self._in_order(values), "widened")

    def _in_order(self, values: dict[str, Any]) -> dict[str, Any]:
        return {path: values[path] for path in self._searched if path in values}

    def _sample(self, number: int, attempt: int) -> tuple[dict[str, Any], str]:
        point = self._spec.points[number] if number < len(self._spec.points) and attempt == 0 else {}
        dealt = self._dealt(point)
        peers = self._peers(dealt)
        seed = _seed(self._spec.training.seed, number, attempt)
        # Without strata the peers are all who came before, but for those whose records are lost.
        units = self._units(dealt, len(peers) if dealt else number, attempt, seed)
        values, origin = dict(dealt), str(ORIGINS[self._spec.method])
        for group in self._groups:
            if not self._spec.is_active(group[0], values):
                continue
            free = [path for path in group if path not in values and path not in point]
            alike = [trial for trial in peers if set(free) <= trial.params.keys()]
            startup = STARTUP_PER_STRATUM if self._spec.balanced or self._searched[group[0]].when else STARTUP
            values |= {path: point[path] for path in group if path in point}
            if self._spec.method == "bayes" and free and len(alike) >= startup and attempt < DUPLICATE_TRIES // 2:
                values |= self._model(alike, free, seed)
                origin = "sampler"
            else:
                values |= {path: self._searched[path].from_unit(units[path]) for path in free}
        return values, "point" if point else origin

    def _units(self, dealt: dict[str, Any], index: int, attempt: int, seed: int) -> dict[str, float]:
        """A coordinate in (0, 1) for every parameter but the balanced one, whether it will be active or not.

        Low-discrepancy points cover the range where few independent draws would leave holes in it; each value of the
        balanced parameter has a sequence of its own.
        """
        paths = [path for path in self._searched if path != self._spec.balanced]
        sequence = _seed(self._spec.training.seed, *dealt.values())
        if self._spec.method == "quasi" and attempt < DUPLICATE_TRIES // 2:
            units = _sobol(len(paths), index + attempt, sequence)
        elif self._spec.method == "bayes" and attempt == 0:
            units = _sobol(len(paths), index, sequence)
        else:
            units = np.random.default_rng(seed).random(len(paths))
        return dict(zip(paths, units.tolist(), strict=True))

    def _dealt(self, point: dict[str, Any]) -> dict[str, Any]:
        """The balanced parameter with the point's value, or else the one that has had the fewest trials."""
        path = self._spec.balanced
        if path is None:
            return {}
        if path in point:
            return {path: point[path]}
        choices = self._searched[path].choices or []
        taken = [trial.user_attrs[path] for trial in self._rows.all()]
        return {path: min(choices, key=taken.count)}

    def _peers(self, dealt: dict[str, Any]) -> list[FrozenTrial]:
        """The rows to learn from: all, or those with the same value of the balanced parameter."""
        rows = self._rows.all()
        return [row for row in rows if all(row.user_attrs[path] == value for path, value in dealt.items())]

    def _model(self, peers: list[FrozenTrial], free: list[str], seed: int) -> dict[str, Any]:
        """TPE's suggestion for the free parameters, learnt from the peers alone, which all have these parameters.

        Within one value of the balanced parameter the others are conditional on it; a joint model whose sample is
        overwritten afterwards would suggest one batch size's learning rates for another.
        """
        with warnings.catch_warnings():
            # `gamma` leaves Optuna with version 6, which pyproject.toml therefore excludes.
            warnings.simplefilter("ignore", FutureWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=0, gamma=_number_of_good)
        model = optuna.create_study(direction="minimize", sampler=sampler)
        model.add_trials([_narrowed(trial, free) for trial in peers if trial.state != TrialState.FAIL])
        asked = model.ask({path: self._searched[path].distribution_in_study for path in free})
        return {path: self._searched[path].from_study(asked.params[path]) for path in free}


def grid(spec: SweepSpec, paths: Sequence[str], values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every configuration that holds `values` and whatever is active of `paths`, each once."""
    if not paths:
        yield values
    elif spec.is_active(paths[0], values):
        for choice in spec.searched[paths[0]].choices or ():
            yield from grid(spec, paths[1:], {**values, paths[0]: choice})
    else:
        yield from grid(spec, paths[1:], values)


def _groups(spec: SweepSpec) -> list[list[str]]:
    """The searched parameters, those with equal conditions together, parents before children."""
    searched = spec.searched
    groups: dict[str, list[str]] = {}
    for path in spec.order:
        groups.setdefault(repr(sorted(searched[path].when.items())), []).append(path)
    return list(groups.values())


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
