"""Which configurations are best."""

from dataclasses import dataclass

import pandas as pd

from .load import Sweep

UNFIT = ("diverged", "infeasible", "failed")
"""States whose losses say nothing for a configuration, however low they were before the end."""


@dataclass(frozen=True)
class Best:
    """The best configurations of a sweep.

    Attributes:
        trials: at most k rows of `Sweep.trials`, lowest value first, with the column `behind`: how much higher the
            value is than the lowest (nats per token).
        margin: the runner-up's value minus the best one's; None without a runner-up.
        full_fidelity: whether the ranking is among trials that ran to their end. False: none has, and these are the
            best of those that were stopped or still run, which says little.
    """

    trials: pd.DataFrame
    margin: float | None
    full_fidelity: bool


def best(trials: Sweep | pd.DataFrame, k: int = 10) -> Best:
    """Rank trials by value: those at full fidelity, or, while there is none, the others that have a value.

    The value is the lowest `val_loss` over a trial's epochs, on the validation split that also chose it; of equal
    values the earlier suggestion comes first.
    """
    table = trials.trials if isinstance(trials, Sweep) else trials
    usable = table[table["value"].notna() & ~table["state"].isin(UNFIT)]
    complete = usable[usable["full_fidelity"]]
    ranked = (usable if complete.empty else complete).sort_values(["value", "number"])
    ranked = ranked.assign(behind=ranked["value"] - ranked["value"].min())
    margin = float(ranked["behind"].iloc[1]) if len(ranked) > 1 else None
    return Best(ranked.head(k), margin, not complete.empty)
