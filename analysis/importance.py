"""How much each searched parameter decides whether a configuration is among the best."""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .load import Sweep
from .once import once
from .regression import full_fidelity
from .terms import Term, terms
from .words import counted

LEAST = 10
"""Configurations at full fidelity, below which importances are not determined."""

MOST = 150
"""Configurations that are judged; of more a random part, the same every time. Each repeat costs as many again."""

REPEATS = 25

LEAST_BEST = 10
"""Configurations that count as the best: twice what the evaluator wants to see, so that halves have that many."""


class Importance(NamedTuple):
    """Of one parameter; those of all parameters sum to 1."""

    path: str
    label: str
    importance: float
    low: float
    high: float
    """The middle 90 % of the repeats, widened to hold `importance`."""


class Importances(NamedTuple):
    """The highest first; empty where they are not determined, `reason` says why."""

    parameters: list[Importance]
    configurations: int
    best: int
    """How many of them count as the best."""
    reason: str


@once
def importances(sweep: Sweep) -> Importances:
    """PED-ANOVA (Watanabe et al., 2023, as in Optuna) on the configurations at full fidelity.

    It compares how often each value of a parameter occurs among the best tenth (at least ten, at most half of all) with
    how often it occurs among all; a parameter that only some configurations have counts by those that have it. The
    spread is that of `REPEATS` random halves, which differ among each other about as much as new sweeps of the full
    size would (delete-d jackknife with half left out). Epochs are not mixed: a trial that was stopped early says
    nothing of its final loss.
    """
    rows = full_fidelity(sweep)
    if len(rows) < LEAST:
        few = f"{counted(len(rows), 'configuration')} ran to the end, and at least {LEAST} are needed"
        return Importances([], len(rows), 0, few)
    if len(rows) > MOST:
        rows = rows.sample(MOST, random_state=0).sort_values("number")
    coded = terms(sweep, rows, 1)
    if len(coded) < 2:
        return Importances([], len(rows), 0, "they compare parameters, and fewer than two vary")
    study = _study(_trials(coded, rows["mean"].to_numpy(dtype="float64")))
    share = min(0.5, max(0.1, LEAST_BEST / len(rows)))
    found = _evaluate(study, range(len(rows)), coded, share)
    generator = np.random.default_rng(0)
    half = len(rows) // 2
    repeats = np.array(
        [_evaluate(study, generator.permutation(len(rows))[:half].tolist(), coded, share) for _ in range(REPEATS)]
    )
    low, high = np.quantile(repeats, [0.05, 0.95], axis=0)
    made = [
        Importance(one.path, one.label, value, min(a, value), max(b, value))
        for one, value, a, b in zip(coded, found.tolist(), low.tolist(), high.tolist(), strict=True)
    ]
    ranked = sorted(made, key=lambda one: -one.importance)
    return Importances(ranked, len(rows), math.ceil(share * len(rows)), "")


def _trials(coded: list[Term], loss: np.ndarray) -> list[Any]:
    """Finished trials as Optuna has them, each with the parameters that it has."""
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import create_trial

    distributions: dict[str, BaseDistribution] = {}
    positions: dict[str, list[Any]] = {}
    for one in coded:
        if one.kind == "category":
            distributions[one.path] = CategoricalDistribution(range(len(one.values)))
            positions[one.path] = [None if math.isnan(at) else int(at) for at in one.position]
        elif one.kind == "list":
            # Steps of a list are equal; Optuna keeps the order of whole numbers.
            distributions[one.path] = IntDistribution(0, len(one.values) - 1)
            steps = (one.position + 1) / 2 * (len(one.values) - 1)
            positions[one.path] = [None if math.isnan(at) else round(at) for at in steps]
        else:
            distributions[one.path] = FloatDistribution(-1.0, 1.0)
            positions[one.path] = [None if math.isnan(at) else float(np.clip(at, -1, 1)) for at in one.position]
    made = []
    for row, value in enumerate(loss.tolist()):
        given = {path: places[row] for path, places in positions.items() if places[row] is not None}
        made.append(create_trial(params=given, distributions={p: distributions[p] for p in given}, value=value))
    return made


def _study(trials: list[Any]) -> Any:
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # It tells of every study.
    study = optuna.create_study()
    optuna.logging.set_verbosity(verbosity)
    study.add_trials(trials)
    return study


def _evaluate(study: Any, chosen: Sequence[int], coded: list[Term], share: float) -> np.ndarray:
    """[parameters] importances that sum to 1 by the trials of these numbers, in the order of `coded`."""
    from optuna.importance import PedAnovaImportanceEvaluator

    kept = set(chosen)
    present = {path for trial in study.get_trials(deepcopy=False) if trial.number in kept for path in trial.params}
    names = [one.path for one in coded if one.path in present]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It says that low values of a target count as good, as they do here.
        # Trials without a finite target do not count: a study for each half would take longer than all else.
        found = PedAnovaImportanceEvaluator(target_quantile=share).evaluate(
            study,
            params=names,
            target=lambda trial: math.nan if trial.value is None or trial.number not in kept else trial.value,
        )
    values = np.array([found.get(one.path, 0.0) for one in coded])
    total = values.sum()
    return values / total if total > 0 else np.full(len(coded), 1 / len(coded))
