"""The trials that did not end as hoped."""

from typing import Any, NamedTuple

from .load import Sweep
from .tables import absent

MEANINGS = {
    "diverged": "The loss left the finite numbers. A finding about these settings, not a fault.",
    "infeasible": "It does not fit into memory, or its values are impossible together. Likewise a finding.",
    "crashed": "The machine lost its process more often than resources.retries allows, whatever the settings.",
    "failed": "An exception, ours or of your own code; its traceback is in trials/ID/log.txt.",
}
"""What it means that a trial ended in one of these states."""

FAILED = tuple(MEANINGS)


class Failure(NamedTuple):
    trial_id: str
    number: int
    state: str
    epochs: int
    reason: str
    parameters: dict[str, Any]


def failures(sweep: Sweep) -> list[Failure]:
    """Diverged, infeasible, crashed and failed trials, by state and then in order of suggestion."""
    rows = sweep.trials[sweep.trials["state"].isin(FAILED)].to_dict("records")
    found = [
        Failure(
            row["trial_id"],
            row["number"],
            row["state"],
            row["epochs"],
            row["reason"],
            {path: row[path] for path in sweep.searched if not absent(row[path])},
        )
        for row in rows
    ]
    return sorted(found, key=lambda failure: FAILED.index(failure.state))
