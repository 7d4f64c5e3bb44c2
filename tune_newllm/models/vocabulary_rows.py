"""Weights for a larger vocabulary: rows that were learned, and new ones behind them."""

from collections.abc import Mapping

import torch
from torch import Tensor

_SPECIAL = 4
"""Ids before the first word, whose rows are no example for a word's."""


def with_new_rows(weights: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], seed: int) -> dict[str, Tensor]:
    """The weights of a model, of any family, for the same model with more words.

    Tensors with a row per word get rows behind their own, drawn from a normal distribution with the mean and the
    standard deviation that the words' rows have in each column; a bias gets the words' mean. Tensors with rows of equal
    length are given the same numbers before that, so that versions of one embedding stay alike.

    Args:
        weights: of the model as it is.
        shapes: by name, of the model with more words; what differs otherwise than in the number of rows stays as it is.
        seed: of the draws.
    """
    return {name: _extended(tensor, shapes.get(name, tensor.shape), seed) for name, tensor in weights.items()}


def _extended(old: Tensor, shape: torch.Size, seed: int) -> Tensor:
    if old.shape == shape or not old.ndim or old.shape[1:] != shape[1:] or len(old) > shape[0]:
        return old
    words = old[_SPECIAL:] if len(old) > _SPECIAL else old
    new = words.mean(0).expand(shape[0] - len(old), *shape[1:])
    if old.ndim > 1:
        noise = torch.randn(new.shape, generator=torch.Generator().manual_seed(seed))
        new = new + words.std(0, correction=0) * noise
    return torch.cat([old, new.to(old.dtype)])
