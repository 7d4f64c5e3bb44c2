"""How fast a model reads, and how time and memory grow with what it has read.

Everything is warmed up first, and on an accelerator each reading of the clock waits for the work that was given to it.
The fastest run counts: whatever else the machine does only adds to the time.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tune_newllm.artifacts.sizes import stored_bytes
from tune_newllm.models import LanguageModel
from tune_newllm.training.device import peak_memory_bytes, reset_peak_memory

BATCHES = (1, 32)
LENGTHS = (16, 32, 64, 128, 256, 512, 1024)
"""Tokens read, the one that is timed as the last."""
PASS_TOKENS = 63
"""Tokens of a whole pass, as in a window of 64."""
_STEPS = 8
"""Times that the last token of a length is read, each time after the same state; the fastest is what it takes."""
_LEAST_RUNS, _MOST_RUNS, _SECONDS = 5, 30, 1.0
_MOST_SECONDS = 20.0
"""After which longer texts of a batch are left out, as `left_out` tells."""


@dataclass(frozen=True)
class Pass:
    """A forward pass with all logits over a batch of texts from their start."""

    batch: int
    tokens: int
    """Of each text."""
    ms: float
    tokens_per_s: float
    peak_memory_bytes: int
    """As `training.device.peak_memory_bytes` says: on a CPU that of the whole process."""


@dataclass(frozen=True)
class Reading:
    """The last of `context` tokens for each text of a batch, read alone after those before, as generation does."""

    batch: int
    context: int
    """Tokens of each text, the one that is timed among them."""
    ms: float
    tokens_per_s: float
    state_bytes: int
    """Of what the model remembers of these tokens."""


@torch.no_grad()
def passes(model: LanguageModel) -> Iterator[Pass]:
    """Time whole passes.

    Args:
        model: in evaluation mode, on the device to be measured.
    """
    device = _device(model)
    for batch in BATCHES:
        tokens_BT = _tokens(model, batch, PASS_TOKENS, device)
        for _ in range(2):
            model(tokens_BT)
        reset_peak_memory(device)
        runs: list[float] = []
        while len(runs) < _LEAST_RUNS or (sum(runs) < _SECONDS and len(runs) < _MOST_RUNS):
            started = _now(device)
            model(tokens_BT)
            runs.append(_now(device) - started)
        seconds = min(runs)
        yield Pass(batch, PASS_TOKENS, 1e3 * seconds, tokens_BT.numel() / seconds, peak_memory_bytes(device))


@torch.no_grad()
def readings(model: LanguageModel) -> Iterator[Reading]:
    """Time single tokens that end texts of growing length: up to as many as the model attends to, where it says so.

    Args:
        model: in evaluation mode, on the device to be measured.
    """
    device = _device(model)
    for batch in BATCHES:
        began = time.perf_counter()
        tokens_BT = _tokens(model, batch, LENGTHS[-1], device)
        _, state = model.features(tokens_BT[:, :_STEPS])
        model(tokens_BT[:, :1], state)
        state, read = None, 0
        for length in _lengths(model):
            if time.perf_counter() - began > _MOST_SECONDS:
                break
            _, state = model.features(tokens_BT[:, read : length - 1], state)
            runs = []
            for _ in range(_STEPS):
                started = _now(device)
                _, after = model(tokens_BT[:, length - 1 : length], state)
                runs.append(_now(device) - started)
            read, seconds = length - 1, min(runs)
            yield Reading(batch, length, 1e3 * seconds, batch / seconds, stored_bytes(after))


def left_out(model: LanguageModel, measured: Sequence[Reading]) -> list[tuple[int, int]]:
    """Batch and length of what `readings` had no time for."""
    done = {(row.batch, row.context) for row in measured}
    return [(batch, length) for batch in BATCHES for length in _lengths(model) if (batch, length) not in done]


def _lengths(model: LanguageModel) -> list[int]:
    most = getattr(model, "positions", LENGTHS[-1])
    return [length for length in LENGTHS if length <= most]


def _device(model: LanguageModel) -> str:
    return str(next(model.parameters()).device)


def _tokens(model: LanguageModel, batch: int, count: int, device: str) -> torch.Tensor:
    """Ordinary tokens; speed does not depend on which."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(min(4, model.vocab_size - 1), model.vocab_size, (batch, count), generator=generator).to(device)


def _now(device: str) -> float:
    """The clock, once the device has done all its work."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
