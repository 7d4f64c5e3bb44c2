"""Gradient clipping by the global L2 norm."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from tune_newllm.training.config import ClipConfig

_ORIGINAL = ((0, 0.5), (10, 1.0), (30, 2.0))
_TABLES: Mapping[str, tuple[tuple[int, float], ...] | None] = {"none": None, "original": _ORIGINAL}


def clip_limit(config: ClipConfig, epoch: int) -> float | None:
    """Largest norm allowed in an epoch (0-based), None for no limit. `original` is the original research's schedule."""
    if config.schedule == "constant":
        return config.norm
    table = config.table if config.schedule == "piecewise" else _TABLES[config.schedule]
    if table is None:
        return None
    return max((start, norm) for start, norm in table if start <= epoch)[1]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Global L2 norm of all gradients, a scalar on their device."""
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, limit: float) -> None:
    """Scale all gradients by min(1, limit / norm), where `norm` is what `gradient_norm` gave."""
    torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
