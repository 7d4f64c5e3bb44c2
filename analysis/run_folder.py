"""The folder of one training, read as if it were a sweep of one trial."""

import json
import math
from pathlib import Path
from typing import Any

from tune_newllm.errors import FolderError
from tune_newllm.records import EpochRecord, TrialCreated, TrialEnded, TrialState

from .load import Sweep
from .tables import configured, epoch_row, epoch_table, trial_table
from .untrusted import clean, read_mapping

CONFIGURATION, STATES = "configuration.json", ("state.safetensors", "state-previous.safetensors")
TRIAL = "run"
LONGEST_HEADER = 50_000_000
"""Bytes; that of ten thousand epochs has five million."""


def is_run(folder: Path) -> bool:
    """Whether `train`, or a trial of a sweep, left this folder."""
    return (folder / CONFIGURATION).is_file() and any((folder / name).is_file() for name in STATES)


def load_run(path: Path | str) -> Sweep:
    """Read the folder of a training: its configuration, and the results of its epochs from its newest whole state.

    Returns:
        a sweep of the one trial `run`, without anything searched, without provenance and without events.

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
    asked = configured(spec, "training.epochs")
    over = not isinstance(asked, int) or len(history) >= asked
    state: TrialState = "completed" if over else "stopped"
    ended = TrialEnded(time=when, trial_id=TRIAL, state=state, epoch=len(history), reason="epochs")
    trials = trial_table(spec, [], [created], {TRIAL: ended}, {}, {}, epochs)
    seconds = float(epochs["seconds"].sum())
    return Sweep(folder, spec, spec, {}, trials, epochs, [], [], False, 0.0, seconds, warnings)


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
