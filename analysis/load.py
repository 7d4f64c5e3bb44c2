"""A sweep folder, read into tables; also while the sweep is still being written, or on another machine."""

import gc
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from tune_newllm import records
from tune_newllm.errors import FolderError

from . import liveness
from .tables import epoch_row, epoch_table, setting, trial_table
from .untrusted import clean, printable, read_mapping, well_formed
from .words import LONGEST_REASON, listed
from .worktime import WorkTime

SweepStatus = Literal["open", "finished", "interrupted", "budget", "failing", "halted"]

MOST_WARNINGS = 20
"""Lines of the records that are named one by one when they are left out."""

MOST_SEARCHED = 200
"""Parameters; a configuration has a few dozen keys."""


@dataclass(frozen=True)
class Sweep:
    """All that a sweep folder tells.

    Attributes:
        folder: where it was read from.
        spec: `sweep.yaml`, with the epochs and the `run_cap` that extensions put in force; empty if it is missing.
        written: `sweep.yaml` as it stands.
        provenance: `provenance.json`; empty if that file is missing.
        trials: one row per trial in order of suggestion, with the columns `TRIAL_COLUMNS` and one per searched path.
            `state` is a `TrialState`, or `running`, or `interrupted` where the driver ended before the trial did.
            `crashes` counts the workers that the trial lost, `micro_batch` is the smallest number of sequences in one
            forward pass in any of its epochs (NA: not known).
            `value` is the lowest `val_loss` (nats per token) and NaN before the first epoch, `ppl` and `best_epoch`
            belong to that epoch, `lr` is the effective peak learning rate, `model_size` counts its scalars,
            `plateau_step` is the optimizer step at which the trial left the unigram plateau (NA: it has not),
            `clipped_share` the share of clipped steps in its last epoch, `seconds` the time spent in epochs, `started`
            the UTC time at which a worker first took it. A parameter that a trial does not have is NaN. Replicates of a
            configuration share `number` and `config_id`.
        epochs: one row per trial and epoch with the fields of `EpochRecord`; where a resume repeated an epoch, the
            later record counts.
        events: every other record, in the order written.
        searched: the searched paths, in the order of the sweep file.
        running: of a sweep whose status is `open`: whether a driver is at work on it, None where that cannot be told.
        silence: seconds from the newest record to the reading.
        wall: seconds for which a driver was at work.
        warnings: one sentence for each thing that could not be read.
    """

    folder: Path
    spec: dict[str, Any]
    written: dict[str, Any]
    provenance: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    events: list[records.Record]
    searched: list[str]
    running: bool | None
    silence: float
    wall: float
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def seeds(self) -> int:
        """Trials per configuration: they differ in the seed alone."""
        asked = self.spec.get("seeds")
        return asked if isinstance(asked, int) else 1

    @property
    def status(self) -> SweepStatus:
        """Why the last driver ended, `interrupted` also where the sweep was extended since; `open` if it did not end:
        the sweep is running, or was killed."""
        return _status(self.events)

    @property
    def detail(self) -> str:
        """What the last driver said of its end; empty where the sweep went on or was extended since."""
        turns = (records.SweepStarted, records.SweepEnded, records.SweepExtended)
        last = next((event for event in reversed(self.events) if isinstance(event, turns)), None)
        return last.detail if isinstance(last, records.SweepEnded) else ""

    def setting(self, path: str) -> pd.Series:
        """The value of a configuration key for every trial, whether it was searched or is the same for all."""
        return setting(self.spec, self.trials, path)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for garbage: a load makes hundreds of thousands of objects, all of them needed."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@_uncollected()
