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
from .plateau import SIGNALS, plateau_summary
from .rungs import survival
from .tables import absent, configured
from .words import STATES, counted, digits, duration, export_command, label, resume_command, shown

BEST_COLUMNS = (
    *("trial_id", "number", "config_id", "state", "value", "behind", "mean", "deviation", "replicates", "ppl"),
    *("best_epoch", "epochs", "lr", "model_size", "plateau_step", "seconds"),
)


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
        "seeds": sweep.seeds,
        "margin": ranking.margin,
        "noise": ranking.noise,
        "plateau": plateau_summary(sweep),
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
        return ["No trial has been created yet.", *_on_status(sweep)]
    content = summary(sweep, test_loss, k=2)
    found = [*_on_best(content), *_on_plateau(content), *_on_margin(content), *_on_test(content)]
    return [*found, *_on_trials(content), *_on_status(sweep)]


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
    settings = {path: row[path] for path in sweep.searched if not absent(row[path])}
    epochs = sweep.epochs[(sweep.epochs["trial_id"] == row["trial_id"]) & (sweep.epochs["epoch"] == row["best_epoch"])]
    return {name: row[name] for name in BEST_COLUMNS} | {
        "signals": epochs.iloc[0][list(SIGNALS)].to_dict(),
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
        return [f"{words}, reached in epoch {row['best_epoch']} of {row['epochs']}.", *_on_seeds(content)]
    ended = (
        f"is {STATES[row['state']]}" if row["state"] in ("running", "interrupted") else f"was {STATES[row['state']]}"
    )
    return [
        f"{words} after {counted(row['epochs'], 'epoch')}.",
        f"No trial has run to its end yet, and this one {ended}: the ranking is provisional.",
    ]


def _on_seeds(content: Mapping[str, Any]) -> list[str]:
    """What the seeds of the best configuration say; nothing where each was trained once, as asked."""
    row, asked = content["best"][0], content["seeds"]
    if asked == 1:
        return []
    if row["replicates"] < asked:
        ended = f"{row['replicates']} of the {asked} seeds" if row["replicates"] > 1 else f"one of the {asked} seeds"
        return [f"Only {ended} of that configuration ran to the end: the ranking is shaky."]
    return [
        f"It is the best of {asked} seeds of that configuration; their mean loss, by which configurations are ranked, "
        f"is {digits(row['mean'])}, the standard deviation {digits(row['deviation'], 2)}."
    ]


def _on_margin(content: Mapping[str, Any]) -> list[str]:
    if not content["full_fidelity"]:
        return []
    if content["margin"] is None:
        return ["No other configuration ran to its end, so there is nothing to compare it with."]
    margin, noise = content["margin"], content["noise"]
    words = f"The runner-up, trial {content['best'][1]['trial_id']}, is {digits(margin, 2)} nats per token behind "
    words += f"({digits(100 * margin / content['best'][0]['mean'], 2)} %)"
    if any(row["replicates"] < content["seeds"] for row in content["best"][:2]):
        return [f"{words}; seeds are missing, so how much of that is chance is not known."]
    if noise is None:
        return [f"{words}; each was trained once, so how much of that is chance is not known."]
    words += f" in the mean over {content['seeds']} seeds"
    if margin > 2 * noise:
        return [f"{words}: more than the noise of the seeds, ± {digits(2 * noise, 2)} (two standard errors)."]
    return [
        f"{words}: within the noise of the seeds, ± {digits(2 * noise, 2)} (two standard errors), so it is not known "
        "which of the two is better."
    ]


def _on_plateau(content: Mapping[str, Any]) -> list[str]:
    """A warning where most of the trials that count learned next to nothing."""
    found = content["plateau"]
    if found is None or 2 * found["stuck"] <= found["judged"]:
        return []
    trials = "trials that ran to their end" if content["full_fidelity"] else "trials"
    of = f"of the {found['judged']} {trials}"
    who = f"{found['stuck']} {of} never left"
    if found["stuck"] == found["judged"]:
        who = f"Not one {of} left" if found["judged"] > 1 else "The only trial that counts never left"
    return [
        f"{who} the unigram plateau: they learned how often each word occurs and little more, so their losses say "
        "nothing about the settings. Train for more epochs, with a higher learning rate, or help a deep model: "
        "model.init: orthogonal, and no dropout or model.ffn: residual."
    ]


def _on_status(sweep: Sweep) -> list[str]:
    if sweep.status == "open":
        return ["The sweep has no recorded end: it is still running, or it was killed."]
    if sweep.status == "interrupted":
        return [f"The sweep was interrupted; go on with: {resume_command(sweep.folder, {})}"]
    if sweep.status != "budget":
        return []
    gpus, cpus = (configured(sweep.spec, f"resources.{kind}_per_trial") for kind in ("gpus", "cpus"))
    hours = float(sweep.trials["seconds"].sum()) / 3600 * float(gpus or cpus or 1)
    used = {"wall": wall_seconds(sweep), "device_hours": hours, "epochs": len(sweep.epochs)}
    limits = {key: configured(sweep.spec, f"budget.{key}") for key in used}
    # An earlier resume may have raised a limit already: what was used counts as well as what the file says.
    spent = {key: limit for key, limit in limits.items() if limit and used[key] >= limit} or limits
    larger = {f"budget.{key}": math.ceil(2 * max(limit, used[key])) for key, limit in spent.items() if limit}
    command = resume_command(sweep.folder, larger)
    return [f"The sweep reached its budget; go on with a larger one, for example: {command}"]


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
