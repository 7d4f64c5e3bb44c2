"""A sweep folder, read into tables; also while the sweep is still being written, or on another machine."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tune_newllm import records
from tune_newllm.errors import FolderError

from .tables import epoch_table, setting, trial_table

SweepStatus = Literal["open", "finished", "interrupted", "budget"]


@dataclass(frozen=True)
class Sweep:
    """All that a sweep folder tells.

    Attributes:
        folder: where it was read from.
        spec: `sweep.yaml`; empty if that file is missing.
        provenance: `provenance.json`; empty if that file is missing.
        trials: one row per trial in order of suggestion, with the columns `TRIAL_COLUMNS` and one per searched path.
            `state` is a `TrialState`, or `running`, or `interrupted` where the driver ended before the trial did.
            `value` is the lowest `val_loss` (nats per token) and NaN before the first epoch, `ppl` and `best_epoch`
            belong to that epoch, `lr` is the effective peak learning rate, `model_size` counts trainable scalars,
            `plateau_step` is the optimizer step at which the trial left the unigram plateau (NA: it has not),
            `clipped_share` the share of clipped steps in its last epoch, `seconds` the time spent in epochs, `started`
            the UTC time at which a worker first took it. A parameter that a trial does not have is NaN. Replicates of a
            configuration share `number` and `config_id`.
        epochs: one row per trial and epoch with the fields of `EpochRecord`; where a resume repeated an epoch, the
            later record counts.
        events: every other record, in the order written.
        searched: the searched paths, in the order of the sweep file.
        warnings: one sentence for each thing that could not be read.
    """

    folder: Path
    spec: dict[str, Any]
    provenance: dict[str, Any]
    trials: pd.DataFrame
    epochs: pd.DataFrame
    events: list[records.Record]
    searched: list[str]
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
        """Why the last driver ended; `open` if it did not: the sweep is running, or was killed."""
        return _status(self.events)

    def setting(self, path: str) -> pd.Series:
        """The value of a configuration key for every trial, whether it was searched or is the same for all."""
        return setting(self.spec, self.trials, path)


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
    spec = _read_mapping(folder / "sweep.yaml", warnings)
    provenance = _read_mapping(folder / "provenance.json", warnings)
    log = _read_log(folder / "records.jsonl", warnings)
    warnings += [f"trial {name} was never created in the records, left out" for name in log.orphans()]
    searched = _searched(spec, log.created)
    epochs = epoch_table([row for key, row in sorted(log.epochs.items()) if key[0] in log.created])
    trials = trial_table(spec, searched, list(log.created.values()), log.ended, log.started, epochs)
    trials.loc[trials["state"] == "", "state"] = "running" if _status(log.events) == "open" else "interrupted"
    return Sweep(folder, spec, provenance, trials, epochs, log.events, searched, warnings)


class _Log:
    """What the records say, gathered in one pass."""

    def __init__(self) -> None:
        self.events: list[records.Record] = []
        self.created: dict[str, records.TrialCreated] = {}
        self.started: dict[str, float] = {}
        self.ended: dict[str, records.TrialEnded] = {}
        self.epochs: dict[tuple[str, int], records.EpochRecord] = {}

    def add(self, record: records.Record) -> None:
        if isinstance(record, records.EpochRecord):
            self.epochs[record.trial_id, record.epoch] = record
            return
        self.events.append(record)
        if isinstance(record, records.TrialCreated):
            self.created[record.trial_id] = record
        elif isinstance(record, records.TrialStarted):
            self.started.setdefault(record.trial_id, record.time)
        elif isinstance(record, records.TrialEnded):
            self.ended[record.trial_id] = record

    def orphans(self) -> list[str]:
        """Trials whose line of creation, and with it their configuration, is lost."""
        known = {trial_id for trial_id, _ in self.epochs} | self.started.keys() | self.ended.keys()
        return sorted(known - self.created.keys())


def _read_log(path: Path, warnings: list[str]) -> _Log:
    log = _Log()
    try:
        for record in records.read(path, warnings):
            log.add(record)
    except FileNotFoundError:
        warnings.append(f"{path.name} is missing: no trial has been recorded")
    except OSError as error:
        raise FolderError(f"the records of a sweep must be readable: {error}") from error
    return log


def _read_mapping(path: Path, warnings: list[str]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else YAML(typ="safe").load(text)
        if not isinstance(content, Mapping):
            raise ValueError("it holds no keys")
    except FileNotFoundError:
        warnings.append(f"{path.name} is missing")
    except (OSError, ValueError, YAMLError) as error:
        warnings.append(f"{path.name} cannot be read ({str(error).splitlines()[0]})")
    else:
        return dict(content)
    return {}


def _status(events: list[records.Record]) -> SweepStatus:
    drivers = [event for event in events if isinstance(event, records.SweepStarted | records.SweepEnded)]
    return drivers[-1].reason if drivers and isinstance(drivers[-1], records.SweepEnded) else "open"


def _searched(spec: Mapping[str, Any], created: Mapping[str, records.TrialCreated]) -> list[str]:
    declared = spec.get("parameters") or {}
    varying = [path for path, rule in declared.items() if not (isinstance(rule, Mapping) and "value" in rule)]
    seen = [path for trial in created.values() for path in trial.parameters if path not in declared]
    return list(dict.fromkeys([*varying, *seen]))
