"""New-LLM: a recurrent language model whose memory is one context vector of fixed size.

One step, for token x and context c (original research, model equations):

    h0     = [Emb[x]; c]
    h_i    = Dropout(ReLU(W_i h_{i-1} + b_i))                  i = 1..L
    logits = W_o h_L + b_o                                     predicts the next token
    delta, f, g = W_u h_L + b_u, sigmoid(W_f h_L + b_f), sigmoid(W_g h_L + b_g)
    c'     = clamp(LayerNorm(f * c + g * delta), -10, 10)      the context of the next step

Shape suffixes: B sequences, T time steps, V vocabulary, E embedding, H hidden, C context.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recurrence import Cell, scan


class _Linear(nn.Linear):
    """A linear layer that leaves its weights undefined: they are drawn in one place, from one generator."""

    def reset_parameters(self) -> None:
        pass


class ContextVectorModel(nn.Module):
    """The model with undefined weights: call `reset_parameters` or load a state before use.

    Args:
        vocab_size: V, number of token ids.
        embed_dim: E.
        hidden_dim: H.
        ctx_dim: C.
        num_layers: L, feed-forward layers; the first reads [embedding; context].
        dropout: probability that a hidden unit is zeroed in training; a fresh mask for every layer and time step.
    """

    def __init__(
        self, vocab_size: int, embed_dim: int, hidden_dim: int, ctx_dim: int, num_layers: int, dropout: float
    ) -> None:
        super().__init__()
        self.vocab_size, self.ctx_dim, self.dropout = vocab_size, ctx_dim, dropout
        self.embedding = nn.Embedding(vocab_size, embed_dim, _weight=torch.empty(vocab_size, embed_dim))
        inputs = [embed_dim + ctx_dim] + [hidden_dim] * (num_layers - 1)
        self.layers = nn.ModuleList(_Linear(size, hidden_dim) for size in inputs)
        self.gates = _Linear(hidden_dim, 3 * ctx_dim)
        """The heads for delta, f and g, in this order, as one matrix."""
        self.norm = nn.LayerNorm(ctx_dim, eps=1e-5)
        self.output = _Linear(hidden_dim, vocab_size)
        self.dropout_generator: torch.Generator | None = None
        """Source of the dropout masks, on the model's device; None means torch's default generator."""

    def forward(self, tokens_BT: Tensor, state_BC: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Read tokens and predict, at every position, the token that follows.

        Args:
            tokens_BT: token ids.
            state_BC: the context left by the tokens before; None means the start of a text (zeros).

        Returns:
            logits_BTV, and the context after the last token (float32, or float64 in a float64 model).
        """
        if state_BC is None:
            dtype = torch.promote_types(self.norm.weight.dtype, torch.float32)
            state_BC = torch.zeros(len(tokens_BT), self.ctx_dim, dtype=dtype, device=tokens_BT.device)
        first, *further = self._linears()
        embed_weight, context_weight = torch.split(first.weight, [self.embedding.embedding_dim, self.ctx_dim], dim=1)
        cell = Cell(
            context_weight=context_weight,
            layers=[(layer.weight, layer.bias) for layer in further],
            gates=(self.gates.weight, self.gates.bias),
            norm=(self.norm.weight, self.norm.bias),
        )
        hidden_TBH, state_BC = scan(
            self._project(tokens_BT.t(), embed_weight, first.bias),
            state_BC,
            cell,
            dropout=self.dropout if self.training else 0.0,
            generator=self.dropout_generator,
        )
        return self.output(hidden_TBH.transpose(0, 1)), state_BC

    def _linears(self) -> list[nn.Linear]:
        return cast("list[nn.Linear]", list(self.layers))

    def _project(self, tokens_TB: Tensor, weight_HE: Tensor, bias_H: Tensor) -> Tensor:
        """The embedding's share of the first layer for all time steps at once, bias included: [T, B, H]."""
        if tokens_TB.numel() < self.vocab_size:
            return F.linear(self.embedding(tokens_TB), weight_HE, bias_H)
        # With more tokens than words it is cheaper to project every word once and look the result up.
        table_VH = F.linear(self.embedding.weight, weight_HE, bias_H)
        # Back from autocast's type: the gradient of a frequent word is a sum over too many steps for 8 bits.
        return F.embedding(tokens_TB, table_VH.to(bias_H.dtype))

    @torch.no_grad()
    def reset_parameters(self, init: Literal["original", "he"], generator: torch.Generator) -> None:
        """Draw all weights from `generator`, always in the same order: embedding, layers, gates, output.

        All biases become 0 (so f = g = 0.5 on average) and the layer norm the identity.

        `he` keeps the size of the signal, and so of the gradients, independent of depth: embeddings have unit variance,
        as the normalised context has; a layer with n inputs draws from N(0, 2/n), which makes up for the half that ReLU
        cuts off (He et al. 2015); the heads see hidden units of mean square 1 and draw from N(0, 1/H).

        `original` draws everything from N(0, 0.02^2). Every layer then shrinks the signal about threefold at H = 512,
        so deep models start with vanishing gradients; it is kept to reproduce the original tables.
        """
        hidden_dim = self.output.in_features
        self.embedding.weight.normal_(0, 0.02 if init == "original" else 1.0, generator=generator)
        for layer in self._linears():
            std = 0.02 if init == "original" else (2 / layer.in_features) ** 0.5
            layer.weight.normal_(0, std, generator=generator)
            layer.bias.zero_()
        for head in (self.gates, self.output):
            head.weight.normal_(0, 0.02 if init == "original" else hidden_dim**-0.5, generator=generator)
            head.bias.zero_()
        self.norm.weight.fill_(1)
        self.norm.bias.zero_()
