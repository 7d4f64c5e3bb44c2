"""Optimizers and the course of the learning rate."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from tune_newllm.training.config import LRScheduleConfig, TrainingConfig

BASE_BATCH = 32
"""Batch size at which a scaling rule leaves the learning rate as it is (original research, base point)."""


def sqrt_rule(lr: float, batch_size: int) -> float:
    """lr * sqrt(B / 32).

    The noise of a mean gradient shrinks with sqrt(B): Krizhevsky 2014 for SGD, and Malladi et al. 2022
    (arXiv 2205.10287) for Adam, whose full rule also moves the betas and eps; here they stay.
    """
    return lr * math.sqrt(batch_size / BASE_BATCH)


def linear_rule(lr: float, batch_size: int) -> float:
    """lr * B / 32: k times fewer steps, each k times as long (Goyal et al. 2017, arXiv 1706.02677, for SGD)."""
    return lr * batch_size / BASE_BATCH


_RULES: Mapping[str, Callable[[float, int], float]] = {
    "none": lambda lr, _: lr,
    "sqrt": sqrt_rule,
    "linear": linear_rule,
}


def effective_lr(config: TrainingConfig) -> float:
    """Peak learning rate of a run: `config.lr` after its scaling rule."""
    return _RULES[config.lr_rule](config.lr, config.batch_size)


def lr_at(step: int, total_steps: int, peak: float, schedule: LRScheduleConfig) -> float:
    """Learning rate of one optimizer step.

    With W = round(warmup * total_steps) and s = `step` (0-based): peak * (s + 1) / W while s < W, so the first step
    already learns and the last warm-up step reaches the peak. Then `constant` stays, and `cosine` falls as
    final + (1 - final) * (1 + cos(pi * (s - W) / (total_steps - W))) / 2, in shares of the peak.
    """
    warmup_steps = round(schedule.warmup * total_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if schedule.name == "constant":
        return peak
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    return peak * (schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2)


def build_optimizer(config: TrainingConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam (`weight_decay` is an L2 term of the gradient) or AdamW (decoupled decay), over all parameters alike."""
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    # Fused: two to four times faster on a CPU as well, where it is not torch's default.
    return kind(
        list(parameters),
        lr=effective_lr(config),
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=config.weight_decay,
        fused=True,
    )
