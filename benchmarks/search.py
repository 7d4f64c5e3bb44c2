"""How good search strategies are: best loss against epochs spent, on a table of real trainings of this model.

`python benchmarks/search.py [--repeats 200] [--json FILE]` gives TPE and random search, each with and without ASHA, the
same budget of epochs, and replays every strategy with so many seeds. Searcher, study and ASHA are the project's own;
only training and waiting are left out. A trial counts once it has trained all its epochs. Prints the median and
the quartiles of the lowest loss, and of how far it lies above the lowest loss of the table (regret), at a few budgets;
then after how many epochs each median is where random search ends, and what ASHA did to the trials.

`python benchmarks/search.py record [--minutes 60]` makes the table, benchmarks/data/python_docs.csv, or goes on with
one.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import tabulated
from numpy.typing import NDArray
from replay import Outcome, replay

from tune_newllm.data.progress import track
from tune_newllm.sweep.provenance import git_commit, processor, versions
from tune_newllm.sweep.spec import Budget, EarlyTerminate, SweepSpec

STRATEGIES = {"TPE + ASHA": ("bayes", True), "TPE": ("bayes", False)}
STRATEGIES |= {"random + ASHA": ("random", True), "random": ("random", False)}
BUDGETS = (1 / 8, 1 / 4, 1 / 2, 1)


def machine() -> dict[str, Any]:
    """Where and with what this runs."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "versions": {"python": platform.python_version(), **versions()},
        "commit": git_commit(),
    }


def specs(arguments: argparse.Namespace) -> Iterator[tuple[str, SweepSpec]]:
    """Every strategy with every seed."""
    base = tabulated.sweep()
    asha = EarlyTerminate(min_iter=arguments.min_iter, eta=arguments.eta, within=arguments.within)
    for name, (method, stops) in STRATEGIES.items():
        for seed in range(arguments.repeats):
            how = {"method": method, "early_terminate": asha if stops else None}
            task = {"budget": Budget(epochs=arguments.epochs), "training": replace(base.training, seed=seed)}
            yield name, base.model_copy(update={**how, **task})


def run(arguments: argparse.Namespace, table: tabulated.Table) -> dict[str, list[Outcome]]:
    """The outcomes of each strategy, by seed."""
    names, sweeps = zip(*specs(arguments), strict=True)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in STRATEGIES}
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        results = pool.map(partial(replay, table=table, workers=arguments.workers), sweeps, chunksize=5)
        for name, outcome in zip(track(names, "replaying", True), results, strict=True):
            outcomes[name].append(outcome)
    return outcomes


def summary(outcomes: dict[str, list[Outcome]], best: float) -> dict[str, dict[str, Any]]:
    """Figures of each strategy; a budget without a completed trial has None for a loss."""
    curves = {name: np.array([each.best for each in found]) for name, found in outcomes.items()}
    medians = {name: quartiles(curve)[1] for name, curve in curves.items()}
    reached = {name: first_at_most(median, medians["random"][-1]) for name, median in medians.items()}
    figures: dict[str, dict[str, Any]] = {}
    for name, found in outcomes.items():
        spent = [int(share * curves[name].shape[1]) for share in BUDGETS]
        losses = {epochs: quartiles(curves[name][:, epochs - 1]).tolist() for epochs in spent}
        theirs, ours = reached["random"], reached[name]
        figures[name] = {
            "loss": {epochs: finite(row) for epochs, row in losses.items()},
            "regret": {epochs: finite([loss - best for loss in row]) for epochs, row in losses.items()},
            "epochs_to_random": ours,
            "times_fewer": theirs / ours if theirs and ours else None,
            "trials": float(np.mean([each.trials for each in found])),
            "completed": float(np.mean([each.completed for each in found])),
            "missed": float(np.mean([each.missed for each in found])),
        }
    return figures


def quartiles(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """[3, ...] over the first axis: values that occur, as one between a number and infinity would be none."""
    return np.quantile(losses, (0.25, 0.5, 0.75), axis=0, method="inverted_cdf")


def first_at_most(curve: NDArray[np.float64], target: float) -> int | None:
    """Epochs after which a falling curve is at most the target; None where it never is, or the target is infinite."""
    below = np.flatnonzero((curve <= target) & np.isfinite(target))
    return int(below[0]) + 1 if len(below) else None


def finite(row: list[float]) -> list[float] | None:
    """The row without infinities, which JSON has no word for: None instead."""
    return [round(value, 5) for value in row] if np.isfinite(row).all() else None


def show(figures: dict[str, dict[str, Any]]) -> None:
    """Print the tables."""
    print(f"\n{'strategy':16}{'epochs':>7}{'best loss (quartiles)':>28}{'regret (quartiles)':>28}")
    for name, row in figures.items():
        for epochs in row["loss"]:
            texts = [_quartiles(row[what][epochs]) for what in ("loss", "regret")]
            print(f"{name:16}{epochs:>7}{texts[0]:>28}{texts[1]:>28}")
    print(f"\n{'strategy':16}{'epochs to random':>18}{'times fewer':>13}{'trials':>9}{'completed':>11}{'missed':>9}")
    for name, row in figures.items():
        reached = (str(row["epochs_to_random"]), f"{row['times_fewer']:.2f}") if row["times_fewer"] else ("never", "-")
        rest = f"{row['trials']:>9.1f}{row['completed']:>11.1f}{row['missed']:>9.0%}"
        print(f"{name:16}{reached[0]:>18}{reached[1]:>13}{rest}")


def _quartiles(row: list[float] | None) -> str:
    return "none completed" if row is None else f"{row[1]:.4f} ({row[0]:.4f} .. {row[2]:.4f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("replay", "record"), default="replay")
    parser.add_argument("--minutes", type=float, default=60, help="record: begin no training after these")
    parser.add_argument("--repeats", type=int, default=200, help="seeds of each strategy")
    parser.add_argument("--epochs", type=int, default=360, help="budget of one search")
    parser.add_argument("--workers", type=int, default=4, help="trials that run side by side in a simulated sweep")
    parser.add_argument("--min-iter", type=int, default=2, help="ASHA's first rung, in epochs")
    parser.add_argument("--eta", type=float, default=2, help="ASHA stops all but one of so many at each rung")
    parser.add_argument("--within", help="keep ASHA's rungs apart for each value of this parameter")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="replays that run side by side")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    facts = machine()
    print(json.dumps(facts), file=sys.stderr)
    if arguments.what == "record":
        return 0 if tabulated.record(tabulated.FILE, arguments.minutes, facts) else 1
    table = tabulated.read()
    figures = summary(run(arguments, table), table.best)
    print(f"lowest loss of the table {table.best:.4f}; {arguments.workers} workers, {arguments.repeats} repeats")
    show(figures)
    if arguments.json:
        asked = vars(arguments) | {"json": str(arguments.json)}
        result = {"machine": facts, "arguments": asked, "table_best": table.best, "strategies": figures}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