def load(path: Path | str) -> Sweep:
    """Read a sweep folder.

    Raises:
        FolderError: there is no such folder, it holds neither `sweep.yaml` nor `records.jsonl`, or the records may
            not be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise FolderError(f"a sweep folder must exist, but {folder} does not: give the path that `search` printed")
    if not any((folder / name).is_file() for name in ("sweep.yaml", "records.jsonl")):
        raise FolderError(f"{folder} is not a sweep folder: it holds neither sweep.yaml nor records.jsonl")
    warnings: list[str] = []
    written = well_formed(read_mapping(folder / "sweep.yaml", warnings), warnings)
    provenance = read_mapping(folder / "provenance.json", warnings)
    # Looked for before the records and after them, so that a driver that starts or ends meanwhile is not overlooked.
    visible = liveness.seen(folder)
    log = _read_log(folder / "records.jsonl", warnings)
    warnings += [f"trial {name} was never created in the records, left out" for name in log.orphans()]
    spec = _in_force(written, log.events)
    searched = _searched(spec, log.created, warnings)
    epochs = epoch_table([row for key, row in sorted(log.epochs.items()) if key[0] in log.created])
    trials = trial_table(spec, searched, list(log.created.values()), log.ended, log.started, log.lost, epochs)
    silence = _silence(folder, log, epochs)
    running: bool | None = False
    if _status(log.events) == "open":
        visible = visible or liveness.seen(folder)
        longest = epochs["seconds"].max() if len(epochs) else None
        running = liveness.running(visible, silence, longest, _host(log.events))
    trials.loc[trials["state"] == "", "state"] = "interrupted" if running is False else "running"
    warnings = [printable(warning) for warning in warnings]
    events, wall = log.events, log.work.seconds
    return Sweep(folder, spec, written, provenance, trials, epochs, events, searched, running, silence, wall, warnings)


class _Log:
    """What the records say, gathered in one pass."""

    def __init__(self) -> None:
        self.events: list[records.Record] = []
        self.created: dict[str, records.TrialCreated] = {}
        self.started: dict[str, float] = {}
        self.ended: dict[str, records.TrialEnded] = {}
        self.work = WorkTime()
        self.lost: Counter[str] = Counter()
        self.epochs: dict[tuple[str, int], tuple[Any, ...]] = {}

    def add(self, record: records.Record) -> None:
        self.work.add(record)
        if isinstance(record, records.EpochRecord):
            self.epochs[record.trial_id, record.epoch] = epoch_row(record.__dict__)
            return
        self.events.append(record)
        if isinstance(record, records.TrialCreated):
            self.created[record.trial_id] = record.model_copy(update={"parameters": clean(record.parameters)})
        elif isinstance(record, records.TrialStarted):
            self.started.setdefault(record.trial_id, record.time)
        elif isinstance(record, records.TrialCrashed):
            self.lost[record.trial_id] += 1
        elif isinstance(record, records.TrialEnded):
            self.ended[record.trial_id] = record
            self.lost[record.trial_id] += record.state == "crashed"
        elif isinstance(record, records.SweepExtended):
            ends = [records.extended_end(record, end) for end in self.ended.values()]
            self.ended = {end.trial_id: end for end in ends if end is not None}

    def orphans(self) -> list[str]:
        """Trials whose line of creation, and with it their configuration, is lost."""
        known = {trial_id for trial_id, _ in self.epochs} | self.started.keys() | self.ended.keys()
        return sorted(known - self.created.keys())


def _read_log(path: Path, warnings: list[str]) -> _Log:
    log = _Log()
    notes: list[str] = []
    try:
        if path.exists() and not path.is_file():
            raise OSError(f"{path} is not a regular file")
        for record in records.read(path, notes):
            try:
                log.add(record)
            except ValueError as error:
                notes.append(f"{path.name}: a trial is left out, of its parameters {error}")
    except FileNotFoundError:
        warnings.append(f"{path.name} is missing: no trial has been recorded")
    except OSError as error:
        raise FolderError(f"the records of a sweep must be readable: {error}") from error
    warnings += notes[:MOST_WARNINGS]
    if len(notes) > MOST_WARNINGS:
        warnings.append(f"{path.name}: {len(notes) - MOST_WARNINGS:,} more lines left out")
    return log


def _in_force(written: Mapping[str, Any], events: list[records.Record]) -> dict[str, Any]:
    """The sweep file after the extensions."""
    last = next((event for event in reversed(events) if isinstance(event, records.SweepExtended)), None)
    if last is None:
        return dict(written)
    training = {**(written.get("training") or {}), "epochs": last.epochs}
    return {**written, "run_cap": last.run_cap, "training": training}


def _silence(folder: Path, log: _Log, epochs: pd.DataFrame) -> float:
    """Seconds since the newest record; without any, since the folder changed."""
    moments = [event.time for event in log.events] + epochs["time"].tolist()
    return max(0.0, time.time() - max(moments, default=folder.stat().st_mtime))


def _host(events: list[records.Record]) -> str:
    """Where the last driver started."""
    return next((event.host for event in reversed(events) if isinstance(event, records.SweepStarted)), "")


def _status(events: list[records.Record]) -> SweepStatus:
    status: SweepStatus = "open"
    for event in events:
        if isinstance(event, records.SweepStarted):
            status = "open"
        elif isinstance(event, records.SweepEnded):
            status = event.reason
        elif isinstance(event, records.SweepExtended) and status != "open":
            status = "interrupted"
    return status


def _searched(spec: Mapping[str, Any], created: Mapping[str, records.TrialCreated], warnings: list[str]) -> list[str]:
    """The searched paths; not the names that no path has, which tables use for columns of their own."""
    declared = spec.get("parameters") or {}
    varying = [path for path, rule in declared.items() if not (isinstance(rule, Mapping) and "value" in rule)]
    seen = [path for trial in created.values() for path in trial.parameters if path not in declared]
    named = list(dict.fromkeys([*varying, *seen]))
    paths = [path for path in named if "." in path]
    if odd := [path[:LONGEST_REASON] for path in named if "." not in path]:
        warnings.append(f"no path of a parameter, left out: {listed(odd)}")
    if len(paths) > MOST_SEARCHED:
        warnings.append(f"of {len(paths):,} searched parameters, all but the first {MOST_SEARCHED} are left out")
    return paths[:MOST_SEARCHED]
