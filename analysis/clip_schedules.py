"""Ways of clipping compared fairly: each at its own best learning rate, the other settings equal."""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from .best import UNFIT
from .interactions import interactions, products
from .least_squares import fit, t_quantile
from .load import Sweep
from .once import once
from .regression import BENDS, LEVEL, framed, full_fidelity, smoothest
from .tables import absent, order
from .terms import MOST_LEVELS, Term, term, terms
from .words import counted, shown

LEAST_EACH = 3
"""Configurations of a schedule that enter the comparison."""

LEAST_FREEDOM = 4
"""Configurations beyond the number of coefficients."""

LOG = {"distribution": "log"}


class Schedule(NamedTuple):
    """One way of clipping. Losses in nats per token; NaN where too little ran to its end."""

    name: str
    value: Any
    trials: int
    failed: int
    """Trials that diverged, did not fit or failed."""
    configurations: int
    """At full fidelity."""
    best: str | None
    """The trial of its best configuration, whose mean loss is `observed`."""
    observed: float
    lr: float
    """The learning rate at which the fitted loss is lowest, among those tried with this schedule."""
    edge: bool
    """Whether that is the lowest or highest rate tried, so that the best may lie beyond."""
    loss: float
    """The fitted loss there."""
    low: float
    high: float
    """95 % interval of it."""
    behind: float
    """The fitted loss minus the lowest of all schedules."""
    reach: float
    """Half the width of the interval of `behind`, all pairs of schedules considered (Bonferroni)."""

    @property
    def verdict(self) -> Literal["best", "alike", "behind", "edge", "unknown"]:
        """`alike`: it cannot be told apart from the best; `edge`: it is behind at the rates tried, but may be better
        beyond them; `unknown`: there is no fitted loss."""
        if math.isnan(self.behind):
            return "unknown"
        if self.behind == 0:
            return "best"
        if self.behind < self.reach:
            return "alike"
        return "edge" if self.edge else "behind"


class ClipSchedules(NamedTuple):
    """The lowest fitted loss first, then those without one. `path` is the key that tells the schedules apart."""

    path: str
    lr_searched: bool
    schedules: list[Schedule]
    reason: str
    """Why there is no fitted loss; empty where there is."""


@once
def clip_schedules(sweep: Sweep) -> ClipSchedules | None:
    """None where no way of clipping is searched, or only over a range, which has a marginal effect of its own.

    The loss of the configurations at full fidelity (mean of their seeds) is fitted by least squares: for each schedule
    a curve in the logarithm of the learning rate with a level and a slope of its own, so that each has its own optimum,
    and a common bend; the other parameters add a parabola or a level. Each schedule is then read at the lowest point of
    its curve within the rates tried with it and at the best of its own settings (norm, percentile), all else at the
    average. So a schedule tried more often gains nothing by it. At the lowest point a small error of the best learning
    rate does not matter, so the interval is that of the fit there. It assumes errors of one size and no interactions
    but those that `interactions` finds. In simulations of equally good schedules one was wrongly found worse in 3 % of
    the sweeps.
    """
    path = _path(sweep)
    if path is None:
        return None
    rows = full_fidelity(sweep)
    rows = rows[~rows[path].map(absent).astype("bool")]
    keys = rows[path].map(str)
    model = _model(sweep, rows[keys.map(keys.value_counts()) >= LEAST_EACH], path)
    found = _observed(sweep, rows, path)
    if isinstance(model, _Model):
        found = _compared(found, model)
    found.sort(key=lambda one: (math.isnan(one.loss), one.observed if math.isnan(one.loss) else one.loss))
    reason = model if isinstance(model, str) else ""
    if not reason and all(math.isnan(one.loss) for one in found):
        reason = "the schedules always changed together with other settings"
    return ClipSchedules(path, "training.lr" in sweep.searched, found, reason)


def _path(sweep: Sweep) -> str | None:
    """What tells the ways of clipping apart: the schedule, the whole setting, or a listed part of it."""
    clipping = [path for path in sweep.searched if path == "training.clip" or path.startswith("training.clip.")]
    preferred = sorted(clipping, key=lambda path: (path != "training.clip.schedule", path != "training.clip"))
    rules = sweep.spec.get("parameters") or {}
    for path in preferred:
        values = {str(value) for value in sweep.trials[path] if not absent(value)}
        ranged = pd.api.types.is_numeric_dtype(sweep.trials[path]) and "values" not in (rules.get(path) or {})
        if 2 <= len(values) <= MOST_LEVELS and not ranged:
            return path
    return None


class _Model(NamedTuple):
    """The fit, and its columns: a level for each schedule, a slope in the learning rate for each, the common curve, and
    the other parameters."""

    names: list[str]
    keys: np.ndarray
    """[n] the schedule of each row."""
    lr: Term | None
    others: list[Term]
    columns: np.ndarray
    loss: np.ndarray

    def lowest(self, name: str, coefficients: np.ndarray) -> "_Lowest":
        """The lowest point of a schedule at settings that were tried with it."""
        row, at, edge = np.zeros(len(coefficients)), math.nan, False
        place, chosen, start = self.names.index(name), self.keys == name, len(self.names)
        row[place] = 1
        if self.lr is not None:
            tried = _tried(self.lr, chosen)
            grid = np.zeros((len(tried), len(coefficients)))
            start = 2 * len(self.names) + self.lr.grid.shape[1] - 1
            grid[:, len(self.names) + place] = self.lr.grid[tried, 0]
            grid[:, 2 * len(self.names) : start] = self.lr.grid[tried, 1:]
            best = int(np.argmin(grid @ coefficients))
            row += grid[best]
            at, edge = float(self.lr.values[tried[best]]), best in (0, len(tried) - 1)
        for one in self.others:
            stop = start + one.columns.shape[1]
            if one.path.startswith("training.clip") and (tried := _tried(one, chosen)).size:
                row[start:stop] = one.grid[tried][np.argmin(one.grid[tried] @ coefficients[start:stop])]
            start = stop
        return _Lowest(row, at, edge)


