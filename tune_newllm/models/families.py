"""The families of models, by name, and how one is made."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from . import gpt2, initial_weights
from .config import ModelConfig
from .context_vector import ContextVectorModel
from .fixed_point import FixedPointModel
from .protocol import Init, LanguageModel


class Family(NamedTuple):
    """How the models of a family come to be."""

    make: Callable[[ModelConfig, int], LanguageModel]
    """Makes a model for a vocabulary of so many tokens, with undefined weights."""
    draw: Callable[[Any, Init, torch.Generator], None]
    """Draws all weights of such a model from the generator, always in the same order."""


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


def _fixed_point(config: ModelConfig, vocab_size: int) -> FixedPointModel:
    return FixedPointModel(
        vocab_size,
        config.embed_dim,
        config.ctx_dim,
        config.num_layers,
        config.num_input_tokens,
        config.token_input_all_layers,
        config.blocks,
        config.tied,
        config.train_embedding,
    )


def _gpt2(config: ModelConfig, vocab_size: int) -> gpt2.GPT2:
    return gpt2.GPT2(
        gpt2.gpt2_config(
            vocab_size,
            config.embed_dim,
            config.hidden_dim,
            config.num_layers,
            config.num_heads,
            config.num_positions,
            config.dropout,
            config.tied,
        )
    )


MODEL_FAMILIES: Mapping[str, Family] = {
    "context_vector": Family(_context_vector, initial_weights.draw),
    "fixed_point": Family(_fixed_point, initial_weights.draw_fixed_point),
    "gpt2": Family(_gpt2, gpt2.draw),
}


def build(config: ModelConfig, vocab_size: int, seed: int) -> LanguageModel:
    """Make a model with initial weights drawn from `seed` alone: equal arguments give equal weights."""
    family = MODEL_FAMILIES[config.family]
    model = family.make(config, vocab_size)
    family.draw(model, config.init, torch.Generator().manual_seed(seed))
    return model
