"""Which family of models is best, each with its own best settings."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from .best import NOISE_OF, best, seed_variance
from .load import Sweep
from .once import once
from .words import counted, digits, duration, listed

FAMILY = "model.family"

UNTOLD = ("running", "interrupted", "crashed", "failed")
"""States that say nothing of a learning rate."""
LEAST_CONFIGURATIONS = 3
"""That a family's best one should have been chosen from."""
UNEQUAL = 1.1
"""Times as many parameters as another family has, or tokens, from which on they count as different."""


class Family(NamedTuple):
    """The best configuration of a family, of those that ran to their end."""

    name: str
    trial_id: str
    loss: float
    """Nats per token, the mean over its seeds."""
    behind: float
    """The best family's loss."""
    noise: float | None
    """Two standard errors of `behind`, as `best` has them; None for the best one, and where there are no seeds."""
    lr: float
    tokens: int
    """In all epochs that it was asked for."""
    iterations: int | None
    """Of phase one, over all tokens before the epochs; None where there was none."""
    parameters: int | None
    """Scalars of the model's weights."""
    seconds: float
    """Time spent in the epochs of the trial."""
    configurations: int
    """That ran to their end."""
    edge: str
    """`lowest` or `highest` where the best learning rate is that one of those tried, else empty."""


@once
def families(sweep: Sweep) -> list[Family]:
    """The families that have a trial at full fidelity, the best one first; empty unless two were tried."""
    names = _tried(sweep)
    if len(names) < 2:
        return []
    # Each as if the sweep had tried it alone, but with the noise of all.
    parts = [(name, replace(sweep, trials=sweep.trials[sweep.trials[FAMILY] == name])) for name in names]
    ranked = [(name, part, best(part, len(part.trials))) for name, part in parts]
    found = [(name, part, ranking.trials) for name, part, ranking in ranked if ranking.full_fidelity]
    found.sort(key=lambda each: float(each[2]["mean"].iloc[0]))
    variance = seed_variance(best(sweep, NOISE_OF).trials)
    return [_family(name, part, rows, found[0][2], variance) for name, part, rows in found]


def _tried(sweep: Sweep) -> list[str]:
    return sorted(sweep.trials[FAMILY].dropna().unique()) if FAMILY in sweep.searched else []


def _family(name: str, sweep: Sweep, ranked: pd.DataFrame, lowest: pd.DataFrame, variance: float) -> Family:
    """One family, by its ranked configurations and those of the best family."""
    first, leader = ranked.iloc[0], lowest.iloc[0]
    alone = ranked is lowest or math.isnan(variance)
    noise = None if alone else 2 * math.sqrt(variance * (1 / leader["replicates"] + 1 / first["replicates"]))
    last = sweep.epochs[sweep.epochs["trial_id"] == first["trial_id"]].iloc[-1]
    asked = float(sweep.setting("training.epochs")[ranked.index[0]] or last["epoch"])
    # Those that were stopped early or diverged tell that the best rate lies on this side of them.
    rates = sweep.trials.loc[~sweep.trials["state"].isin(UNTOLD), "lr"].dropna()
    edges = {float(rates.max()): "highest", float(rates.min()): "lowest"} if rates.nunique() > 1 else {}
    size, iterations = sweep.trials["model_size"][ranked.index[0]], last["fixed_point_iterations"]
    return Family(
        name=name,
        trial_id=str(first["trial_id"]),
        loss=float(first["mean"]),
        behind=float(first["mean"] - leader["mean"]),
        noise=noise,
        lr=float(first["lr"]),
        tokens=round(float(last["tokens"] / last["epoch"]) * asked),
        iterations=None if pd.isna(iterations) else int(iterations),
        parameters=None if pd.isna(size) else int(size),
        seconds=float(first["seconds"]),
        configurations=len(ranked),
        edge=edges.get(float(first["lr"]), ""),
    )


def family_sentences(sweep: Sweep) -> list[str]:
    """Which family is best and by how much, then what keeps the comparison from being fair."""
    found = families(sweep)
    without = [name for name in _tried(sweep) if name not in {each.name for each in found}]
    missing = [f"No trial of the family {listed(without)} has run to its end."] if without and found else []
    if len(found) < 2:
        return missing
    first, *others = found
    tokens = [each.tokens for each in found]
    alike = f"At equal tokens ({digits(first.tokens, 3)})"
    if max(tokens) > UNEQUAL * min(tokens):
        alike = f"Not at equal tokens ({', '.join(f'{digits(each.tokens, 3)} for {each.name}' for each in found)})"
    said = f"{alike}, each with its own best learning rate, the family {first.name} is best: loss "
    said += f"{digits(first.loss)} ({_about(first)})"
    said += "".join(f"; {_behind(each)}" for each in others) + "."
    if all(each.noise is None for each in others):
        said += " Each was trained once, so how much of that is chance is not known."
    return [said, *_cautions(found), *missing]


def _about(each: Family) -> str:
    size = "" if each.parameters is None else f"{each.parameters:,} parameters, "
    return f"learning rate {digits(each.lr, 2)}, {size}{duration(each.seconds)}"


def _behind(each: Family) -> str:
    said = f"{each.name} is {digits(each.behind, 2)} nats per token behind"
    if each.noise is not None:
        chance = "more than" if each.behind > each.noise else "within"
        said += f", {chance} the noise of the seeds, ± {digits(each.noise, 2)}"
    return f"{said} ({_about(each)})"


def _cautions(found: Sequence[Family]) -> list[str]:
    said = [
        f"These are the tokens of the epochs. Before them {each.name} taught its context blocks in "
        f"{counted(each.iterations, 'iteration')} over the same text (phase one); in them only its other parameters "
        "are trained."
        for each in found
        if each.iterations is not None
    ]
    sizes = [each.parameters for each in found if each.parameters is not None]
    if len(sizes) > 1 and max(sizes) > UNEQUAL * min(sizes):
        times = digits(max(sizes) / min(sizes), 2)
        said.append(f"The families' models differ in size by a factor of up to {times}, which may explain some of it.")
    said += [
        f"The best learning rate of {each.name} is the {each.edge} tried, so its loss may still fall beyond it."
        for each in found
        if each.edge
    ]
    few = [
        f"{counted(each.configurations, 'configuration')} of {each.name}"
        for each in found
        if each.configurations < LEAST_CONFIGURATIONS
    ]
    if few:
        said.append(f"Only {listed(few)} ran to the end, so the best of it need not be a good one.")
    return said
