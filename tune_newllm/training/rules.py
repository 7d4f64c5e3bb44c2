"""How the learning rate follows the batch size and the size of the model: pure functions of numbers.

All batch rules leave the rate as it is at `BASE_BATCH`; k = batch size / `BASE_BATCH`.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

BASE_BATCH = 32
"""Batch size that a rule's rate is given for (original research, base point)."""
BASE_SIZE = 2_739_432
"""Trainable scalars of the original research's base model: V 1000, E 256, H 512, C 256, L 6."""
_BEND = 256


def sqrt_rule(lr: float, batch_size: int) -> float:
    """lr * sqrt(k).

    Assumes that the noise of the gradient outweighs its mean: the noise of a mean of B gradients shrinks with sqrt(B).
    Krizhevsky 2014 (arXiv 1404.5997) for SGD, Malladi et al. 2022 for Adam, see `sde_adam`; here betas and eps stay.
    """
    return lr * math.sqrt(batch_size / BASE_BATCH)


def linear_rule(lr: float, batch_size: int) -> float:
    """lr * k: k times fewer steps, each k times as long.

    Assumes SGD, and that the gradient hardly changes over the k steps that one step replaces (Goyal et al. 2017, arXiv
    1706.02677).
    """
    return lr * batch_size / BASE_BATCH


def original_rule(lr: float, batch_size: int) -> float:
    """`linear_rule` below batch 256, `sqrt_rule` from there on (original research, learning-rate rules).

    Found by trial. It is not continuous: batch 255 gets 7.97 times the rate, batch 256 only 2.83 times.
    """
    return linear_rule(lr, batch_size) if batch_size < _BEND else sqrt_rule(lr, batch_size)


BATCH_RULES: Mapping[str, Callable[[float, int], float]] = {
    "none": lambda lr, _: lr,
    "sqrt": sqrt_rule,
    "linear": linear_rule,
    "original": original_rule,
    "sqrt-sde": sqrt_rule,
}
"""`training.lr_rule` -> rate at a batch size, from the rate at batch 32."""


def size_rule(lr: float, model_size: int) -> float:
    """lr / sqrt(N / 2,739,432): the larger the model, the smaller the rate (original research, learning-rate rules).

    Assumes nothing that was ever tested: the original's own configurations halve the rate where this gives 0.752.

    Args:
        lr: rate of a model of `BASE_SIZE`.
        model_size: N, trainable scalars.
    """
    return lr / math.sqrt(model_size / BASE_SIZE)


class AdamNumbers(NamedTuple):
    """What Adam needs beside its learning rate."""

    beta1: float
    beta2: float
    eps: float


def sde_adam(beta1: float, beta2: float, eps: float, batch_size: int) -> AdamNumbers:
    """1 - beta -> k (1 - beta) for both betas and eps -> eps / sqrt(k), as goes with the rate of `sqrt_rule`.

    Both runs then follow the same stochastic differential equation at equal numbers of sequences (Malladi et al. 2022,
    arXiv 2205.10287, the square-root rule). Assumes that the noise of the gradient outweighs its mean.

    Raises:
        ValueError: the batch is too large, so that a beta would be below 0.
    """
    largest = largest_sde_batch(beta1, beta2)
    if batch_size > largest:
        raise ValueError(
            f"batch_size must be at most {largest} with lr_rule sqrt-sde, beta1 {beta1:g} and beta2 {beta2:g} "
            f"(k (1 - beta) must be at most 1, k = batch_size / {BASE_BATCH}), got {batch_size}"
        )
    k = batch_size / BASE_BATCH
    # Rounding may leave a little less than 0.
    return AdamNumbers(max(0.0, 1 - k * (1 - beta1)), max(0.0, 1 - k * (1 - beta2)), eps / math.sqrt(k))


def largest_sde_batch(beta1: float, beta2: float) -> int:
    """Largest batch size with k (1 - beta) <= 1 for both betas."""
    return math.floor(BASE_BATCH / (1 - min(beta1, beta2)) + 1e-6)
