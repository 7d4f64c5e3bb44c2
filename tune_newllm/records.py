"""The rows of `records.jsonl`: what a sweep writes and the analysis reads.

Append-only and written by the driver alone. Every line carries the schema version and the time it was written, so a
reader never has to guess. Field meanings are fixed here and nowhere else.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, TypeAdapter

SCHEMA_VERSION = 1

LONGEST_LINE = 1_000_000
"""Bytes; a sweep's own lines have a few hundred."""

TrialState = Literal["completed", "stopped", "diverged", "infeasible", "crashed", "failed"]
"""How a trial ended. `completed`: all epochs, or early-stopped by patience. `stopped`: by ASHA. `infeasible`: it does
not fit into memory, or its values are impossible together. `crashed`: its process was lost. `failed`: an exception,
ours or the user's."""

EndReason = Literal["finished", "interrupted", "budget", "failing", "halted"]
"""Why a driver ended. `failing`: its first trials all failed for one reason. `halted`: nothing can be
written any more, or another process is in the way."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", ser_json_inf_nan="constants")

    schema_version: int = SCHEMA_VERSION
    time: FiniteFloat
    """Unix time in seconds at which the driver wrote the line."""
    elapsed: FiniteFloat | None = None
    """Seconds since this driver began to work, by a clock that nobody sets; None where no driver was at work."""


class SweepStarted(_Row):
    """A driver began to work on the sweep: the first line of every sweep and of every resume."""

    event: Literal["sweep_started"] = "sweep_started"
    command: list[str]
    resumed: bool = False
    overrides: list[str] = []
    """`KEY=VALUE` texts in force, those of earlier resumes included; the file sweep.yaml does not hold them."""
    host: str = ""
    """Name of the machine that the driver works on."""
    devices: float | None = None
    """GPUs of one trial, or its processors where it has no GPU: what this driver's device hours are counted in."""
    versions: dict[str, str] = {}
    """Packages whose versions are not those of provenance.json any more."""


class SweepEnded(_Row):
    """A driver ended. A sweep without a last `sweep_ended` is running or was killed."""

    event: Literal["sweep_ended"] = "sweep_ended"
    reason: EndReason
    detail: str = ""
    """In one line why it was `failing` or `halted`."""


class SweepExtended(_Row):
    """The sweep was given more configurations or more epochs; in force from here on.

    Of the trials that had trained all their epochs, those of `continued` are unfinished again and the others count as
    stopped: `extended_end`.
    """

    event: Literal["sweep_extended"] = "sweep_extended"
    run_cap: int | None
    """Configurations in all; None: no cap."""
    epochs: int
    """Epochs of a full trial."""
    epochs_before: int | None = None
    """Until then."""
    continued: list[str] = []
    new_schedule: bool = False
    """Whether trials created until now follow their learning-rate schedule once more after `epochs_before`."""


class CodeForced(_Row):
    """The user went on although code that decides the numbers had changed."""

    event: Literal["code_forced"] = "code_forced"
    changed: list[str]
    """Files below the package: changed, added or removed."""
    code: dict[str, str]
    """Hash of every such file as it is now."""


class TrialCreated(_Row):
    """A configuration was suggested. `parameters` holds the searched values by dotted path."""

    event: Literal["trial_created"] = "trial_created"
    trial_id: str
    config_id: str
    """Hash of `parameters`: replicates share it."""
    number: int
    """0-based order of suggestion; equals the number of the row in the study. Replicates share it."""
    replicate: int = 0
    """0-based; trains with seed `seed`, which differs between replicates."""
    seed: int
    origin: Literal["point", "startup", "sampler", "random", "quasi", "grid", "widened"]
    parameters: dict[str, Any]
    """Only those that exist for this trial: a parameter whose `when` does not hold is not in it."""
    lr: float | None = None
    """Effective peak learning rate, after the scaling rules; None where the configuration is impossible."""
    model_size: int | None = None
    """Scalars of the model's weights; None likewise."""


class TrialStarted(_Row):
    """A worker began (or, with `epoch` > 0, went on with) a trial."""

    event: Literal["trial_started"] = "trial_started"
    trial_id: str
    epoch: int = 0
    """Finished epochs found in the checkpoint."""


class TrialCrashed(_Row):
    """The process of a trial was lost; the trial is taken up again from its checkpoint."""

    event: Literal["trial_crashed"] = "trial_crashed"
    trial_id: str
    epoch: int
    """Finished epochs on record."""
    attempt: int
    """1 for the first loss since the trial last finished an epoch."""
    reason: str = ""


