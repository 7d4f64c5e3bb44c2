"""The fixed-point family for Hugging Face transformers. The model itself is in `fixed_point.py`.

The configuration class stands in this file for the reason that `modeling_new_llm.py` gives.
"""

# mypy: disable-error-code="no-untyped-call, attr-defined"

from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from .fixed_point import FixedPointModel, FixedPointState
from .modeling_new_llm import NewLLMForCausalLM


class FixedPointConfig(PretrainedConfig):
    """Sizes of a fixed-point model, as `fixed_point.FixedPointModel` describes them."""

    model_type = "new_llm_fixed_point"
    attribute_map = {"hidden_size": "ctx_dim", "num_hidden_layers": "num_layers"}  # noqa: RUF012

    def __init__(
        self,
        vocab_size: int = 1000,
        embed_dim: int = 256,
        ctx_dim: int = 256,
        num_layers: int = 6,
        num_input_tokens: int = 1,
        token_input_all_layers: bool = True,
        blocks: int = 1,
        tied: bool = False,
        train_embedding: bool = True,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim
        self.ctx_dim = ctx_dim
        self.num_layers = num_layers
        self.num_input_tokens = num_input_tokens
        self.token_input_all_layers = token_input_all_layers
        self.blocks = blocks
        self.tied = tied
        self.train_embedding = train_embedding
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


class FixedPointForCausalLM(NewLLMForCausalLM):
    """A fixed-point model as a causal language model. Its state, [B, D + k - 1], is the context and the ids of the last
    k - 1 tokens, -1 before the start; in float32 at least, which holds ids exactly where bfloat16 ends at 256."""

    config_class = FixedPointConfig  # type: ignore[assignment]

    def __init__(self, config: FixedPointConfig) -> None:
        PreTrainedModel.__init__(self, config)
        self.model = FixedPointModel(
            config.vocab_size,
            config.embed_dim,
            config.ctx_dim,
            config.num_layers,
            config.num_input_tokens,
            config.token_input_all_layers,
            config.blocks,
            config.tied,
            config.train_embedding,
        )
        self.post_init()

    def _read(self, input_ids: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        known = None
        if state is not None:
            context, before = state.split([self.config.ctx_dim, self.config.num_input_tokens - 1], dim=1)
            known = FixedPointState(context.to(self.model.embedding.weight.dtype), before.t().round().long())
        logits, after = self.model(input_ids, known)
        return logits, _packed(after)

    def _start(self, batch: int, device: torch.device) -> Tensor:
        return _packed(self.model.start(batch, device))


def _packed(state: FixedPointState) -> Tensor:
    exact = torch.promote_types(state.context_BD.dtype, torch.float32)
    return torch.cat([state.context_BD.to(exact), state.before_KB.t().to(exact)], dim=1)
