"""The next trials worth running where a law of the best learning rate is not determined, as a sweep file."""

import math
from collections.abc import Mapping
from io import StringIO
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from .best import best
from .load import Sweep
from .lr_law import BATCH, LrLaw, Optimum
from .lr_words import lr_laws
from .once import once
from .tables import absent

LR = "training.lr"
NEXT_FILE = "next.yaml"
BEYOND = (1.5, 3.0)
"""How many times beyond the edge the learning rates are tried where the best one lies there."""
AROUND = (-1.2, 1.2, -0.6, 0.6, 0.0)
"""Nats from the best learning rate: far ones tell most about where a bowl is lowest, in pairs and the middle last."""
WANTED = 0.12
"""Half-width of the exponent's interval at which square root and linear are told apart well."""
MOST_POINTS = 40


@once
def proposal(sweep: Sweep) -> dict[str, Any] | None:
    """A sweep file with `points:`, of the same configuration; None where the law against the batch size is determined.

    Beyond an edge come rates farther out, though none above one that diverged; where there are too few trials, a new
    bowl; where only the noise is in the way, as many further trials as bring the interval to `WANTED`, as its width
    falls with the root of their number.
    """
    law = next((law for law in lr_laws(sweep) if law.against == BATCH), None)
    # What a sweep has not trained yet may still decide it.
    if law is None or law.verdict != "not determined" or sweep.status in ("open", "interrupted"):
        return None
    points = _points(sweep, law)
    return _spec(sweep, points, law) if points else None


def next_file(sweep: Sweep) -> str | None:
    """The proposal as YAML."""
    content = proposal(sweep)
    if content is None:
        return None
    text = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(content, text)
    return text.getvalue()


def _points(sweep: Sweep, law: LrLaw) -> list[dict[str, float]]:
    rates = {each.size: _rates(law, each) for each in law.optima}
    if not any(rates.values()):
        rates = _more(law)
    factor = _written(sweep)
    points = []
    # Round by round, so that a cut leaves every batch size its most telling ones.
    for number in range(max(map(len, rates.values()), default=0)):
        for size, wanted in rates.items():
            if number < len(wanted):
                lr = float(f"{wanted[number] * factor.get(size, 1.0):.3g}")
                points.append({LR: lr, BATCH: int(size) if float(size).is_integer() else size})
    return points[:MOST_POINTS]


def _rates(law: LrLaw, optimum: Optimum) -> list[float]:
    """What is still to be tried for a batch size whose best learning rate is not known."""
    highest = optimum.diverged if math.isfinite(optimum.diverged) else math.inf
    if optimum.position == "inside":
        return []
    if not optimum.trials:
        known = [each.lr for each in law.optima if each.position == "inside"]
        centre = float(np.exp(np.mean(np.log(known)))) if known else 1e-3
        return [centre * math.exp(step) for step in AROUND if centre * math.exp(step) < highest]
    if optimum.position == "low edge":
        return [optimum.tried.low / factor for factor in BEYOND]
    if optimum.position == "high edge":
        beyond = [optimum.tried.high * factor for factor in BEYOND]
        # Between the highest that worked and the lowest that did not there is always room.
        return [lr for lr in beyond if lr < highest] or [math.sqrt(optimum.tried.high * highest)]
    centre = law.predict(optimum.size).lr if law.interval is not None else math.sqrt(math.prod(optimum.tried))
    return [centre * math.exp(step) for step in AROUND if centre * math.exp(step) < highest]


def _more(law: LrLaw) -> dict[float, list[float]]:
    """Further trials around the known optima."""
    bounded = law.interval is not None and math.isfinite(law.interval.low)
    half = (law.interval.high - law.interval.low) / 2 if bounded and law.interval is not None else 2 * WANTED
    wanted = math.ceil(law.n * ((half / WANTED) ** 2 - 1))
    each = min(len(AROUND), max(2, math.ceil(wanted / len(law.optima))))
    found = {}
    for optimum in law.optima:
        lr = law.predict(optimum.size).lr if law.interval is not None else optimum.lr
        if math.isfinite(lr):
            # Off the rates that were tried already, on a fixed design too.
            found[optimum.size] = [lr * math.exp(0.9 * step) for step in AROUND[:each]]
    return found


def _written(sweep: Sweep) -> dict[float, float]:
    """By batch size: `training.lr` as the file has it over the rate that was trained with, which a rule may change."""
    if LR not in sweep.trials:
        return {}
    ratio = sweep.trials[LR].astype(float) / sweep.trials["lr"]
    return {float(size): float(ratio[sweep.trials[BATCH] == size].median()) for size in sweep.trials[BATCH].unique()}


def _spec(sweep: Sweep, points: list[dict[str, float]], law: LrLaw) -> dict[str, Any]:
    kept = {key: sweep.spec[key] for key in ("corpus", "model", "training", "metric", "seeds") if key in sweep.spec}
    rates = [point[LR] for point in points]
    sizes = sorted({point[BATCH] for point in points})
    return {
        "description": f"further trials for the learning rate against the batch size of {sweep.name}: {law.reason}",
        **{key: dict(value) if isinstance(value, Mapping) else value for key, value in kept.items()},
        "method": "random",
        "parameters": {
            LR: {"distribution": "log_uniform_values", "min": 0.9 * min(rates), "max": 1.1 * max(rates)},
            BATCH: {"values": sizes} if len(sizes) > 1 else {"value": sizes[0]},
            **{path: {"value": value} for path, value in _others(sweep).items()},
        },
        "points": points,
        "run_cap": len(points),
    }


def _others(sweep: Sweep) -> dict[str, Any]:
    """The other searched settings at their best known values, which hold for all of the next trials."""
    ranked = best(sweep, 1).trials
    if ranked.empty:
        return {}
    row = ranked.iloc[0]
    chosen = {path: row[path] for path in sweep.searched if path not in (LR, BATCH) and not absent(row[path])}
    return {path: value.item() if hasattr(value, "item") else value for path, value in chosen.items()}
