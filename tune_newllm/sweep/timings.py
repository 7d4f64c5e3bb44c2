"""How long training steps took on this machine, kept from one sweep to the next."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from tune_newllm.data.corpora import default_cache
from tune_newllm.data.files import write_text
from tune_newllm.sweep.code import code_hashes
from tune_newllm.sweep.provenance import processor
from tune_newllm.training.device import Number
from tune_newllm.training.timing import Case

FILE = "timings.json"
"""In the folder of the prepared corpora."""
MOST = 300
"""Measurements that are kept, the newest."""
_LOCK_SECONDS = 5.0


class Timings(NamedTuple):
    """What one measurement found."""

    seconds: dict[Case, float]
    """Of one training step."""
    when: Literal["measured earlier", "measured now", "measured now on a busy machine, so not kept"]


def remembered(question: Mapping[str, Any], measure: Callable[[], dict[Case, float]], device: str) -> Timings:
    """What was measured for this question on this machine with this code, or what `measure` finds now.

    Whatever is wrong with the cache, it only costs another measurement. Of several processes that measure at once each
    keeps what it found.

    Args:
        question: everything that decides the times, as JSON types.
        device: on which they are measured.
    """
    asked = json.dumps([question, machine(device)], sort_keys=True)
    key, path = hashlib.sha256(asked.encode()).hexdigest()[:24], default_cache() / FILE
    if (found := _read(path).get(key)) is not None:
        return Timings({Case(*case): each for case, each in found.seconds}, "measured earlier")
    busy, measured = _is_busy(), measure()
    if busy:
        return Timings(measured, "measured now on a busy machine, so not kept")
    row = _Row(time=time.time(), seconds=list(measured.items()))
    # A cache that cannot be written is none.
    with suppress(OSError, NotImplementedError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock"), timeout=_LOCK_SECONDS, fallback_to_soft=False):
            rows = sorted({**_read(path), key: row}.items(), key=lambda item: item[1].time)
            write_text(path, _ROWS.dump_json(dict(rows[-MOST:])).decode() + "\n")
    return Timings(measured, "measured now")


def machine(device: str) -> dict[str, Any]:
    """What else decides the times: the processor or GPU, its cores, torch and our own code."""
    cuda = device.startswith("cuda")
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    code = {name: digest for name, digest in code_hashes().items() if name.startswith(("models/", "training/"))}
    name = torch.cuda.get_device_name(device) if cuda else processor()
    return {"name": name, "processors": [os.cpu_count(), allowed], "torch": torch.__version__, "code": code}


def _is_busy() -> bool:
    """Whether half of the processors were at work in the last minute: threads that wait for each other then take many
    times as long."""
    return hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) / 2


class _Row(BaseModel):
    """One measurement, and when it was made."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    time: float
    seconds: Annotated[list[tuple[tuple[Number, PositiveInt, PositiveInt], PositiveFloat]], Field(min_length=1)]


_ROWS = TypeAdapter(dict[str, _Row])


def _read(path: Path) -> dict[str, _Row]:
    """The whole cache; nothing where it is not there or damaged."""
    try:
        return _ROWS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}
