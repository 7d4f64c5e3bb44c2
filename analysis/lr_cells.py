"""Which trials say anything about the best learning rate, as numbers to fit."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from .bowls import Cells, Floats
from .terms import term

LR = "training.lr"


class Group(NamedTuple):
    """The trials of one size."""

    lowest: float
    """Lowest learning rate of those that ran to their end or were stopped; NaN without any, as the highest.

    A stopped trial has no loss to compare, but was worse than others: the best rate does not lie beyond it."""
    highest: float
    diverged: float
    """Lowest learning rate that diverged above the best of them; NaN without one."""
    trials: int


class Left(NamedTuple):
    """What the cells do not hold."""

    sizes: Floats
    """In ascending order, of all trials."""
    groups: list[Group]
    excluded: dict[str, int]


def cells_of(trials: pd.DataFrame, against: str) -> tuple[Cells, Left]:
    """One cell for each configuration that ran to its end; `z` is ln of the size, not centred.

    Stopped trials stay out: losses after fewer epochs are no losses of the same budget, and pooling them makes an
    exponent that changes with training confidently wrong. Diverged ones have no loss, and bound the best rate instead.

    Raises:
        ValueError: a column is missing.
    """
    if missing := [name for name in ("lr", "value", against) if name not in trials]:
        raise ValueError(f"trials need the columns lr, value and {against}; missing: {', '.join(missing)}")
    # The tables of several sweeps have the same row names.
    trials = trials.reset_index(drop=True)
    table = pd.DataFrame({name: pd.to_numeric(trials[name], errors="coerce") for name in ("lr", "value")})
    table["size"] = pd.to_numeric(trials[against], errors="coerce")
    state = trials["state"] if "state" in trials else pd.Series("completed", trials.index)
    whole = trials["full_fidelity"].astype(bool) if "full_fidelity" in trials else state == "completed"
    known = table["lr"].between(0, math.inf, "neither") & table["size"].between(0, math.inf, "neither")
    fit = known & whole & table["value"].between(-math.inf, math.inf, "neither") & (state != "diverged")
    excluded = {
        "diverged": int((state == "diverged").sum()),
        "not trained to the end": int((~fit & (state != "diverged")).sum()),
    }
    sizes = np.unique(table.loc[known, "size"].to_numpy(dtype=float))
    stopped = known & (state == "stopped")
    groups = [
        _group(*(table[kind & (table["size"] == size)] for kind in (fit, stopped, known & (state == "diverged"))))
        for size in sizes
    ]
    return _cells(trials[fit], table[fit], against), Left(sizes, groups, excluded)


def _group(whole: pd.DataFrame, stopped: pd.DataFrame, diverged: pd.DataFrame) -> Group:
    tried = pd.concat([whole["lr"], stopped["lr"]])
    if whole.empty:
        bound = float(diverged["lr"].min()) if len(diverged) else math.nan
        return Group(float(tried.min()), float(tried.max()), bound, 0)
    best = float(whole["lr"].iloc[int(whole["value"].to_numpy().argmin())])
    above = diverged.loc[diverged["lr"] > best, "lr"]
    bound = float(above.min()) if len(above) else math.nan
    return Group(float(tried.min()), float(tried.max()), bound, len(whole))


def _cells(trials: pd.DataFrame, table: pd.DataFrame, against: str) -> Cells:
    names = trials["config_id"] if "config_id" in trials else pd.Series(range(len(trials)), trials.index)
    controls = _controls(trials, against)
    keyed = table.assign(name=names.astype(str), **{f"c{i}": column for i, column in enumerate(controls.T)})
    # With a rule for the learning rate, two sweeps may train one configuration at different rates.
    by = keyed.groupby(["name", "lr", "size"], sort=True)
    mean = by.mean()
    x, z = (np.log(mean.index.get_level_values(each).to_numpy(dtype=float)) for each in ("lr", "size"))
    columns: Floats = mean[[f"c{index}" for index in range(controls.shape[1])]].to_numpy(dtype=np.float64)
    seeds: Floats = np.asarray(by.size(), dtype=np.float64)
    return Cells(x, z, mean["value"].to_numpy(dtype=np.float64), seeds, columns)


def _controls(trials: pd.DataFrame, against: str) -> Floats:
    """The other settings that differ, as columns of mean 0: a straight line over numbers, levels of anything else."""
    mine = {LR, against} | {path for path in trials if against == "model_size" and str(path).startswith("model.")}
    chosen = [str(path) for path in trials if "." in str(path) and path not in mine]
    made = [term(trials[path], path, bends=1) for path in chosen]
    return np.hstack([np.empty((len(trials), 0)), *(one.columns for one in made if one is not None)])
