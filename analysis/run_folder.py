"""The folder of one training, read as if it were a sweep of one trial."""

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

from tune_newllm.errors import FolderError
from tune_newllm.records import EpochRecord, Record, SweepStarted, TrialCreated, TrialEnded, TrialState

from .liveness import seen
from .load import Sweep
from .tables import configured, epoch_row, epoch_table, trial_table
from .untrusted import clean, read_mapping

CONFIGURATION, PROVENANCE = "configuration.json", "provenance.json"
STATES = ("state.safetensors", "state-previous.safetensors")
TRIAL = "run"
LONGEST_HEADER = 50_000_000
"""Bytes; that of ten thousand epochs has five million."""


def is_run(folder: Path) -> bool:
    """Whether `train`, or a trial of a sweep, left this folder."""
    return (folder / CONFIGURATION).is_file() and any((folder / name).is_file() for name in STATES)


def load_run(path: Path | str) -> Sweep:
    """Read the folder of a training: its configuration, and the results of its epochs from its newest whole state.

    Returns:
        a sweep of the one trial `run`, without anything searched; `provenance` and the one event, its beginning, are
        there where `train` kept them. The trial is `stopped` where epochs are left to be trained.

    Raises:
        FolderError: it is no such folder, or none of its states can be read.
    """
    folder, warnings = Path(path), list[str]()
    if not is_run(folder):
        raise FolderError(f"{folder} is no folder of a training: it lacks {CONFIGURATION} or {STATES[0]}")
    spec = read_mapping(folder / CONFIGURATION, warnings)
    history, when, size = _history(folder, warnings)
    rows = [epoch_row(record.__dict__) for record in history]
    epochs = epoch_table(rows)
    created = TrialCreated(
        time=when,
        trial_id=TRIAL,
        config_id=TRIAL,
        number=0,
        seed=_seed(spec),
        origin="point",
        parameters={},
        model_size=size,
    )
    ended = _end(spec, history, when)
    trials = trial_table(spec, [], [created], {TRIAL: ended}, {}, {}, epochs)
    seconds = float(epochs["seconds"].sum())
    provenance = read_mapping(folder / PROVENANCE, warnings) if (folder / PROVENANCE).exists() else {}
    events = _beginning(provenance)
    running = seen(folder) is True
    return Sweep(folder, spec, spec, provenance, trials, epochs, events, [], running, 0.0, seconds, warnings)


def _end(spec: dict[str, Any], history: list[EpochRecord], when: float) -> TrialEnded:
    asked = configured(spec, "training.epochs")
    state: TrialState = "completed"
    reason = "epochs"
    if isinstance(asked, int) and len(history) < asked:
        patient = _out_of_patience(spec, [row.val_loss for row in history])
        state, reason = ("completed", "patience") if patient else ("stopped", "")
    return TrialEnded(time=when, trial_id=TRIAL, state=state, epoch=len(history), reason=reason)


def _out_of_patience(spec: dict[str, Any], losses: list[float]) -> bool:
    """As `training.config.EarlyStoppingConfig.spent`."""
    patience, delta = (configured(spec, f"training.early_stopping.{key}") for key in ("patience", "min_delta"))
    if not isinstance(patience, int) or not isinstance(delta, int | float):
        return False
    stages = configured(spec, "training.lr_stages")
    afters = [stage.get("after") for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
    since = max((after for after in afters if isinstance(after, int) and after <= len(losses)), default=0)
    best, bad = math.inf, 0
    for epoch, loss in enumerate(losses, 1):
        best, bad = (best, bad + (epoch > since)) if loss > best - delta else (loss, 0)
    return bad >= patience


def _beginning(provenance: dict[str, Any]) -> list[Record]:
    """When and by which command it was begun."""
    words, created = provenance.get("command"), provenance.get("created")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return []
    try:
        moment = datetime.fromisoformat(str(created)).timestamp()
    except (ValueError, OverflowError, OSError):
        return []
    return [SweepStarted(time=moment, command=words)]


def _seed(spec: dict[str, Any]) -> int:
    seed = configured(spec, "training.seed")
    return seed if isinstance(seed, int) else 0


def _history(folder: Path, warnings: list[str]) -> tuple[list[EpochRecord], float, int]:
    """The results of all epochs, the Unix time of the state that they are from, and the scalars of its model."""
    faults = []
    for name in STATES:
        path = folder / name
        try:
            when = path.stat().st_mtime
            state, size = _state(path)
            found = [EpochRecord(time=when, trial_id=TRIAL, **result) for result in state["history"]]
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            faults.append(f"{name} cannot be read ({str(error).splitlines()[0][:200]})")
        else:
            warnings += faults
            return found, when, size
    raise FolderError(f"{folder}: {' and '.join(faults)}")


def _state(path: Path) -> tuple[Any, int]:
    """The part of a safetensors file's header that `training.state` writes, and the scalars of the model's weights,
    which are not read themselves."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > LONGEST_HEADER:
            raise ValueError(f"its header has more than {LONGEST_HEADER:,} bytes")
        header = json.loads(file.read(size))
    size = sum(math.prod(entry["shape"]) for name, entry in header.items() if name.startswith("model."))
    return clean(json.loads(header["__metadata__"]["state"])), size
