"""The families of models, by name, and how one is made."""

from collections.abc import Callable, Mapping

import torch

from .config import ModelConfig
from .context_vector import ContextVectorModel
from .initial_weights import draw

LanguageModel = ContextVectorModel
"""Any model of ours: the union of the families' classes."""


def _context_vector(config: ModelConfig, vocab_size: int) -> ContextVectorModel:
    return ContextVectorModel(
        vocab_size,
        config.embed_dim,
        config.hidden_dim,
        config.ctx_dim,
        config.num_layers,
        config.dropout,
        config.ffn,
        config.tied,
    )


MODEL_FAMILIES: Mapping[str, Callable[[ModelConfig, int], LanguageModel]] = {"context_vector": _context_vector}
"""Family name -> function that makes the model with undefined weights."""


def build(config: ModelConfig, vocab_size: int, seed: int) -> LanguageModel:
    """Make a model with initial weights drawn from `seed` alone: equal arguments give equal weights."""
    model = MODEL_FAMILIES[config.family](config, vocab_size)
    draw(model, config.init, torch.Generator().manual_seed(seed))
    return model
