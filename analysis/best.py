"""Which configurations are best."""

import math
from dataclasses import dataclass

import pandas as pd

from .load import Sweep

UNFIT = ("diverged", "infeasible", "failed")
"""States whose losses say nothing for a configuration, however low they were before the end."""

NOISE_OF = 10
"""Configurations whose seeds tell the noise: a spread of two or three seeds alone may be small by chance, and far from
the best one, where training hardly learns or nearly diverges, the spread is another."""


@dataclass(frozen=True)
class Best:
    """The best configurations of a sweep.

    Attributes:
        trials: at most k rows of `Sweep.trials`, one per configuration, the lowest mean first: of its replicates the
            one with the lowest value. Further columns: `mean` and `deviation` of the values over the replicates
            (deviation: sample standard deviation, NaN for one replicate), `replicates`, the number of values in them,
            `behind`: how much higher the mean is than the lowest (nats per token), and `alike`: whether that is within
            two standard errors by the spread over seeds, so that the configuration cannot be told apart from the best
            (NA where there is no such spread).
        margin: the runner-up's mean minus the best one's; None without a runner-up.
        noise: standard error of the margin by the spread over seeds; None without replicates.
        alike: how many configurations, beside the best and also beyond the first k, cannot be told apart from it; None
            without replicates.
        full_fidelity: whether the ranking is among trials that ran to their end. False: none has, and these are the
            best of those that were stopped or still run, which says little.
    """

    trials: pd.DataFrame
    margin: float | None
    noise: float | None
    alike: int | None
    full_fidelity: bool


def best(sweep: Sweep, k: int = 10) -> Best:
    """Rank configurations by the mean value of their replicates.

    The value is the lowest `val_loss` over a trial's epochs, on the validation split that also chose it; of equal
    means the earlier suggestion comes first. Ranked are the configurations all of whose replicates ran to full
    fidelity, not counting those that crashed or failed, which say nothing of a configuration; while there are none,
    those with any such replicate, by the mean of these; while there is no trial at full fidelity, the others that have
    a value.
    """
    table = sweep.trials
    usable = table[table["value"].notna() & ~table["state"].isin(UNFIT)]
    complete = usable[usable["full_fidelity"]]
    chosen = usable if complete.empty else _whole(complete, table, sweep.seeds)
    values = chosen.groupby("number")["value"]
    chosen = chosen.assign(mean=values.transform("mean"), deviation=values.transform("std"))
    chosen = chosen.assign(replicates=values.transform("size"))
    ranked = chosen.sort_values(["mean", "number", "value", "replicate"]).drop_duplicates("number")
    ranked = ranked.assign(behind=ranked["mean"] - ranked["mean"].min())
    errors = _errors(ranked)
    alike = (ranked["behind"] <= 2 * errors).astype("boolean").mask(errors.isna())
    ranked = ranked.assign(alike=alike)
    margin = float(ranked["behind"].iloc[1]) if len(ranked) > 1 else None
    noise = float(errors.iloc[1]) if len(ranked) > 1 and not math.isnan(errors.iloc[1]) else None
    count = None if alike.isna().all() else max(int(alike.sum()) - 1, 0)
    return Best(ranked.head(k), margin, noise, count, not complete.empty)


def seed_variance(ranked: pd.DataFrame) -> float:
    """Mean variance over seeds of the best configurations, whose rows are in order; NaN without seeds."""
    return float((ranked["deviation"].head(NOISE_OF) ** 2).mean())


def _whole(complete: pd.DataFrame, trials: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """The complete trials of those configurations that have all their replicates here; all while none has."""
    lost = trials["state"].isin(("crashed", "failed")).groupby(trials["number"]).sum()
    whole = complete.groupby("number")["number"].transform("size") + complete["number"].map(lost) >= seeds
    return complete[whole] if whole.any() else complete


def _errors(ranked: pd.DataFrame) -> pd.Series:
    """Standard error of each configuration's distance to the best: sigma * sqrt(1/n1 + 1/n), where sigma^2 is the
    `seed_variance`; NaN without seeds."""
    variance = seed_variance(ranked)
    counts = ranked["replicates"].astype("float64")
    first = 1 / counts.iloc[0] if len(counts) else math.nan
    return (variance * (first + 1 / counts)) ** 0.5