class EpochRecord(_Row):
    """One finished epoch. Beyond `trial_id` its fields are those of `training.loop.EpochResult`."""

    event: Literal["epoch"] = "epoch"
    trial_id: str
    epoch: int
    step: int
    tokens: int
    train_loss: float
    val_loss: float
    val_loss_legacy: float
    val_ppl: float
    val_acc: float
    val_ppl_known: float
    grad_norm: float
    clipped_share: float
    tokens_per_s: float
    seconds: FiniteFloat
    peak_memory_bytes: int
    lr: float
    clip: float | None
    noise_scale: float | None = None
    update_ratio: float | None = None
    dead_relu: float | None = None
    ctx_norm: float | None = None
    ctx_rank: float | None = None
    plateau_step: int | None = None
    micro_batch: int | None = None
    fixed_point_iterations: int | None = None
    fixed_point_converged: float | None = None


class TrialEnded(_Row):
    """A trial reached a final state."""

    event: Literal["trial_ended"] = "trial_ended"
    trial_id: str
    state: TrialState
    epoch: int
    """Finished epochs."""
    reason: str = ""
    """`epochs`, `patience`, `asha`, `extension` (not among those that went on to more epochs) or the error in one
    line."""


Record = (
    SweepStarted
    | SweepEnded
    | SweepExtended
    | CodeForced
    | TrialCreated
    | TrialStarted
    | TrialCrashed
    | EpochRecord
    | TrialEnded
)
_RECORD: TypeAdapter[Record] = TypeAdapter(Annotated[Record, Field(discriminator="event")])
_LONG_NUMBER = re.compile(rb":\s*-?\d{19}").search
_EVENTS = {kind.model_fields["event"].default for kind in get_args(Record)}


def extended_end(extension: SweepExtended, ended: TrialEnded) -> TrialEnded | None:
    """How a trial that had ended stands after an extension: None where it goes on."""
    if ended.state != "completed" or ended.reason != "epochs" or ended.epoch >= extension.epochs:
        return ended
    if ended.trial_id in extension.continued:
        return None
    return ended.model_copy(update={"state": "stopped", "reason": "extension"})


def first_rung(min_iter: int | None, max_iter: int | None, s: int | None, eta: float) -> float:
    """Epochs before ASHA's first decision, not always whole: `min_iter`, or the lowest band of W&B's hyperband that is
    at least one epoch, `max_iter` / eta^i for i = 1..s."""
    if max_iter is None:
        return float(min_iter or 1)
    bands = [max_iter / eta**i for i in range(1, (s or 1) + 1)]
    return min((band for band in bands if band >= 1), default=float(max_iter))


def rung_epochs(first: float, eta: float, epochs: int) -> list[int]:
    """Epochs after which ASHA decides: the first whole ones at or above first * eta^k, all below `epochs`."""
    rungs: list[int] = []
    while (rung := math.ceil(first)) < epochs:
        if rung not in rungs:
            rungs.append(rung)
        first *= eta
    return rungs


def to_line(record: Record) -> str:
    """One JSON line, newline included."""
    return record.model_dump_json() + "\n"


def read(path: Path, warnings: list[str] | None = None) -> Iterator[Record]:
    """Yield the records of a file in order.

    Args:
        path: a `records.jsonl`; may be growing while it is read.
        warnings: receives one sentence for each line that is left out.

    A line that is not whole JSON (a crash tore it, or the disk damaged it) and events of a newer program are left out
    with a warning: the rest of the sweep is still worth reading. So are lines and numbers of a size that no program
    of ours writes.
    """
    notes = warnings if warnings is not None else []
    with path.open("rb") as file:
        for number, (line, size) in enumerate(_lines(file), 1):
            try:
                record = _quickly(line) or _record(line)
            except _UnknownEvent as unknown:
                notes.append(f"{path.name} line {number}: unknown event {str(unknown)!r}, left out")
            except (ValueError, AttributeError, TypeError, RecursionError):
                notes.append(f"{path.name} line {number} is damaged ({size} bytes), left out")
            else:
                yield record


class _UnknownEvent(Exception):
    pass


def _quickly(line: bytes) -> Record | None:
    """Parsed and checked in one step, in a third of the time; None where that refuses, which `_record` may not."""
    if _LONG_NUMBER(line):
        return None
    try:
        return _RECORD.validator.validate_json(line, strict=True)
    except ValueError:
        return None


def _record(line: bytes) -> Record:
    row = json.loads(line)
    if row.get("event") not in _EVENTS:
        raise _UnknownEvent(str(row.get("event"))[:40])
    if b"\\ud" in line:
        # Half of a character, which no file and no terminal takes.
        json.dumps(row, ensure_ascii=False).encode()
    if any(type(value) is int and abs(value) >= 2**63 for value in row.values()):
        raise ValueError("more than 64 bits")
    return _RECORD.validate_python(row, strict=True)


def _lines(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Each line, cut to `LONGEST_LINE`, and its bytes; a cut one is not whole JSON any more."""
    while line := file.readline(LONGEST_LINE):
        size = len(line)
        part = line
        while len(part) == LONGEST_LINE and not part.endswith(b"\n"):
            part = file.readline(LONGEST_LINE)
            size += len(part)
        yield line, size
