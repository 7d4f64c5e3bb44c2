"""Do the intervals of the learning-rate law keep their promise? Simulated sweeps whose true exponent is known.

    python benchmarks/calibration.py --repeats 500

Every row is a design: how learning rates were chosen, how noisy the losses are (the standard deviation of one trial in
units of k, the curvature of the bowl), and the true exponent. Printed are how often the 95 % interval holds the truth,
its half-width, how often the verdict was right, wrong, or "not determined", and how often a bend was claimed.
"""

import argparse
import json
import math
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.lr_fit import fit_lr_batch_law
from analysis.lr_law import EXPONENTS

BATCHES = (8, 16, 32, 64, 128)
CURVATURE = 0.07
"""Nats of loss per squared nat, as measured for this model (256 units, batch 32)."""
CENTRE = math.log(3e-3)
DIVERGES = 2.2
"""Nats above the best learning rate from which trials diverge."""


@dataclass(frozen=True)
class Design:
    """How a simulated sweep chooses its trials.

    Attributes:
        name: `grid`: seven rates a factor 1.8 apart around the square-root law, three seeds. `random`: over 6.2 nats of
            learning rate. `adaptive`: half random, half near the best so far, as TPE. `asha`: adaptive, and of each
            batch size only the better half after half the epochs is trained to its end. `edge`: a grid too low for the
            largest batch sizes. `clip`: adaptive, with a second setting that moves loss and best rate.
        per_batch: configurations for each batch size.
        noise: standard deviation of one trial's loss at the smallest batch, in units of `CURVATURE`.
        growth: by how much more it is at the largest batch, which takes the fewest steps.
        skew: how much steeper the loss rises above its lowest point than below.
    """

    name: str
    per_batch: int
    noise: float
    growth: float = 1.0
    skew: float = 0.6


DESIGNS = (
    Design("grid", 7, 0.2),
    Design("grid", 7, 0.5),
    Design("grid", 7, 1.0, growth=2.0),
    Design("random", 8, 0.2),
    Design("random", 24, 0.5),
    Design("adaptive", 8, 0.2),
    Design("adaptive", 16, 0.5),
    Design("adaptive", 16, 1.0, growth=2.0),
    Design("asha", 16, 0.2),
    Design("edge", 7, 0.2),
    Design("clip", 16, 0.2),
)


def simulate(design: Design, exponent: float, rng: np.random.Generator) -> pd.DataFrame:
    """A table of trials as `Sweep.trials` has it."""
    rows: list[dict[str, object]] = []
    for batch in BATCHES:
        z = math.log(batch / 32)
        best = CENTRE + exponent * z
        sigma = design.noise * CURVATURE * (1 + design.growth * (z - math.log(8 / 32)) / math.log(128 / 8))
        floor = 2.0 + 0.1 * rng.normal()
        offsets: list[float] = []
        losses: list[float] = []
        for number in range(design.per_batch):
            x = _rate(design, z, number, offsets, losses, rng)
            clip = float(rng.choice([0.5, 1.0, 2.0])) if design.name == "clip" else 1.0
            u = x - best - 0.2 * math.log(clip)
            shape = CURVATURE * u * u * (1 + design.skew * math.tanh(u) * (1.0 if u > 0 else 0.5))
            bowl = floor + shape + 0.05 * math.log(clip)
            seeds = 3 if design.name in ("grid", "edge") else 1
            values = bowl + sigma * rng.normal(size=seeds)
            offsets.append(x)
            losses.append(float(values.mean()) if u < DIVERGES else math.inf)
            for value in values:
                rows.append(
                    {
                        "config_id": f"{batch}-{number}",
                        "lr": math.exp(x),
                        "training.lr": math.exp(x),
                        "training.batch_size": batch,
                        "value": math.nan if u >= DIVERGES else value,
                        "state": "diverged" if u >= DIVERGES else "completed",
                        "full_fidelity": u < DIVERGES,
                        "early": bowl + CURVATURE * rng.normal() * design.noise,
                    }
                    | ({"training.clip.norm": clip} if design.name == "clip" else {})
                )
    table = pd.DataFrame(rows)
    if design.name == "asha":
        going = table["early"].groupby(table["training.batch_size"]).rank(pct=True) <= 0.5
        table.loc[~going & (table["state"] == "completed"), ["state", "full_fidelity"]] = ["stopped", False]
    return table


def _rate(
    design: Design, z: float, number: int, tried: list[float], losses: list[float], rng: np.random.Generator
) -> float:
    if design.name in ("grid", "edge"):
        spread = (number - (design.per_batch - 1) / 2) * math.log(1.8)
        return CENTRE + (0.5 * z if design.name == "grid" else -0.5) + spread
    if design.name != "random" and number >= design.per_batch // 2:
        return tried[int(np.argmin(losses))] + 0.7 * float(rng.normal())
    return float(CENTRE + rng.uniform(-3.6, 2.6))


@dataclass
class Tally:
    """What came of the repeats of one design."""

    covered: int = 0
    halves: list[float] | None = None
    verdicts: Counter[str] | None = None


def run(design: Design, exponent: float, repeats: int) -> dict[str, object]:
    """One row of the table."""
    rng = np.random.default_rng([repeats, DESIGNS.index(design), int(2 * exponent)])
    names = {value: name for name, value in EXPONENTS["training.batch_size"].items()}
    covered, halves, verdicts = 0, [], Counter[str]()
    for _ in range(repeats):
        law = fit_lr_batch_law(simulate(design, exponent, rng))
        bounded = law.interval is not None and math.isfinite(law.interval.low)
        if bounded and law.interval is not None:
            covered += law.interval.holds(exponent)
            halves.append((law.interval.high - law.interval.low) / 2)
        right = law.verdict == names[exponent]
        verdicts["right" if right else law.verdict if law.verdict in ("not determined", "bend") else "wrong"] += 1
    return {
        "design": design.name,
        "per batch": design.per_batch,
        "noise": design.noise,
        "exponent": exponent,
        "intervals": len(halves) / repeats,
        "covered": covered / max(1, len(halves)),
        "half-width": float(np.median(halves)) if halves else math.nan,
        **{name: verdicts[name] / repeats for name in ("right", "wrong", "bend", "not determined")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--json", type=Path, help="write the table there as well")
    arguments = parser.parse_args()
    rows = []
    began = time.perf_counter()
    for design in DESIGNS:
        for exponent in EXPONENTS["training.batch_size"].values():
            rows.append(run(design, exponent, arguments.repeats))
            if len(rows) == 1:
                print("  ".join(rows[0]))
            print(
                "  ".join(
                    f"{v:{len(k)}.3g}" if isinstance(v, float) else f"{v!s:{len(k)}}" for k, v in rows[-1].items()
                ),
                flush=True,
            )
    print(f"{arguments.repeats} repeats each, {time.perf_counter() - began:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
