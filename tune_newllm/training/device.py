"""What the machine can do: devices, number formats and memory."""

import resource
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from tune_newllm.errors import UsageError

Number = Literal["fp32", "bf16", "fp16"]
"""Number format of matrix products in training; weights, optimizer and evaluation are fp32 in all of them."""

OFFERED: Mapping[str, tuple[Number, ...]] = {"cuda": ("fp32", "bf16", "fp16"), "cpu": ("fp32", "bf16")}
"""What each kind of device computes in, be it emulated; all others fp32 alone."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> str:
    """The device to compute on; `auto` is the first of CUDA, MPS and CPU that is there.

    Raises:
        UsageError: the device asked for is not there.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind, _, index = device.partition(":")
    if kind == "cuda" and not (torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count()):
        raise UsageError(f"device {device} is not there ({torch.cuda.device_count()} CUDA devices): use device auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device mps is not there: use device auto")
    return device


def native_numbers(device: str) -> tuple[Number, ...]:
    """Number formats that the device has instructions for; fp32 always comes first."""
    kind = torch.device(device).type
    if kind == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("fp32", "bf16", "fp16") if bf16 else ("fp32", "fp16")
    if kind == "cpu" and _cpu_has_bf16():
        return ("fp32", "bf16")
    return ("fp32",)


def require_number(number: Number, device: str) -> None:
    """Refuse a number format that the device does not compute in.

    Raises:
        UsageError: it does not.
    """
    offered = OFFERED.get(torch.device(device).type, ("fp32",))
    if number not in offered:
        raise UsageError(f"precision {number} is not offered by this {device}: use {' or '.join(offered)}")


def autocast(number: Number, device: str) -> AbstractContextManager[object]:
    """Context in which matrix products are computed in `number`."""
    if number == "fp32":
        return nullcontext()
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[number])


def resolve_micro_batch(micro_batch: int | Literal["auto"], device: str) -> int:
    """Most sequences in one forward pass. `auto` bounds memory where more sequences no longer make it faster."""
    if micro_batch != "auto":
        return micro_batch
    return 4096 if torch.device(device).type == "cuda" else 256


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of `peak_memory_bytes` where the device offers one."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_bytes(device: str) -> int:
    """CUDA: most bytes allocated since the reset. Elsewhere: largest resident size of this process so far."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_has_bf16() -> bool:
    # Without these instructions bf16 is emulated: right, but only ever slower.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(flag is True for name, flag in capabilities.items() if "bf16" in name)
