"""Tensors on disk: safetensors files, written whole or not at all."""

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import safetensors
import safetensors.torch
from torch import Tensor, nn

from tune_newllm.errors import CheckpointError


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a model's parameters under their `state_dict` names, atomically."""
    # Hugging Face refuses weights whose metadata do not name their framework.
    write_tensors(path, model.state_dict(), {"format": "pt"})


def load_weights(model: nn.Module, path: Path) -> None:
    """Read what `save_weights` wrote into `model`, on whatever device it lies.

    Raises:
        CheckpointError: the file is missing, damaged, or of a model of other shapes.
    """
    insert_weights(path, read_tensors(path)[0], model)


def insert_weights(path: Path, tensors: Mapping[str, Tensor], model: nn.Module) -> None:
    """Copy tensors into a model; `path` is where they came from, for the message.

    Raises:
        CheckpointError: names or shapes are not the model's.
    """
    found = {name: list(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in wanted | found:
        got, need = found.get(name, "absent"), wanted.get(name, "absent")
        if got != need:
            raise CheckpointError(
                f"{path} does not fit the model: {name} is {got} in the file and {need} in the model; "
                "use the configuration that was saved beside it"
            )
    model.load_state_dict(dict(tensors))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, then rename it: readers find the old file or the whole new one.

    Raises:
        OSError: the folder cannot be written.
    """
    payload = safetensors.torch.save(
        {name: each.detach().cpu().contiguous() for name, each in tensors.items()}, metadata
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(payload)
            file.flush()
            sync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # Cloned, because the tensors may be views of the mapped file, and training would write into them.
            return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give the folder of a checkpoint") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file ({error}): use another copy") from None


def sync(file: IO[bytes]) -> None:
    """Have the system put a flushed file on the disk, so that it outlives a loss of power.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.fsync(file.fileno())
    except OSError as error:
        # Some mounted drives do not offer it; the rename alone is then the best there is.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise
