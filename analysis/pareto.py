"""Fronts of loss against cost: the configurations worth choosing where parameters, time or memory count."""

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from .load import Sweep
from .once import once
from .regression import full_fidelity
from .words import digits, duration, export_command

Cost = Literal["parameters", "seconds", "memory"]

NOISE: dict[Cost, float] = {"parameters": 0.0, "seconds": 0.05, "memory": 0.02}
"""Share by which a cost differs between two trainings of the same configuration, at least."""

LEAST = 4
"""Times the noise by which the highest cost must exceed the lowest to say anything."""

NEAR = 0.01
"""Share of the best loss within which a configuration counts as nearly as good."""


class Point(NamedTuple):
    """A configuration that no other beats in loss without costing (noticeably) more."""

    trial_id: str
    cost: float
    """Scalars of the model, seconds of training, or bytes at the peak."""
    mean: float
    """Mean loss of its seeds, nats per token."""
    behind: float
    """Nats per token above the lowest."""


class Front(NamedTuple):
    """All configurations at full fidelity by one cost."""

    cost: Cost
    trial_ids: list[str]
    costs: np.ndarray
    losses: np.ndarray
    noise: float
    """Share by which costs differ by chance."""
    points: list[Point]
    """The front, from the cheapest to the best."""

    def near(self) -> Point:
        """The cheapest point within `NEAR` of the best loss."""
        lowest = self.points[-1].mean
        return next(point for point in self.points if point.mean <= lowest + NEAR * abs(lowest))


@once
def pareto(sweep: Sweep) -> list[Front]:
    """The fronts over those costs that differ between configurations by more than noise.

    Ranked are configurations at full fidelity as in `best`, by the mean loss of their seeds. The cost is the number of
    the model's scalars, the mean over the seeds of the time spent in epochs, or the highest peak memory of any epoch.
    """
    rows = full_fidelity(sweep)
    if len(rows) < 2:
        return []
    costs, made = _costs(sweep, rows), []
    for cost, least in NOISE.items():
        noise = max(least, _unsteadiness(sweep, rows)) if cost == "seconds" else least
        known = costs[cost].notna() & (costs[cost] > 0)
        values = costs.loc[known, cost].to_numpy(dtype="float64")
        if len(values) > 1 and values.max() > (1 + noise) ** LEAST * values.min():
            made.append(_front(cost, rows[known], values, noise))
    return made


def _front(cost: Cost, rows: pd.DataFrame, values: np.ndarray, noise: float) -> Front:
    means, ids = rows["mean"].to_numpy(dtype="float64"), rows["trial_id"].tolist()
    lowest = np.inf
    points: list[Point] = []
    for at in np.lexsort((means, values)).tolist():
        if means[at] < lowest:
            lowest = means[at]
            # One that is cheaper by chance alone is not worth choosing.
            while points and values[at] <= points[-1].cost * (1 + noise):
                points.pop()
            points.append(Point(ids[at], float(values[at]), float(means[at]), float(rows["behind"].iloc[at])))
    return Front(cost, ids, values, means, noise, points)


def _unsteadiness(sweep: Sweep, rows: pd.DataFrame) -> float:
    """Share by which times of the same work differ: between the epochs of a trial, or between the seeds of a
    configuration where that is more. On a machine that does other work as well times say little."""
    trials = sweep.trials[sweep.trials["full_fidelity"] & sweep.trials["number"].isin(rows["number"])]
    epochs = sweep.epochs[sweep.epochs["trial_id"].isin(trials["trial_id"]) & (sweep.epochs["seconds"] > 0)]
    trials = trials[trials["seconds"] > 0]
    spreads = [
        float(np.sqrt(np.log(table["seconds"]).groupby(table[key]).var().mean()))
        for table, key in ((epochs, "trial_id"), (trials, "number"))
    ]
    return float(np.expm1(np.nanmax([*spreads, 0.0])))


def _costs(sweep: Sweep, rows: pd.DataFrame) -> pd.DataFrame:
    """[configurations, costs] in the order of `rows`."""
    trials = sweep.trials[sweep.trials["full_fidelity"] & sweep.trials["number"].isin(rows["number"])]
    peaks = sweep.epochs.groupby("trial_id")["peak_memory_bytes"].max()
    trials = trials.assign(memory=trials["trial_id"].map(peaks).astype("float64"))
    found = trials.groupby("number").agg(
        parameters=("model_size", "max"), seconds=("seconds", "mean"), memory=("memory", "max")
    )
    return found.loc[rows["number"]].set_index(rows.index)


def priced(cost: Cost, value: float) -> str:
    """A cost as a person would say it."""
    if cost == "seconds":
        return f"{digits(value, 3)} s" if value < 60 else duration(value)
    if cost == "memory":
        return f"{digits(value / 1e9, 3)} GB" if value >= 1e9 else f"{digits(value / 1e6, 3)} MB"
    return f"{digits(round(value)) if value < 1e6 else f'{digits(value / 1e6, 3)} million'} parameters"


def pareto_summary(sweep: Sweep) -> dict[str, Any]:
    """The fronts in numbers, with the command that exports each point; empty where no cost differs."""
    return {
        front.cost: {
            "configurations": len(front.costs),
            "noise": front.noise,
            "front": [point._asdict() | _export(sweep, point) for point in front.points],
            "near": front.near()._asdict() | {"within": NEAR},
        }
        for front in pareto(sweep)
    }


def _export(sweep: Sweep, point: Point) -> dict[str, str]:
    return {"export": export_command(sweep.folder, point.trial_id)}


_MOST: dict[Cost, str] = {
    "parameters": "the smallest model",
    "seconds": "the quickest to train",
    "memory": "the one with the least memory",
}

WORTH = 0.8
"""Share of what the best configuration costs, below which a cheaper one is worth a sentence."""


def pareto_sentences(sweep: Sweep) -> list[str]:
    """What is nearly as good as the best and clearly cheaper, in one sentence; none where nothing is."""
    said = []
    for front in pareto(sweep):
        near, best = front.near(), front.points[-1]
        if near.cost <= min(WORTH, (1 + front.noise) ** -LEAST) * best.cost:
            cheap = priced(front.cost, near.cost).removesuffix(" parameters")
            said.append(
                f"{_MOST[front.cost]} is trial {near.trial_id} ({cheap} against "
                f"{priced(front.cost, best.cost)}, {digits(100 * near.behind / abs(best.mean), 2)} % behind)"
            )
    return [f"Within {digits(100 * NEAR)} % of the best loss {', '.join(said)}."] if said else []
