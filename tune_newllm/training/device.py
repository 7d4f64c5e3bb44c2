"""What the machine can do: devices, number formats and memory."""

import ctypes
import os
import re
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import Literal

import torch

from tune_newllm.errors import UsageError
from tune_newllm.training.config import DEVICE

Number = Literal["fp32", "tf32", "bf16", "fp16"]
"""Number format of matrix products in training; weights, optimizer and evaluation are fp32 in all of them. tf32 is fp32
of which NVIDIA's matrix units read 10 bits behind the point."""

OFFERED: Mapping[str, tuple[Number, ...]] = {"cuda": ("fp32", "tf32", "bf16", "fp16"), "cpu": ("fp32", "bf16")}
"""What each kind of device computes in, be it emulated; all others fp32 alone."""
RESERVE = 0.1
"""Share of all memory that stays free: measurements are not exact, allocators leave gaps, and Ray ends workers when
95 % of main memory are in use."""
_PROCESS_BYTES = {"cuda": 600_000_000, "cpu": 400_000_000}
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device(device: str) -> str:
    """The device to compute on; `auto` is the first of CUDA, MPS and CPU that is there.

    Raises:
        UsageError: there is no such kind of device, or the one asked for is not there.
    """
    if not re.fullmatch(DEVICE, device):
        raise UsageError(f"device must be auto, cpu, mps, cuda or cuda:N, got {device!r}: auto takes what is there")
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
    if number == "tf32":
        return _matmul_precision("high")
    return torch.autocast(torch.device(device).type, dtype=_DTYPES[number])


@contextmanager
def _matmul_precision(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def use_fast_products() -> None:
    """Let oneDNN multiply float32 matrices on the CPU where torch's own choice, MKL, is slow: with AVX-512, but not
    from Intel (measured on AMD's: more than twice as fast).

    torch only offers this as leave to use fewer bits, of which such processors make no use; where one does, found by a
    product, the leave is withdrawn.
    """
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    if not capabilities.get("avx512_bw") or "Intel" in str(capabilities.get("cpu_name", "Intel")):
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    if not products_are_float32():
        torch.set_float32_matmul_precision(before)


def products_are_float32() -> bool:
    """Whether float32 matrix products on the CPU keep float32's digits: their error in a product of 512 terms."""
    left, right = (torch.randn(128, 512, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    exact = left.double() @ right.double().t()
    # Half precisions are wrong by 1e-2, tf32 by 1e-3.
    return bool(((left @ right.t()).double() - exact).abs().max() < 1e-4)


def resolve_micro_batch(micro_batch: int | Literal["auto"], device: str) -> int:
    """Most sequences in one forward pass. Where nothing was measured for it, `auto` bounds memory where more sequences
    hardly make it faster."""
    if micro_batch != "auto":
        return micro_batch
    return 4096 if torch.device(device).type == "cuda" else 256


def process_bytes(device: str) -> int:
    """About what a process takes on a device before its first tensor: CUDA's context, or Python with its libraries."""
    return _PROCESS_BYTES["cuda" if torch.device(device).type == "cuda" else "cpu"]


def available_memory(device: str, root: Path = Path("/")) -> int:
    """Bytes that this process may still take on a device, with `RESERVE` of all it may take left over.

    Args:
        device: as `resolve_device` gives it. Its main memory may be limited by control groups as well, a GPU's by
            `limit_memory`.
        root: where `proc` and `sys` are.
    """
    if torch.device(device).type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        taken = torch.cuda.memory_allocated(device)
        unused = torch.cuda.memory_reserved(device) - taken
        share = int(torch.cuda.get_per_process_memory_fraction(torch.device(device).index) * total)
        limits = [(free + unused, total), (share - taken, share)]
    else:
        limits = [_main_memory(root), *_control_groups(root)]
    return max(0, min(int(free - RESERVE * total) for free, total in limits))


def limit_memory(device: str, gpus: float) -> None:
    """Keep this process to its share of a GPU: Ray only counts shares. To be called before anything lies there.

    Args:
        device: as `resolve_device` gives it; only CUDA is limited.
        gpus: GPUs of one trial; from 1 on there is nothing to share.
    """
    kind = torch.device(device)
    if kind.type == "cuda" and 0 < gpus < 1:
        total = torch.cuda.get_device_properties(kind).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_fraction(gpus, total), kind.index)


def memory_fraction(gpus: float, total: int) -> float:
    """Fraction of a GPU's `total` bytes that the tensors of one of the processes sharing it may take."""
    return max(gpus - process_bytes("cuda") / total, gpus / 2)


@cache
def keep_freed_memory() -> None:
    """Let this process keep the main memory that tensors free, for the next ones, until `return_freed_memory`.

    Otherwise glibc gives every large buffer back to the system at once, which hands it out page by page again in the
    next step: a tenth of a training step's time.
    """
    mmap_max, trim_threshold, top_pad, arena_max = -4, -1, -2, -8
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        # One arena, because those of further threads give large buffers back all the same.
        for option, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 2**26), (arena_max, 1)):
            library.mallopt(option, value)


def return_freed_memory() -> None:
    """Give the system the main memory that is free but kept."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory(device: str) -> None:
    """Start a new measurement of `peak_memory_bytes`, where device and system offer one."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        return_freed_memory()
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes(device: str) -> int:
    """CUDA: most bytes that torch held since the reset, with those of recorded passes. Elsewhere: largest resident size
    of this process since then, or since its start where the system cannot reset that (macOS, some containers)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    if (peak := _fields(Path("/proc/self/status")).get("VmHWM")) is not None:
        return peak * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _main_memory(root: Path) -> tuple[int, int]:
    """Free and total bytes of the machine; where it does not tell what is free, all."""
    fields = _fields(root / "proc/meminfo")
    if "MemAvailable" in fields:
        return fields["MemAvailable"] * 1024, fields["MemTotal"] * 1024
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return total, total


def _control_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Free and total bytes of each control group (version 1 or 2) around this process that limits memory."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        top = root / "sys/fs/cgroup"
        limit, used, prefix = "memory.max", "memory.current", ""
        if "memory" in controllers.split(","):
            top, prefix = top / "memory", "total_"
            limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
        elif controllers:
            continue
        inside = top / path.lstrip("/")
        # In a container the path may be the host's, and the container's own group lie at the top.
        for group in (inside, *inside.parents[: len(inside.parts) - len(top.parts)]):
            total, taken = (next(iter(_lines(group / name)), "max") for name in (limit, used))
            if total != "max" and taken != "max":
                # Cached files give way to tensors, those read lately too.
                counts = _fields(group / "memory.stat")
                cached = sum(counts.get(f"{prefix}{age}_file", 0) for age in ("active", "inactive"))
                yield int(total) - int(taken) + cached, int(total)


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file with lines such as `MemTotal:  24684096 kB`."""
    words = [line.replace(":", " ").split() for line in _lines(path)]
    return {each[0]: int(each[1]) for each in words if len(each) > 1 and each[1].isdigit()}


def _lines(path: Path) -> list[str]:
    """Those of a file of the system; none where there is no such file."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []


def _cpu_has_bf16() -> bool:
    # Without these instructions bf16 is emulated: right, but only ever slower.
    capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(flag is True for name, flag in capabilities.items() if "bf16" in name)
