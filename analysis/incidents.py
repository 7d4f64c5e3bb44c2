"""What befell a sweep: extensions, changed code, lost workers, passes cut for want of memory, and its end."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from tune_newllm.records import CodeForced, SweepExtended, TrialCreated, TrialStarted

from .load import Sweep
from .tables import configured
from .words import counted, listed


def incidents(sweep: Sweep) -> dict[str, list[dict[str, Any]]]:
    """Each of them in the order in which it happened; ready for JSON."""
    return {
        "extensions": _extensions(sweep),
        "changed_code": _changed_code(sweep),
        "lost_workers": _lost_workers(sweep),
        "smaller_passes": _smaller_passes(sweep),
    }


def incident_sentences(found: Mapping[str, list[dict[str, Any]]]) -> list[str]:
    """`incidents` in plain sentences; none where there were none."""
    said = [f"The sweep was extended {_steps(found['extensions'])}."] if found["extensions"] else []
    said += [_on_code(change) for change in found["changed_code"]]
    went_on = [row for row in found["lost_workers"] if row["state"] != "crashed"]
    if went_on:
        names = [row["trial_id"] + (f" {row['crashes']} times" if row["crashes"] > 1 else "") for row in went_on]
        whose = "its worker" if len(names) == 1 else "their workers"
        said.append(f"{counted(len(names), 'trial')} lost {whose} and went on: {listed(names)}.")
    if cut := found["smaller_passes"]:
        names = [f"{row['trial_id']} ({row['micro_batch']} instead of {row['asked']})" for row in cut]
        why = "fewer sequences at a time than asked, to fit into memory, at the same batch size"
        said.append(f"{counted(len(cut), 'trial')} ran with {why}: {listed(names)}.")
    return said


def _extensions(sweep: Sweep) -> list[dict[str, Any]]:
    cap, epochs = sweep.written.get("run_cap"), configured(sweep.written, "training.epochs")
    rows = []
    for event in sweep.events:
        if isinstance(event, SweepExtended):
            change = {"run_cap": [cap, event.run_cap], "epochs": [epochs, event.epochs]}
            rows.append(change | {"continued": list(event.continued), "new_schedule": event.new_schedule})
            cap, epochs = event.run_cap, event.epochs
    return rows


def _steps(rows: Iterable[Mapping[str, Any]]) -> str:
    """`from 40 to 60 configurations and from 8 to 16 epochs, 3 trials going on, then ...`."""
    said = []
    for row in rows:
        changed = [(row[key], noun) for key, noun in (("run_cap", "configurations"), ("epochs", "epochs"))]
        words = [f"from {_limit(old)} to {_limit(new)} {noun}" for (old, new), noun in changed if old != new]
        going = f", {counted(len(row['continued']), 'trial')} going on" if row["continued"] else ""
        going += " with their learning-rate schedule once more" if row["new_schedule"] and going else ""
        said.append((" and ".join(words) or "by nothing") + going)
    return ", then ".join(said)


def _limit(value: int | None) -> str:
    return "any number of" if value is None else f"{value:,}"


def _changed_code(sweep: Sweep) -> list[dict[str, Any]]:
    """One row for each time; `midway` are the trials that had begun with the earlier code and went on with it."""
    rows: list[dict[str, Any]] = []
    begun: set[str] = set()
    earlier: set[str] = set()
    for event in sweep.events:
        if isinstance(event, CodeForced):
            rows.append({"files": list(event.changed), "from_trial": None, "midway": []})
            earlier |= begun
        elif isinstance(event, TrialCreated) and rows and rows[-1]["from_trial"] is None:
            rows[-1]["from_trial"] = event.trial_id
        elif isinstance(event, TrialStarted):
            begun.add(event.trial_id)
            if event.trial_id in earlier:
                rows[-1]["midway"].append(event.trial_id)
                earlier.remove(event.trial_id)
    return rows


def _on_code(change: Mapping[str, Any]) -> str:
    since = f" from trial {change['from_trial']} on" if change["from_trial"] else "; no trial has begun with it"
    mixed = change["midway"]
    midway = f"; {listed(mixed)} had begun with the earlier code" if mixed else ""
    return f"The sweep went on with changed code ({listed(change['files'])}){since}{midway}."


def _lost_workers(sweep: Sweep) -> list[dict[str, Any]]:
    lost = sweep.trials[sweep.trials["crashes"] > 0]
    rows = lost[["trial_id", "crashes", "state"]].to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def _smaller_passes(sweep: Sweep) -> list[dict[str, Any]]:
    """Trials whose smallest pass held fewer sequences than the sweep file asks for and than their batch."""
    asked = configured(sweep.written, "training.micro_batch")
    if not isinstance(asked, int):
        return []
    batch = pd.to_numeric(sweep.setting("training.batch_size"), errors="coerce").astype("float64")
    wanted = batch.clip(upper=asked).fillna(asked)
    cut = sweep.trials.assign(asked=wanted)[(sweep.trials["micro_batch"] < wanted).fillna(False).astype("bool")]
    rows = cut[["trial_id", "micro_batch", "asked"]].to_dict("records")
    return [{"trial_id": r["trial_id"], "micro_batch": int(r["micro_batch"]), "asked": int(r["asked"])} for r in rows]