class _Lowest(NamedTuple):
    contrast: np.ndarray
    lr: float
    edge: bool


def _tried(one: Term, chosen: np.ndarray) -> np.ndarray:
    """Which of the values of a term lie between those of some of the rows; none if these do not have the parameter."""
    positions = one.position[chosen & ~np.isnan(one.position)]
    places = np.arange(len(one.values)) if one.kind == "category" else np.linspace(-1, 1, len(one.values))
    half = (places[1] - places[0]) / 2
    return np.flatnonzero(
        (places > positions.min(initial=np.inf) - half) & (places < positions.max(initial=-np.inf) + half)
    )


def _model(sweep: Sweep, rows: pd.DataFrame, path: str) -> _Model | str:
    """The comparison's regression, with a curve as `effects` chooses it."""
    keys = rows[path].map(str).to_numpy(dtype="object")
    names = sorted(set(keys))
    if len(names) < 2:
        return f"fewer than two schedules have {LEAST_EACH} configurations that ran to the end"
    loss, _ = framed(rows["mean"].to_numpy(dtype="float64"))
    level = (keys[:, None] == np.array(names, dtype="object")).astype("float64")
    rest = [other for other in sweep.searched if other not in (path, "training.lr")]
    joint = _joint(sweep, rows)
    fewest = 0
    for most in (2, 1):
        others = terms(sweep, rows, most, most, rest)
        tried = []
        for bends in BENDS:
            lr = term(rows["training.lr"], "training.lr", LOG, bends) if "training.lr" in rows else None
            curve = [] if lr is None else [level * lr.columns[:, :1], lr.columns[:, 1:]]
            columns = np.hstack([level, *curve, *(one.columns for one in others), *joint])
            fewest = min(fewest or columns.shape[1], columns.shape[1])
            if len(rows) - columns.shape[1] >= LEAST_FREEDOM:
                tried.append(_Model(names, keys, lr, others, columns, loss))
        if tried:
            return tried[smoothest([(made.columns, made.loss) for made in tried])]
    return f"{counted(len(rows), 'configuration')} ran to the end, and the comparison needs {fewest + LEAST_FREEDOM}"


def _joint(sweep: Sweep, rows: pd.DataFrame) -> list[np.ndarray]:
    """The columns of the interactions that are there, other than with ways of clipping."""
    made = []
    for one in interactions(sweep):
        pair = terms(sweep, rows, 1, 1, [one.first, one.second])
        if one.significant and len(pair) == 2 and not one.first.startswith("training.clip"):
            made.append(products(*pair))
    return made


def _compared(found: list[Schedule], model: _Model) -> list[Schedule]:
    """The same with what the fit says of them."""
    fitted = fit(model.columns, model.loss)
    lowest = {name: model.lowest(name, fitted.coefficients) for name in model.names}
    contrasts = np.array([lowest[name].contrast for name in model.names])
    losses, errors = fitted.contrasts(contrasts)
    if np.isnan(losses).all():
        return found
    first = int(np.nanargmin(losses))
    behind, apart = fitted.contrasts(contrasts - contrasts[first])
    pairs = len(model.names) * (len(model.names) - 1) / 2
    own, paired = (t_quantile(1 - LEVEL / 2 / count, fitted.freedom) for count in (1, pairs))
    made = []
    for one in found:
        if str(one.value) in lowest:
            at = model.names.index(str(one.value))
            point, reach = lowest[str(one.value)], own * errors[at]
            one = one._replace(
                lr=point.lr,
                edge=point.edge,
                loss=float(losses[at]),
                low=float(losses[at] - reach),
                high=float(losses[at] + reach),
                behind=float(behind[at]),
                reach=float(paired * apart[at]),
            )
        made.append(one)
    return made


def _observed(sweep: Sweep, rows: pd.DataFrame, path: str) -> list[Schedule]:
    """The schedules as they were tried, not yet compared."""
    trials = sweep.trials[~sweep.trials[path].map(absent).astype("bool")]
    values = sorted({str(value): value for value in trials[path].tolist()}.values(), key=order)
    found = []
    for value in values:
        tried, whole = (table[table[path].map(str) == str(value)] for table in (trials, rows))
        ranked = whole.sort_values(["mean", "number"])
        best = None if ranked.empty else str(ranked["trial_id"].iloc[0])
        failed = int(tried["state"].isin(UNFIT).sum())
        lowest = math.nan if ranked.empty else float(ranked["mean"].iloc[0])
        nothing = (math.nan, False, math.nan, math.nan, math.nan, math.nan, math.nan)
        found.append(Schedule(shown(value), value, len(tried), failed, len(whole), best, lowest, *nothing))
    return found
