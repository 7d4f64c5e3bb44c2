"""The questions that are asked of every sweep, answered in few words."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from .words import LONGEST_REASON, STATES, cut, digits, duration, label, shown

MOST_IMPORTANT = 3
"""Settings whose importance is told."""

_STATUS = {
    "finished": "finished",
    "interrupted": "interrupted",
    "budget": "stopped by its budget",
    "failing": "stopped: its first trials all failed",
    "halted": "stopped by a fault",
}


def _status(content: Mapping[str, Any]) -> str:
    if content["status"] == "open":
        return {True: "running", False: "killed", None: "running or killed, not known which"}[content["running"]]
    why = f" ({cut(content['detail'], LONGEST_REASON)})" if content["detail"] else ""
    return _STATUS[content["status"]] + why


def _trials(content: Mapping[str, Any]) -> str:
    trials = content["trials"]
    states = ", ".join(f"{trials[state]:,} {word}" for state, word in STATES.items() if state in trials)
    return f"{trials['total']:,}" + (f": {states}" if states else "")


def _epochs(content: Mapping[str, Any]) -> str:
    trained, asked = content["epochs"]["trained"], content["epochs"]["asked_per_trial"]
    return f"{trained:,}" + (f" ({asked} for a full trial)" if asked else "")


def _best(content: Mapping[str, Any]) -> str:
    for row in content["best"]:
        settings = ", ".join(f"{label(path)} {shown(value)}" for path, value in row["parameters"].items())
        return f"trial {row['trial_id']}" + (f": {settings}" if settings else "")
    return "none yet"


def _loss(content: Mapping[str, Any]) -> str:
    for row in content["best"]:
        ppl = f"perplexity {digits(math.inf if row['ppl'] is None else row['ppl'])}"
        if row["replicates"] > 1:
            mean = f"mean {digits(row['mean'])} ± {digits(row['deviation'], 2)} over {row['replicates']} seeds"
            return f"{mean}; best of them {digits(row['value'])}, {ppl}"
        provisional = "" if content["full_fidelity"] else "; provisional, no trial has run to its end"
        return f"{digits(row['value'])} ({ppl}), epoch {row['best_epoch']} of {row['epochs']}{provisional}"
    return ""


def _margin(content: Mapping[str, Any]) -> str:
    margin, noise = content["margin"], content["noise"]
    if margin is None or not content["full_fidelity"]:
        return ""
    chance = "no seeds, so chance is not known" if noise is None else f"noise of the seeds ± {digits(2 * noise, 2)}"
    return f"{digits(margin, 2)} behind ({chance})"


def _test(content: Mapping[str, Any]) -> str:
    if content["test_loss"] is None:
        return ""
    ppl = math.inf if content["test_ppl"] is None else content["test_ppl"]
    return f"{digits(content['test_loss'])} (perplexity {digits(ppl)})"


def _plateau(content: Mapping[str, Any]) -> str:
    found = content["plateau"]
    if found is None:
        return ""
    middle = "" if found["median_step"] is None else f", half of them by step {digits(found['median_step'], 3)}"
    return f"left by {found['left']:,} of {found['trials']:,} trials{middle}"


def _importances(content: Mapping[str, Any]) -> str:
    found = content["importances"]
    if found["reason"]:
        return f"not determined: {found['reason']}" if content["best"] else ""
    parts = [
        f"{each['label']} {100 * each['importance']:.0f} % ({100 * each['low']:.0f} to {100 * each['high']:.0f})"
        for each in found["parameters"][:MOST_IMPORTANT]
    ]
    return ", ".join(parts)


def _on_rates(content: Mapping[str, Any]) -> str:
    return " ".join(law["sentences"][0] for law in content["lr_laws"])


def _on_data(content: Mapping[str, Any]) -> str:
    return str(content["data_law"]["sentences"][0]) if content["data_law"] else ""


QUESTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "state": _status,
    "best configuration": _best,
    "validation loss": _loss,
    "runner-up": _margin,
    "test loss": _test,
    "importance": _importances,
    "learning rate": _on_rates,
    "perplexity against data": _on_data,
    "unigram plateau": _plateau,
    "trials": _trials,
    "epochs trained": _epochs,
    "time": lambda content: duration(content["seconds"]["wall"]),
}
"""What is asked of every sweep, of its summary; a question that no sweep answers is left out."""
