"""New-LLM for Hugging Face transformers. The model itself is in `context_vector.py`.

The configuration class stands in this file on purpose. transformers keeps one model class per configuration class, and
loads a new configuration class only where the code of its own file is new: in a file of its own it would stay the same
when the model's code changes, and bring the older model class with it.
"""

# mypy: disable-error-code="no-untyped-call, attr-defined"

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from .context_vector import ContextVectorModel


class NewLLMConfig(PretrainedConfig):
    """Sizes of a New-LLM; a context vector of `ctx_dim` numbers is all it remembers of the tokens it has read."""

    model_type = "new_llm"
    attribute_map = {"hidden_size": "hidden_dim", "num_hidden_layers": "num_layers"}  # noqa: RUF012

    def __init__(
        self,
        vocab_size: int = 1000,
        embed_dim: int = 256,
        hidden_dim: int = 512,
        ctx_dim: int = 256,
        num_layers: int = 6,
        dropout: float = 0.1,
        ffn: Literal["plain", "residual"] = "plain",
        tied: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim
        self.hidden_dim = hidden_dim
        self.ctx_dim = ctx_dim
        self.num_layers = num_layers
        self.dropout = dropout
        self.ffn = ffn
        self.tied = tied
        super().__init__(**{"tie_word_embeddings": False, **kwargs})


@dataclass
class NewLLMOutput(ModelOutput):
    """What a forward pass returns; fields that were not asked for are None."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    """[B, T, V]."""
    state: Tensor | None = None
    """Context after the last token, [B, C]: `generate` passes it on, so that each step reads one token only."""


class NewLLMForCausalLM(PreTrainedModel, GenerationMixin):
    """New-LLM as a causal language model."""

    config_class = NewLLMConfig
    base_model_prefix = "model"
    _is_stateful = True

    def __init__(self, config: NewLLMConfig) -> None:
        super().__init__(config)
        self.model = ContextVectorModel(
            config.vocab_size,
            config.embed_dim,
            config.hidden_dim,
            config.ctx_dim,
            config.num_layers,
            config.dropout,
            config.ffn,
            config.tied,
        )
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        state: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> NewLLMOutput | tuple[Any, ...]:
        """Read tokens and predict, at every position, the token that follows.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T or more] with 0 at padding; its last T columns are those of `input_ids`.
            state: context left by the tokens before, [B, C]; None means the start of a text.
            labels: [B, T], usually `input_ids` itself: shifted by one inside; -100 is left out of the loss.
            use_cache: whether to return the state; None does so except in training.
            return_dict: False for a plain tuple.

        Raises:
            ValueError: a state is asked for, but padding follows tokens: the state would have read the padding.
        """
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :].bool()
        keeps_state = not self.training if use_cache is None else use_cache
        if mask is None or bool(mask.all()):
            logits, state = self._read(input_ids, state)
        elif bool((mask[:, 1:] >= mask[:, :-1]).all()):
            logits, state = self._read_left_padded(input_ids, mask, state)
        elif use_cache:
            raise ValueError("padding must stand to the left of the tokens: set tokenizer.padding_side = 'left'")
        else:
            # Right padding does not change what comes before it, but the state behind it is of no use.
            (logits, _), keeps_state = self._read(input_ids, state), False
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        output = NewLLMOutput(loss=loss, logits=logits, state=state if keeps_state else None)
        return output.to_tuple() if return_dict is False else output

    def _read(self, input_ids: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits, and the state after the last token."""
        read: tuple[Tensor, Tensor] = self.model(input_ids, state)
        return read

    def _start(self, batch: int, device: torch.device) -> Tensor:
        """The state at the start of texts."""
        return torch.zeros(batch, self.config.ctx_dim, device=device)

    def _read_left_padded(self, input_ids: Tensor, mask: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Read stretch by stretch, between the places where rows begin: a row that has not begun keeps its state."""
        starts = (~mask).sum(dim=1)
        if state is None:
            state = self._start(len(input_ids), input_ids.device)
        logits = []
        for begin, end in pairwise(sorted({0, input_ids.shape[1], *starts.tolist()})):
            stretch, after = self._read(input_ids[:, begin:end], state)
            state = torch.where((starts <= begin).unsqueeze(1), after, state)
            logits.append(stretch)
        return torch.cat(logits, dim=1), state

    def get_input_embeddings(self) -> nn.Module:
        """The embedding table."""
        embedding: nn.Module = self.model.embedding
        return embedding

    def get_output_embeddings(self) -> nn.Module | None:
        """The output head; None in a tied model, which has no output matrix of its own."""
        output: nn.Module = self.model.output
        return None if self.config.tied else output

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # The state takes the place of a cache of keys and values.
        return False

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        """Hand the state on to the next step: since version 5.24 transformers itself only knows a `cache`."""
        updated: dict[str, Any] = super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)
        if "state" in outputs:
            updated["state"] = outputs["state"]
        return updated

    def _reorder_cache(self, state: Tensor, beam_idx: Tensor) -> Tensor:
        return state.index_select(0, beam_idx)
