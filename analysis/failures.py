"""The trials that did not end as hoped."""

from typing import Any, NamedTuple

from .load import Sweep

FAILED = ("diverged", "infeasible", "crashed", "failed")


class Failure(NamedTuple):
    trial_id: str
    number: int
    state: str
    epochs: int
    reason: str
    parameters: dict[str, Any]


def failures(sweep: Sweep) -> list[Failure]:
    """Diverged, infeasible, crashed and failed trials, by state and then in order of suggestion."""
    rows = sweep.trials[sweep.trials["state"].isin(FAILED)].sort_values("number").to_dict("records")
    found = [
        Failure(
            row["trial_id"],
            row["number"],
            row["state"],
            row["epochs"],
            row["reason"],
            {p: row[p] for p in sweep.searched},
        )
        for row in rows
    ]
    return sorted(found, key=lambda failure: FAILED.index(failure.state))
