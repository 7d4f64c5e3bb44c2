"""Language models behind one protocol: `forward(tokens_BT, state=None) -> (logits_BTV, state)`.

The state is all that a model remembers of the tokens it has read; passing it on continues a text where it stopped.
"""

from collections.abc import Callable, Mapping

import torch

from .config import ModelConfig
from .context_vector import ContextVectorModel, Signals
from .initial_weights import draw

__all__ = [
    "MODEL_FAMILIES",
    "ContextVectorModel",
    "LanguageModel",
    "ModelConfig",
    "Signals",
    "build",
    "parameter_count",
]

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


def parameter_count(config: ModelConfig, vocab_size: int) -> int:
    """Number of trainable scalars, by formula (original research, parameter counts) and without building anything."""
    embed, hidden, ctx = config.embed_dim, config.hidden_dim, config.ctx_dim
    first_layer = (embed + ctx) * hidden + hidden
    further_layers = (config.num_layers - 1) * (hidden * hidden + hidden)
    output = hidden * vocab_size + vocab_size
    if config.tied:
        output = vocab_size + (hidden * embed if hidden != embed else 0)
    gates = 3 * (hidden * ctx + ctx)
    return vocab_size * embed + first_layer + further_layers + output + gates + 2 * ctx
