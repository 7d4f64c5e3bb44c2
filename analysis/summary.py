"""What a sweep says in numbers (`summary`) and in plain sentences (`answers`)."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tune_newllm.records import SweepStarted

from .best import best
from .failures import failures
from .load import Sweep
from .rungs import survival
from .tables import absent, configured
from .words import STATES, counted, digits, duration, export_command, label, shown

STATUS = {
    "open": "The sweep has no recorded end: it is still running, or it was killed.",
    "interrupted": "The sweep was interrupted and can be resumed.",
    "budget": "The sweep reached its budget and can be resumed.",
}


def summary(sweep: Sweep, test_loss: float | None = None, k: int = 10) -> dict[str, Any]:
    """Every number of the report, ready for JSON: no NaN, no numpy types.

    Args:
        test_loss: loss of the best trial on the test split (nats per token); without it, `test_loss` of
            `best/summary.json` counts if that file's `trial_id` is still the best trial.
        k: length of the list of best configurations.
    """
    ranking = best(sweep, k)
    rows = ranking.trials.to_dict("records")
    if test_loss is None and rows:
        test_loss = _recorded_test_loss(sweep.folder, rows[0]["trial_id"])
    states = sweep.trials["state"].value_counts()
    asked = configured(sweep.spec, "training.epochs")
    content = {
        "name": sweep.name,
        "description": sweep.spec.get("description") or "",
        "status": sweep.status,
        "trials": {"total": len(sweep.trials)} | {state: int(states[state]) for state in STATES if state in states},
        "epochs": {"trained": len(sweep.epochs), "asked_per_trial": asked},
        "seconds": {"wall": wall_seconds(sweep), "training": float(sweep.trials["seconds"].sum())},
        "full_fidelity": ranking.full_fidelity,
        "margin": ranking.margin,
        "test_loss": test_loss,
        "test_ppl": None if test_loss is None else _perplexity(test_loss),
        "best": [_row(sweep, row) for row in rows],
        "rungs": [count._asdict() for count in survival(sweep)],
        "failures": [failure._asdict() for failure in failures(sweep)],
        "warnings": sweep.warnings,
        "provenance": sweep.provenance,
    }
    return dict(plain(content))


def answers(sweep: Sweep, test_loss: float | None = None) -> list[str]:
    """The sweep's findings in plain sentences, the most important first; the same in report and terminal."""
    if sweep.trials.empty:
        return ["No trial has been created yet.", *([STATUS[sweep.status]] if sweep.status in STATUS else [])]
    content = summary(sweep, test_loss, k=2)
    status = [STATUS[content["status"]]] if content["status"] in STATUS else []
    return [*_on_best(content), *_on_margin(content), *_on_test(content), *_on_trials(content), *status]


def wall_seconds(sweep: Sweep) -> float:
    """Time for which a driver was at work: from each of its starts to the last record before the next start."""
    moments: list[float] = sorted([event.time for event in sweep.events] + sweep.epochs["time"].tolist())
    starts = [event.time for event in sweep.events if isinstance(event, SweepStarted)]
    total = 0.0
    for start, following in zip(starts, [*starts[1:], math.inf], strict=True):
        total += max([moment for moment in moments if start <= moment < following], default=start) - start
    return total


def plain(value: Any) -> Any:
    """The same content in JSON's own types: numpy scalars unpacked, NaN, infinities and NA as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool) else str(value)


def _row(sweep: Sweep, row: Mapping[Any, Any]) -> dict[str, Any]:
    names = (
        "trial_id",
        "number",
        "config_id",
        "state",
        "value",
        "behind",
        "ppl",
        "best_epoch",
        "epochs",
        "lr",
        "seconds",
    )
    settings = {path: row[path] for path in sweep.searched if not absent(row[path])}
    return {name: row[name] for name in names} | {
        "parameters": settings,
        "export": export_command(sweep.folder, row["trial_id"]),
    }


def _perplexity(loss: float) -> float | None:
    return math.exp(loss) if loss < 700 else None


def _recorded_test_loss(folder: Path, trial_id: str) -> float | None:
    try:
        content = json.loads((folder / "best" / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(content, dict) or content.get("trial_id") != trial_id or content.get("test_loss") is None:
        return None
    return float(content["test_loss"])


def _on_best(content: Mapping[str, Any]) -> list[str]:
    if not content["best"]:
        return ["There is no best configuration yet: no trial has finished an epoch with a finite loss."]
    row = content["best"][0]
    settings = ", ".join(f"{label(path)} {shown(value)}" for path, value in row["parameters"].items())
    words = f"The best configuration is trial {row['trial_id']}" + (f" ({settings})" if settings else "")
    words += f": validation loss {digits(row['value'])}, perplexity {digits(row['ppl'])}"
    if content["full_fidelity"]:
        return [f"{words}, reached in epoch {row['best_epoch']} of {row['epochs']}."]
    ended = (
        f"is {STATES[row['state']]}" if row["state"] in ("running", "interrupted") else f"was {STATES[row['state']]}"
    )
    return [
        f"{words} after {counted(row['epochs'], 'epoch')}.",
        f"No trial has run to its end yet, and this one {ended}: the ranking is provisional.",
    ]


def _on_margin(content: Mapping[str, Any]) -> list[str]:
    if not content["full_fidelity"]:
        return []
    if content["margin"] is None:
        return ["No other trial ran to its end, so there is nothing to compare it with."]
    share, second = content["margin"] / content["best"][0]["value"], content["best"][1]
    return [
        f"The runner-up, trial {second['trial_id']}, is {digits(content['margin'], 2)} nats per token behind "
        f"({digits(100 * share, 2)} %); each was trained once, so how much of that is chance is not known."
    ]


def _on_test(content: Mapping[str, Any]) -> list[str]:
    if content["test_loss"] is None:
        return []
    return [
        f"On the test split, which played no part in the choice, its loss is {digits(content['test_loss'])}, "
        f"perplexity {digits(content['test_ppl'])}."
    ]


def _on_trials(content: Mapping[str, Any]) -> list[str]:
    trials, epochs, seconds = content["trials"], content["epochs"], content["seconds"]
    states = ", ".join(f"{trials[state]} {word}" for state, word in STATES.items() if state in trials)
    words = f"{counted(epochs['trained'], 'epoch')} were trained in {duration(seconds['wall'])}"
    full = trials["total"] * epochs["asked_per_trial"] if isinstance(epochs["asked_per_trial"], int) else 0
    if content["status"] == "finished" and full > epochs["trained"]:
        words += (
            f", {digits(100 * epochs['trained'] / full, 2)} % of what running every trial to its end would have taken"
        )
    return [f"{counted(trials['total'], 'trial')}: {states}.", f"{words}."]
