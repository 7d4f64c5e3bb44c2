"""The two tables of a sweep: one row per trial, and one row per trial and epoch."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd

from tune_newllm.records import EpochRecord, TrialCreated, TrialEnded

EPOCH_COLUMNS = [name for name in EpochRecord.model_fields if name not in ("schema_version", "event")]
TRIAL_COLUMNS = [
    *("trial_id", "number", "replicate", "config_id", "seed", "origin", "state", "reason", "epochs", "value", "ppl"),
    *("best_epoch", "full_fidelity", "lr", "model_size", "plateau_step", "clipped_share", "micro_batch"),
    *("crashes", "seconds", "started"),
]


def configured(spec: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path of the resolved spec; None where there is none."""
    node: Any = spec
    for key in path.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return node


def setting(spec: Mapping[str, Any], trials: pd.DataFrame, path: str) -> pd.Series:
    """A configuration key for every trial: its searched value, or, where it has none, that of the resolved spec."""
    base = configured(spec, path)
    if path not in trials:
        return pd.Series([base] * len(trials), trials.index)
    return trials[path] if base is None else trials[path].map(lambda value: base if absent(value) else value)


def absent(value: Any) -> bool:
    """Whether a trial does not have a parameter; an explicit None is a value."""
    return isinstance(value, float) and math.isnan(value)


def order(value: Any) -> tuple[int, float, str]:
    """Sorting key for the values of a parameter: numbers by size, then all others by name."""
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


epoch_row: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*EPOCH_COLUMNS)
"""The values of an `EpochRecord`'s fields in the order of `EPOCH_COLUMNS`; a tenth of the record's memory."""


def epoch_table(rows: Sequence[tuple[Any, ...]]) -> pd.DataFrame:
    """One row per `epoch_row`, typed also when there is none."""
    whole = ["epoch", "step", "tokens", "peak_memory_bytes"]
    table = {}
    for at, name in enumerate(EPOCH_COLUMNS):
        values = list(map(itemgetter(at), rows))
        # Numpy takes None as NaN on the way.
        numbers = None if name == "trial_id" else np.array(values, dtype="int64" if name in whole else "float64")
        table[name] = pd.Series(values, dtype="str") if numbers is None else pd.Series(numbers)
    return pd.DataFrame(table)


def trial_table(
    spec: Mapping[str, Any],
    searched: Sequence[str],
    created: Sequence[TrialCreated],
    ended: Mapping[str, TrialEnded],
    started: Mapping[str, float],
    lost: Mapping[str, int],
    epochs: pd.DataFrame,
) -> pd.DataFrame:
    """One row per trial in order of suggestion; `state` is empty where the trial has no end."""
    created = sorted(created, key=lambda trial: (trial.number, trial.replicate))
    ends = [ended.get(trial.trial_id) for trial in created]
    table = pd.DataFrame(
        {
            "trial_id": pd.Series([trial.trial_id for trial in created], dtype="str"),
            "number": pd.Series([trial.number for trial in created], dtype="int64"),
            "replicate": pd.Series([trial.replicate for trial in created], dtype="int64"),
            "config_id": pd.Series([trial.config_id for trial in created], dtype="str"),
            "seed": pd.Series([trial.seed for trial in created], dtype="int64"),
            "origin": pd.Series([trial.origin for trial in created], dtype="str"),
            "state": pd.Series([end.state if end else "" for end in ends], dtype="str"),
            "reason": pd.Series([end.reason if end else "" for end in ends], dtype="str"),
            "epochs": pd.Series([end.epoch if end else 0 for end in ends], dtype="int64"),
            "lr": pd.Series([trial.lr for trial in created], dtype="float64"),
            "model_size": pd.Series([trial.model_size for trial in created], dtype="Int64"),
            "crashes": pd.Series([lost.get(trial.trial_id, 0) for trial in created], dtype="int64"),
        }
    )
    values = {name: _column([trial.parameters.get(name, math.nan) for trial in created]) for name in searched}
    table = pd.concat([table, pd.DataFrame(values, index=table.index)], axis=1)
    table["started"] = pd.to_datetime(
        table["trial_id"].map(started).astype("float64"), unit="s", utc=True, errors="coerce"
    )
    _add_results(table, epochs)
    table["full_fidelity"] = _full_fidelity(spec, table)
    return table[TRIAL_COLUMNS + list(searched)]


def _column(values: Sequence[Any]) -> pd.Series:
    """One parameter over all trials: numbers where all are numbers, else what was written (lists as JSON text)."""
    present = [value for value in values if not absent(value)]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in present):
        whole = len(present) == len(values) and all(isinstance(value, int) for value in present)
        return pd.Series(values, dtype="int64" if whole else "float64")
    return pd.Series([json.dumps(v) if isinstance(v, list | dict) else v for v in values], dtype="object")


def _add_results(table: pd.DataFrame, epochs: pd.DataFrame) -> None:
    trial, recorded = table["trial_id"], epochs.groupby("trial_id")
    # The end may know of an epoch whose own line was torn.
    last = trial.map(recorded["epoch"].max()).astype("float64").fillna(0).astype("int64")
    table["epochs"] = table["epochs"].clip(lower=last)
    table["seconds"] = trial.map(recorded["seconds"].sum()).astype("float64").fillna(0.0)
    finite = epochs[epochs["val_loss"].abs() < math.inf]
    lowest = finite.loc[finite.groupby("trial_id")["val_loss"].idxmin()].set_index("trial_id")
    table["value"] = trial.map(lowest["val_loss"]).astype("float64")
    table["ppl"] = trial.map(lowest["val_ppl"]).astype("float64")
    table["best_epoch"] = trial.map(lowest["epoch"]).astype("Int64")
    table["plateau_step"] = trial.map(recorded["plateau_step"].last()).astype("Int64")
    table["clipped_share"] = trial.map(recorded["clipped_share"].last()).astype("float64")
    table["micro_batch"] = trial.map(recorded["micro_batch"].min()).astype("Int64")
    # Records of older sweeps do not say the peak, and the rate of an epoch never lies above it.
    table["lr"] = table["lr"].fillna(trial.map(recorded["lr"].max()).astype("float64"))


def _full_fidelity(spec: Mapping[str, Any], table: pd.DataFrame) -> pd.Series:
    """Completed over all epochs that were asked for, or by patience."""
    asked = pd.to_numeric(setting(spec, table, "training.epochs"), errors="coerce").fillna(0)
    return (table["state"] == "completed") & ((table["reason"] == "patience") | (table["epochs"] >= asked))
