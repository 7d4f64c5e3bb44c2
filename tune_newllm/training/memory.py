"""Memory that a training step needs, and running out of it."""

import gc
import math
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tune_newllm.models import build
from tune_newllm.training.config import Configuration
from tune_newllm.training.device import native_numbers, resolve_device, resolve_micro_batch, return_freed_memory

ONE_SEQUENCE = "out of memory with one sequence at a time: take a smaller model or a shorter window"

_Result = TypeVar("_Result")
_NAMES = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or this machine has no memory left for a tensor."""
    # For main memory, CUDA graphs and cuBLAS torch has no error class of its own, only a name in the message.
    named = isinstance(error, RuntimeError) and any(name in str(error) for name in _NAMES)
    return named or isinstance(error, MemoryError | torch.OutOfMemoryError)


def free_memory(device: str) -> None:
    """Give back what is not used any more, so that the next attempt finds all of it."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return_freed_memory()


def unless_out_of_memory(work: Callable[[], _Result], device: str) -> _Result | None:
    """What `work` returns; None if memory ran out, and then what the work held is free again."""
    try:
        return work()
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Not earlier: an error that is being handled holds the frames it came through, and these hold the tensors.
    free_memory(device)
    return None


class StepMemory(NamedTuple):
    """Bytes that a training needs on its device, whatever is kept outside it."""

    fixed: int
    """Weights, gradients, optimizer state, and what else a pass needs besides its sequences."""
    per_sequence: int
    """What each sequence in a forward and backward pass adds."""

    def need(self, rows: int) -> int:
        """Bytes at the peak with so many sequences in a pass."""
        return self.fixed + rows * self.per_sequence

    def largest(self, budget: int, most: int) -> int:
        """The first of `most`, `most` // 2, `most` // 4 ... sequences that needs no more than `budget` bytes, or 0."""
        while most and self.need(most) > budget:
            most //= 2
        return most


def measure_step(configuration: Configuration, vocab_size: int) -> StepMemory:
    """What training a configuration needs, from two steps with a few sequences and a model of their own.

    At each moment of a step the bytes alive are a straight line over the number of sequences, which two sizes
    determine; the highest of these lines at any number is the peak there. The result goes through the peaks at one
    sequence and at the micro-batch, and between them is never below the peak. Evaluations are left out, which bound
    their own passes, and so are looks at the gradients, which are given up where memory runs out. Tensors are counted,
    on CUDA also what the libraries allocate besides, so nothing else of this process should lie there.

    Args:
        configuration: its precision is not `auto`. A number format that the device only emulates is taken for fp32.
        vocab_size: number of token ids.

    Raises:
        UsageError: the device is not there, or cannot compute in the precision asked for.
        InfeasibleError: memory does not suffice even for this.
        DivergedError: the first loss is not finite.
    """
    device = resolve_device(configuration.training.device)
    moments, others = _moments(configuration, vocab_size, device)
    free_memory(device)
    asked = resolve_micro_batch(configuration.training.micro_batch, device)
    most = max(2, min(configuration.training.batch_size, asked))
    one, whole = (_peak(moments, rows) + others for rows in (1, most))
    per_sequence = math.ceil((whole - one) / (most - 1))
    return StepMemory(one - per_sequence, per_sequence)


_ROWS = 2
"""Sequences of the smaller step; with a single one some operations copy less than with two."""
_Moments = list[NDArray[np.int64]]
"""Bytes alive after each operation with `_ROWS` sequences, and with one more."""


def _moments(configuration: Configuration, vocab_size: int, device: str) -> tuple[_Moments, int]:
    """Of training steps; and the bytes on CUDA at the peak that are in no tensor."""
    # The loop itself reads this module.
    from tune_newllm.training.batches import PAD
    from tune_newllm.training.context_cache import as_trained
    from tune_newllm.training.state import TrainState
    from tune_newllm.training.step import apply_gradients, compute_gradients, train_step

    # With next to no learning rate: the steps shall take their memory, not diverge.
    calm = replace(configuration.training, lr=1e-9, lr_rule="none", lr_size_rule="none")
    if calm.precision != "auto" and calm.precision not in native_numbers(device):
        calm = replace(calm, precision="fp32")
    state = TrainState.create(calm, build(configuration.model, vocab_size, calm.seed))
    # A recording cannot be looked into, and every step is judged.
    state.passes.recorder, state.deferred = None, False
    windows = np.random.default_rng(0).integers(4, vocab_size, (_ROWS + 1, configuration.corpus.window))
    short = np.where(np.arange(windows.shape[1]) < 2, windows, PAD)
    alive = _LiveBytes(device, list(state.model.state_dict().values()))
    moments = []
    with alive:
        # Loss scaling skips the first steps, and with them the optimizer's state.
        while not train_step(state, as_trained(state.model, short[:1]), None, 1).applied:
            pass
        alive.take()
        for rows in (_ROWS, _ROWS + 1):
            if torch.device(device).type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            # A quick first pass, whose gradients are there beside the second's.
            state.micro_batch = rows
            both = np.concatenate([short[:rows], windows[:rows]])
            step = compute_gradients(state, as_trained(state.model, both))
            apply_gradients(state, step, step.norm / 2)
            moments.append(alive.take())
            others = torch.cuda.max_memory_allocated(device) if torch.device(device).type == "cuda" else 0
    return moments, max(0, others - int(moments[-1].max()))


def _peak(moments: _Moments, rows: int) -> int:
    """Most bytes alive at once with so many sequences."""
    first, second = moments
    if len(first) != len(second):
        # The two did not go the same way, so that only their peaks can be compared.
        first, second = first.max(keepdims=True), second.max(keepdims=True)
    return int((first + (rows - _ROWS) * (second - first)).max())


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes after every operation inside it how many bytes of tensors are alive on a device.

    Args:
        device: only what lies there counts.
        tensors: those that are alive already.
    """

    def __init__(self, device: str, tensors: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kind = torch.device(device).type
        self._bytes = 0
        self._storages: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        self._noted: list[int] = []
        for tensor in tensors:
            self._follow(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, forward or backward, as it would run anyway."""
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor) and each.device.type == self._kind:
                self._follow(each)
        self._noted.append(self._bytes)
        return result

    def take(self) -> NDArray[np.int64]:
        """What was noted since the last time."""
        noted, self._noted = self._noted, []
        return np.array(noted, dtype=np.int64)

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        # Views share a storage; its address is its own until it dies.
        key, size = storage._cdata, storage.nbytes()
        if key not in self._storages:
            self._storages[key] = weakref.ref(storage, lambda _: self._forget(key, size))
            self._bytes += size

    def _forget(self, key: int, size: int) -> None:
        del self._storages[key]
        self._bytes -= size
