"""The choice of everything that is `auto`: device, micro-batch and, by a short measurement, the precision."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tune_newllm.models import LanguageModel
from tune_newllm.training.batches import Windows
from tune_newllm.training.clip import clip_limit
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import Number, native_numbers, require_number, resolve_device, resolve_micro_batch
from tune_newllm.training.loop import train_step
from tune_newllm.training.schedules import Position
from tune_newllm.training.state import TrainState

__all__ = ["PrecisionChoice", "resolve", "resolve_device", "resolve_precision"]

CLEARLY_FASTER = 1.1
"""fp32 is kept unless another precision takes less than 1 / this of its time: speed must pay for lost digits."""
_SECONDS, _ROUNDS = 10.0, 5


class PrecisionChoice(NamedTuple):
    """What was chosen and why, in one sentence."""

    precision: Number
    reason: str


def resolve(
    config: TrainingConfig, build: Callable[[], LanguageModel], vocab_size: int, window: int
) -> tuple[TrainingConfig, str]:
    """The same configuration with no `auto` left, and the reason for its precision. Do this once per sweep.

    Args:
        config: as the user wrote it.
        build: makes a model of the configuration that is to be trained; called only if precision is `auto`.
        vocab_size: number of token ids.
        window: tokens per row.

    Raises:
        UsageError: the device asked for is not there, or cannot compute in the precision asked for.
    """
    device = resolve_device(config.device)
    config = replace(config, device=device, micro_batch=resolve_micro_batch(config.micro_batch, device))
    if config.precision != "auto":
        require_number(config.precision, device)
        return config, f"{config.precision} was asked for"
    choice = resolve_precision(config, build, vocab_size, window)
    return replace(config, precision=choice.precision), choice.reason


def resolve_precision(
    config: TrainingConfig, build: Callable[[], LanguageModel], vocab_size: int, window: int
) -> PrecisionChoice:
    """Time real training steps in fp32 and in the half precision that the device computes natively.

    bf16 is preferred to fp16: as fast, and without loss scaling. Arguments as in `resolve`.
    """
    device = resolve_device(config.device)
    candidates = native_numbers(device)[:2]
    if len(candidates) == 1:
        return PrecisionChoice("fp32", f"fp32 is all that this {device} computes natively")
    rows = min(config.batch_size, resolve_micro_batch(config.micro_batch, device))
    windows = np.random.default_rng(0).integers(4, vocab_size, (rows, window))
    # With next to no learning rate: the time of a step is asked for here, not whether the run would diverge.
    calm = replace(config, device=device, lr=1e-9, lr_rule="none", lr_size_rule="none")
    states = {number: TrainState.create(replace(calm, precision=number), build()) for number in candidates}
    start = Position(step=0, steps_per_epoch=1, epochs=1, tokens=0, tokens_per_epoch=1)
    return choose(measure(states, windows, clip_limit(config.clip, start, [])))


def measure(states: dict[Number, TrainState], windows: Windows, limit: float | None) -> dict[Number, float]:
    """Shortest time of one training step for each state, in seconds. In turns: a busy machine slows them all."""
    best: dict[Number, float] = dict.fromkeys(states, math.inf)
    for state in states.values():
        train_step(state, windows, limit, len(windows))
    end = time.perf_counter() + _SECONDS
    for _ in range(_ROUNDS):
        for number, state in states.items():
            started = time.perf_counter()
            train_step(state, windows, limit, len(windows))
            best[number] = min(best[number], time.perf_counter() - started)
        if time.perf_counter() > end:
            break
    return best


def choose(seconds: dict[Number, float]) -> PrecisionChoice:
    """The precision to train in, from the seconds per step of each candidate."""
    times = ", ".join(f"{number} {1000 * each:.1f} ms" for number, each in seconds.items())
    fastest = min(seconds, key=lambda number: seconds[number])
    if fastest != "fp32" and seconds["fp32"] > CLEARLY_FASTER * seconds[fastest]:
        return PrecisionChoice(fastest, f"{fastest} is clearly faster (one training step: {times})")
    return PrecisionChoice("fp32", f"nothing is clearly faster than fp32 (one training step: {times})")
