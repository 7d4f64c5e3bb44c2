"""The contexts of a fixed-point model's windows: where they lie, and how they get there.

A training reads them in every epoch, yet they never change. So they are made once, and kept on the GPU, in main memory
or, mapped into it, on disk: wherever they fit first.
"""

import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tune_newllm.errors import InfeasibleError
from tune_newllm.models import context_scan
from tune_newllm.models.fixed_point import FixedPointModel, FixedPointState
from tune_newllm.training.batches import ContextRows, Rows, Windows
from tune_newllm.training.device import available_memory
from tune_newllm.training.memory import unless_out_of_memory

Place = Literal["gpu", "memory", "disk"]
SHARE = 0.5
"""Of the free memory for contexts; the rest is for the training itself."""
DISK_SHARE = 0.9
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What a disk answers that has no room for a file of this size."""
_NAMES = {"gpu": "on the GPU", "memory": "in main memory", "disk": "on disk, mapped into memory"}


class CachePlan(NamedTuple):
    """Where contexts are to lie."""

    place: Place
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


def plan_contexts(nbytes: int, device: str, folder: Path | None) -> list[CachePlan]:
    """Where contexts fit, the best place first: on the GPU, else in main memory, else on disk.

    Args:
        nbytes: of all that is to be kept at once.
        device: as `resolve_device` gives it.
        folder: of the run; None stands for the system's folder for temporary files.

    Raises:
        InfeasibleError: they fit nowhere.
    """
    free: dict[Place, int] = {}
    if torch.device(device).type == "cuda":
        free["gpu"] = int(SHARE * available_memory(device))
    # Beside this training the machine has room for as many others as there are processors for.
    others = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    free["memory"] = int(SHARE * available_memory("cpu") / others)
    free["disk"] = int(DISK_SHARE * shutil.disk_usage(folder or tempfile.gettempdir()).free)
    if plans := [CachePlan(place, nbytes, most) for place, most in free.items() if nbytes <= most]:
        return plans
    there = ", ".join(f"{most / 2**20:,.0f} MiB {_NAMES[place]}" for place, most in free.items())
    _refuse(nbytes, f"there are {there}")


def _refuse(nbytes: int, there: str) -> NoReturn:
    raise InfeasibleError(
        f"the contexts need {nbytes / 2**20:,.0f} MiB, and {there}: take fewer texts, fewer layers or a smaller "
        "ctx_dim, or a folder on a larger disk"
    )


def room(
    shapes: Sequence[tuple[int, ...]], plans: Sequence[CachePlan], device: str, folder: Path | None
) -> tuple[list[Tensor], CachePlan]:
    """Empty float32 tensors of these shapes, and the first of the planned places that has the room for them indeed: a
    plan reserves nothing, and others may have been faster.

    Raises:
        InfeasibleError: none has.
    """
    for plan in plans:
        where = device if plan.place == "gpu" else "cpu"
        make = partial(_on_disk, shapes, folder) if plan.place == "disk" else partial(_empty, shapes, where)
        if (made := unless_out_of_memory(make, device)) is not None:
            return made, plan
    _refuse(plans[0].nbytes, "what was free for them is taken by now")


def _empty(shapes: Sequence[tuple[int, ...]], device: str) -> list[Tensor]:
    return [torch.empty(shape, device=device) for shape in shapes]


def _on_disk(shapes: Sequence[tuple[int, ...]], folder: Path | None) -> list[Tensor] | None:
    """None where the disk has no room for them."""
    sizes = [math.prod(shape) for shape in shapes]
    nbytes = max(mmap.PAGESIZE, torch.float32.itemsize * sum(sizes))
    # Without a name, the file is gone with the tensors, even where the process is killed.
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            _reserve(file.fileno(), nbytes)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            return None
        mapped = torch.frombuffer(mmap.mmap(file.fileno(), nbytes), dtype=torch.float32)
    parts = torch.split(mapped[: sum(sizes)], sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _reserve(file: int, nbytes: int) -> None:
    """Let a file have so many bytes of the disk: a write through a map that finds no room ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, nbytes)
    else:  # macOS
        os.truncate(file, nbytes)


def fill(model: FixedPointModel, rows: ContextRows, device: str, starts_ND: Tensor | None = None) -> None:
    """Read the rows' contexts into their place. Arguments as in `readings`."""
    for part, contexts_BTW in readings(model, rows, device, starts_ND):
        rows.contexts[part].copy_(contexts_BTW)


@torch.no_grad()
def readings(
    model: FixedPointModel, rows: ContextRows, device: str, starts_ND: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Read the rows, some at a time: which ones, and their contexts [B, T, W] on the device, as many layers of them as
    the rows have room for, the last ones.

    Args:
        model: on the device.
        rows: each goes on where the one before ends if they carry on, else each begins a text.
        device: as `resolve_device` gives it.
        starts_ND: contexts before the rows, or before the first where they carry on; None stands for zeros.
    """
    size, width = rows_at_once(rows.steps, device), rows.contexts.shape[-1]
    if starts_ND is None:
        starts_ND = model.start(1 if rows.carries else len(rows), torch.device(device)).context_BD
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        ids_BT, before_KB = rows[part].inputs(device)
        if rows.carries:
            contexts_NW = model.read_stream(ids_BT.flatten(), FixedPointState(starts_ND, before_KB[:, :1]))
            starts_ND = contexts_NW[-1:, -model.ctx_dim :].clone()
            contexts_BTW = contexts_NW.view(*ids_BT.shape, -1)
        else:
            contexts_BTW = model.read(ids_BT.t(), FixedPointState(starts_ND[part], before_KB)).transpose(0, 1)
        yield part, contexts_BTW[..., -width:]


def rows_at_once(steps: int, device: str) -> int:
    """How many rows of so many tokens are read at a time, so that the contexts of all their layers stay few."""
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    return max(1, context_scan.SEGMENT * context_scan.SEGMENTS[kind] // steps)


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
