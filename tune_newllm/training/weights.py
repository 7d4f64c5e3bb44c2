"""Tensors on disk: safetensors files with a checksum, written whole or not at all."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from tune_newllm.data.files import sync
from tune_newllm.errors import CheckpointError, DamagedCheckpointError

_OURS, _CHECKSUM = {"writer": "tune_newllm"}, "tune_newllm_sha256"
"""Metadata of every file written here. There are two marks, so that no single wrong bit makes one of our files look
like one from elsewhere, which has no checksum."""
_UNKNOWN = "0" * 64
"""Stands in the place of the checksum while it is computed, so that it covers all other bytes of the file."""


def save_weights(weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's `state_dict` atomically; the metadata say where it comes from."""
    # Hugging Face refuses weights whose metadata do not name their framework.
    write_tensors(path, weights, {"format": "pt", **(metadata or {})})


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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all: see `pack` and `write_packed`."""
    write_packed(path, pack(tensors, metadata))


def pack(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A copy of tensors, on any device, as the bytes of a safetensors file that is still without its checksum.

    Args:
        metadata: beside the marks, which every file gets.
    """
    # Here, so that a machine that only measures speed needs torch alone.
    from safetensors.torch import save

    return save(
        {name: each.detach().cpu().contiguous() for name, each in tensors.items()},
        {**metadata, **_OURS, _CHECKSUM: _UNKNOWN},
    )


def write_packed(path: Path, payload: bytes, keep: Path | None = None) -> None:
    """Write what `pack` gave, with its checksum, under a temporary name, then rename it: readers find the old file or
    the whole new one.

    Args:
        keep: a further name, which the old file takes just before the new one takes its place.

    Raises:
        OSError: the folder cannot be written.
    """
    start, end = _checksum_place(payload)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(payload[:start])
            file.write(_checksum(payload, start, end).encode())
            file.write(memoryview(payload)[end:])
            file.flush()
            sync(file)
        if keep is not None and path.exists():
            path.replace(keep)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file, which need not be one of ours.

    Raises:
        DamagedCheckpointError: it is no safetensors file, or its bytes are not those written here.
        CheckpointError: the file is missing, or it cannot be read, and then its cause is an OSError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        payload = path.read_bytes()
        metadata = _metadata(payload)
        if has_checksum(metadata) or _OURS.items() <= metadata.items():
            start, end = _checksum_place(payload)
            if payload[start:end] != _checksum(payload, start, end).encode():
                raise ValueError("its checksum is that of other bytes")
        return load(payload), metadata
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist: give the folder of a checkpoint") from None
    except OSError as error:
        # Never damage: a drive that fails now may give the file again later, so nobody may replace it.
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): mend the drive or use another copy"
        ) from error
    except (ValueError, LookupError, AttributeError, RecursionError, SafetensorError) as error:
        raise DamagedCheckpointError(
            f"{path} is damaged or not a safetensors file ({error}): use another copy"
        ) from None


def can_be_read(error: CheckpointError) -> bool:
    """Whether `read_tensors` failed over what the file holds, or its absence, and not over the drive or its rights."""
    return not isinstance(error.__cause__, OSError)


def has_checksum(metadata: Mapping[str, str]) -> bool:
    """Whether a file with these metadata, once read, is known to be as it was written."""
    return _CHECKSUM in metadata


def _metadata(payload: bytes) -> dict[str, str]:
    """A safetensors file is the length of its header in 8 bytes, the header as JSON, and the tensors."""
    header: dict[str, dict[str, str]] = json.loads(payload[8 : _header_end(payload)])
    return dict(header.get("__metadata__", {}))


def _header_end(payload: bytes) -> int:
    return 8 + int.from_bytes(payload[:8], "little")


def _checksum_place(payload: bytes) -> tuple[int, int]:
    """Where the checksum begins and ends. A quote inside a JSON text is escaped, so that nothing else looks like it."""
    place = re.search(rf'"{_CHECKSUM}":"([0-9a-f]{{64}})"'.encode(), payload[: _header_end(payload)])
    if place is None:
        raise ValueError("it has no checksum")
    return place.span(1)


def _checksum(payload: bytes, start: int, end: int) -> str:
    digest = hashlib.sha256(payload[:start])
    digest.update(_UNKNOWN.encode())
    digest.update(memoryview(payload)[end:])
    return digest.hexdigest()
