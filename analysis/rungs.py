"""How many trials each rung of early stopping let through."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from tune_newllm import records

from .load import Sweep
from .tables import absent, configured, order


class RungCount(NamedTuple):
    """The trials that came to one rung.

    `reached` = `went_on` + `stopped` + `undecided`. A trial that ended at a rung for another reason than ASHA's
    (patience, divergence in the next epoch) went on: the rung had let it through.
    """

    group: Any
    """Value of the parameter named by `early_terminate.within`, NaN for the trials that do not have it; None where the
    rungs are shared by all."""
    rung: int
    """Epochs after which trials are compared."""
    reached: int
    went_on: int
    stopped: int
    undecided: int


def rung_epochs(spec: Mapping[str, Any]) -> list[int]:
    """The epochs at which trials are compared, lowest first, all below the last epoch."""
    rule, epochs = spec.get("early_terminate"), configured(spec, "training.epochs")
    if not isinstance(rule, Mapping) or not isinstance(epochs, int):
        return []
    eta = float(rule.get("eta") or 3)
    if eta <= 1 or not (rule.get("min_iter") or rule.get("max_iter")):
        return []
    return records.rung_epochs(
        records.first_rung(rule.get("min_iter"), rule.get("max_iter"), rule.get("s"), eta), eta, epochs
    )


def survival(sweep: Sweep) -> list[RungCount]:
    """One row per group and rung, groups in the order of their values; empty without early stopping."""
    rungs = rung_epochs(sweep.spec)
    within = configured(sweep.spec, "early_terminate.within")
    if not rungs or sweep.trials.empty:
        return []
    if within not in sweep.trials:
        return [_count(sweep.trials, None, rung, rungs) for rung in rungs]
    groups = sweep.trials[within]
    split = [(value, groups == value) for value in sorted({v for v in groups if not absent(v)}, key=order)]
    without = groups.map(absent).astype("bool")
    if without.any():
        split.append((math.nan, without))
    return [_count(sweep.trials[members], value, rung, rungs) for value, members in split for rung in rungs]


def _count(trials: pd.DataFrame, group: Any, rung: int, rungs: list[int]) -> RungCount:
    following = next((later for later in rungs if later > rung), float("inf"))
    reached = trials[trials["epochs"] >= rung]
    cut = (reached["state"] == "stopped") & (reached["epochs"] < following)
    # Whoever an extension left behind had passed the rungs below the epochs of that time.
    stopped = int((cut & ((reached["reason"] != "extension") | (reached["epochs"] == rung))).sum())
    open_here = reached["state"].isin(["running", "interrupted"]) & (reached["epochs"] == rung)
    undecided = int(open_here.sum())
    return RungCount(group, rung, len(reached), len(reached) - stopped - undecided, stopped, undecided)
