"""What a sweep says in numbers."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from .best import best
from .data_law import data_law
from .effect_words import findings_summary, importances_summary
from .failures import failures
from .families import families
from .hazard import hazard, hazard_summary
from .incidents import incidents
from .load import Sweep
from .lr_words import law_summary, lr_laws
from .pareto import pareto_summary
from .plateau import SIGNALS, plateau_summary
from .proposal import proposal
from .rungs import survival
from .tables import absent, configured
from .untrusted import read_mapping
from .words import STATES, export_command

BEST_COLUMNS = (
    *("trial_id", "number", "config_id", "state", "value", "behind", "alike", "mean", "deviation", "replicates", "ppl"),
    *("best_epoch", "epochs", "lr", "model_size", "plateau_step", "seconds"),
)

SAME_LOSS = 0.01
"""Nats per token by which two machines may measure the same weights apart."""


def summary(sweep: Sweep, test_loss: float | None = None, k: int = 10, importances: bool = True) -> dict[str, Any]:
    """Every number of the report, ready for JSON: no NaN, no numpy types.

    Args:
        test_loss: loss of the best trial on the test split (nats per token); without it, `test_loss` of
            `best/summary.json` counts if that file still speaks of the best trial and its lowest loss; if it does not,
            `older_best` is true.
        k: length of the list of best configurations.
        importances: whether to take the second that importances need.
    """
    ranking, on_data = best(sweep, k), data_law(sweep)
    rows = ranking.trials.to_dict("records")
    older = False
    if test_loss is None and rows:
        test_loss, older = _recorded_test_loss(sweep.folder, rows[0])
    states = sweep.trials["state"].value_counts()
    asked = configured(sweep.spec, "training.epochs")
    content = {
        "name": sweep.name,
        "description": sweep.spec.get("description") or "",
        "status": sweep.status,
        "detail": sweep.detail,
        "running": sweep.running,
        "trials": {"total": len(sweep.trials)} | {state: int(states[state]) for state in STATES if state in states},
        "epochs": {"trained": len(sweep.epochs), "asked_per_trial": asked},
        "seconds": {"wall": sweep.wall, "training": float(sweep.trials["seconds"].sum())},
        "full_fidelity": ranking.full_fidelity,
        "seeds": sweep.seeds,
        "margin": ranking.margin,
        "noise": ranking.noise,
        "alike": ranking.alike,
        "plateau": plateau_summary(sweep),
        "lr_laws": [law_summary(law) for law in lr_laws(sweep)],
        "next": proposal(sweep),
        "families": [family._asdict() for family in families(sweep)],
        "data_law": on_data.numbers() if on_data else None,
        "test_loss": test_loss,
        "test_ppl": None if test_loss is None else _perplexity(test_loss),
        "older_best": older,
        "best": [_row(sweep, row) for row in rows],
        "pareto": pareto_summary(sweep),
        **findings_summary(sweep),
        **({"importances": importances_summary(sweep)} if importances else {}),
        "hazard": hazard_summary(hazard(sweep)),
        "incidents": incidents(sweep),
        "rungs": [count._asdict() for count in survival(sweep)],
        "failures": [failure._asdict() for failure in failures(sweep)],
        "warnings": sweep.warnings,
        "provenance": sweep.provenance,
    }
    return dict(plain(content))


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


def _recorded_test_loss(folder: Path, row: Mapping[Any, Any]) -> tuple[float | None, bool]:
    """The test loss in `best/`, and whether `best/` holds other weights than those of this trial's best epoch."""
    content = read_mapping(folder / "best" / "summary.json", [])
    if not content:
        return None, False
    measured, loss = content.get("val_loss"), content.get("test_loss")
    # An extended trial keeps its name and gets other weights.
    same = isinstance(measured, int | float) and abs(measured - row["value"]) <= SAME_LOSS
    if content.get("trial_id") != row["trial_id"] or not same:
        return None, True
    return (float(loss) if isinstance(loss, int | float) else None), False
