"""The contexts of a fixed-point model's windows: where they lie, and how they get there.

A training reads them in every epoch, yet they never change. So they are made once, and kept on the GPU, in main memory
or, mapped into it, on disk: wherever they fit first.
"""

import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tune_newllm.errors import InfeasibleError
from tune_newllm.models import context_scan
from tune_newllm.models.fixed_point import FixedPointModel, FixedPointState
from tune_newllm.training.batches import ContextRows, Rows, Windows
from tune_newllm.training.device import available_memory

SHARE = 0.5
"""Of the free memory for contexts; the rest is for the training itself."""
DISK_SHARE = 0.9
CACHE_FILE = "contexts"
"""Stem of the file in a run's folder; `.contexts.PID` while its process lives."""
_NAMES = {"gpu": "on the GPU", "memory": "in main memory", "disk": "on disk, mapped into memory"}


class CachePlan(NamedTuple):
    """Where contexts are to lie."""

    place: Literal["gpu", "memory", "disk"]
    nbytes: int
    free: int
    """Bytes that contexts may take there."""

    def __str__(self) -> str:
        """In one clause."""
        size, free = (f"{each / 2**20:,.1f} MiB" for each in (self.nbytes, self.free))
        return f"{size} of contexts lie {_NAMES[self.place]} ({free} are free for them)"


def context_bytes(tokens: int, width: int) -> int:
    """Bytes of the contexts after so many tokens, `width` float32 numbers each: the layers' lengths together."""
    return tokens * width * torch.float32.itemsize


def plan_contexts(nbytes: int, device: str, folder: Path) -> CachePlan:
    """Decide where contexts are to lie: on the GPU, else in main memory, else on disk.

    Args:
        nbytes: of all that is to be kept at once.
        device: as `resolve_device` gives it.
        folder: of the run.

    Raises:
        InfeasibleError: they fit nowhere.
    """
    free: dict[str, int] = {}
    if torch.device(device).type == "cuda":
        free["gpu"] = int(SHARE * available_memory(device))
    # Beside this training the machine has room for as many others as there are processors for.
    others = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    free["memory"] = int(SHARE * available_memory("cpu") / others)
    free["disk"] = int(DISK_SHARE * shutil.disk_usage(folder).free)
    for place in ("gpu", "memory", "disk"):
        if nbytes <= free.get(place, -1):
            return CachePlan(place, nbytes, free[place])
    there = ", ".join(f"{room / 2**20:,.0f} MiB {_NAMES[place]}" for place, room in free.items())
    raise InfeasibleError(
        f"the contexts need {nbytes / 2**20:,.0f} MiB, and there are {there}: take fewer texts, fewer layers or a "
        "smaller ctx_dim, or a folder on a larger disk"
    )


@contextmanager
def room(shapes: Sequence[tuple[int, ...]], plan: CachePlan, device: str, folder: Path) -> Iterator[list[Tensor]]:
    """Empty float32 tensors of these shapes at the place planned, gone when the block ends."""
    if plan.place != "disk":
        yield [torch.empty(shape, device=device if plan.place == "gpu" else "cpu") for shape in shapes]
        return
    sizes = [int(np.prod(shape)) for shape in shapes]
    # A name that the run recognises and removes where this process was killed.
    path = folder / f".{CACHE_FILE}.{os.getpid()}"
    try:
        with path.open("wb") as file:
            file.truncate(max(mmap.PAGESIZE, 4 * sum(sizes)))
        mapped = torch.from_numpy(np.memmap(path, dtype=np.float32, mode="r+"))
        parts = torch.split(mapped[: sum(sizes)], sizes)
        yield [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def scratch(folder: Path | None) -> Iterator[Path]:
    """The folder, or one that is gone when the block ends."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


@torch.no_grad()
def fill(model: FixedPointModel, rows: ContextRows, device: str, starts_ND: Tensor | None = None) -> None:
    """Read the rows' contexts into their place, as many layers of them as it has room for, the last ones.

    Args:
        model: on the device.
        rows: each goes on where the one before ends if they carry on, else each begins a text.
        starts_ND: contexts before the rows, or before the first where they carry on; None stands for zeros.
    """
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    size = max(1, context_scan.SEGMENT * context_scan.SEGMENTS[kind] // rows.steps)
    width = rows.contexts.shape[-1]
    if starts_ND is None:
        starts_ND = model.start(1 if rows.carries else len(rows), torch.device(device)).context_BD
    for first in range(0, len(rows), size):
        part = rows[first : first + size]
        ids_BT, before_KB = part.inputs(device)
        if rows.carries:
            contexts_NW = model.read_stream(ids_BT.flatten(), FixedPointState(starts_ND, before_KB[:, :1]))
            starts_ND = contexts_NW[-1:, -model.ctx_dim :].clone()
            contexts_BTW = contexts_NW.view(*ids_BT.shape, -1)
        else:
            start = FixedPointState(starts_ND[first : first + size], before_KB)
            contexts_BTW = model.read(ids_BT.t(), start).transpose(0, 1)
        rows.contexts[first : first + size].copy_(contexts_BTW[..., -width:])


def context_rows(windows: Windows, contexts: Tensor, model: FixedPointModel, carries: bool) -> ContextRows:
    """Windows with a place for their contexts."""
    return ContextRows(windows, contexts, before(windows, model.num_input_tokens - 1, carries), carries)


def as_trained(model: nn.Module, windows: Windows) -> Rows:
    """Windows as training steps read them, with zeros in the place of contexts: for steps that are only measured."""
    if not isinstance(model, FixedPointModel):
        return windows
    shape = len(windows), windows.shape[1] - 1, sum(model.context_widths)
    return context_rows(windows, torch.zeros(1, 1, 1).expand(shape), model, carries=False)


def before(windows: Windows, count: int, carries: bool) -> NDArray[np.int64]:
    """Ids of the `count` tokens before each row's first one, the oldest first; -1 before the start of a text."""
    ids = np.full((len(windows), count), -1, dtype=np.int64)
    if carries and count:
        steps = windows.shape[1] - 1
        flat = np.concatenate([ids[0], windows[:, :-1].ravel()])
        ids = flat[np.arange(len(windows))[:, None] * steps + np.arange(count)]
    return ids
