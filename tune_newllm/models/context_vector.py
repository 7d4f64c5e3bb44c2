"""New-LLM: a recurrent language model whose memory is one context vector of fixed size.

One step, for token x and context c (original research, model equations):

    h0     = [Emb[x]; c]
    h_i    = Dropout(ReLU(W_i h_{i-1} + b_i))                  i = 1..L; `residual`: from i = 2 on plus h_{i-1}
    logits = W_o h_L + b_o                                     predicts the next token
    delta, f, g = W_u h_L + b_u, sigmoid(W_f h_L + b_f), sigmoid(W_g h_L + b_g)
    c'     = clamp(LayerNorm(f * c + g * delta), -10, 10)      the context of the next step

Shape suffixes: B sequences, T time steps, V vocabulary, E embedding, H hidden, C context, F features.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .protocol import LanguageModel, Signals, effective_rank, is_quantised
from .recurrence import LIMIT, Cell, read, scan


class _Linear(nn.Linear):
    """A linear layer that leaves its weights undefined: they are drawn in one place, from one generator."""

    def reset_parameters(self) -> None:
        pass


class _TiedOutput(nn.Module):
    """Logits from the embedding's own rows: (P h) . Emb[v] / sqrt(E) + b[v]; without P where H = E.

    The rows have unit variance at the start; the division gives the logits the size they have without tying.
    """

    def __init__(self, hidden_dim: int, embed_dim: int, vocab_size: int) -> None:
        super().__init__()
        self.projection = _Linear(hidden_dim, embed_dim, bias=False) if hidden_dim != embed_dim else None
        self.bias = nn.Parameter(torch.empty(vocab_size))
        self.embed_dim = embed_dim

    def features(self, hidden_TBH: Tensor) -> Tensor:
        """What the embedding's rows are multiplied by, [T, B, E]."""
        projected_TBE = hidden_TBH if self.projection is None else self.projection(hidden_TBH)
        return projected_TBE * self.embed_dim**-0.5


class ContextVectorModel(LanguageModel):
    """The model with undefined weights: draw them or load a state before use. Its state is the context [B, C], float32
    (float64 in a float64 model); None stands for zeros.

    Args:
        vocab_size: V, number of token ids.
        embed_dim: E.
        hidden_dim: H.
        ctx_dim: C.
        num_layers: L, feed-forward layers; the first reads [embedding; context].
        dropout: probability that a hidden unit is zeroed in training; a fresh mask for every layer and time step.
        ffn: `residual` adds every layer after the first to what it read.
        tied: whether the embedding is the output matrix as well.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        hidden_dim: int,
        ctx_dim: int,
        num_layers: int,
        dropout: float,
        ffn: Literal["plain", "residual"] = "plain",
        tied: bool = False,
    ) -> None:
        super().__init__()
        self.vocab_size, self.ctx_dim, self.dropout, self.ffn = vocab_size, ctx_dim, dropout, ffn
        self.embedding = nn.Embedding(vocab_size, embed_dim, _weight=torch.empty(vocab_size, embed_dim))
        inputs = [embed_dim + ctx_dim] + [hidden_dim] * (num_layers - 1)
        self.layers = nn.ModuleList(_Linear(size, hidden_dim) for size in inputs)
        self.gates = _Linear(hidden_dim, 3 * ctx_dim)
        """The heads for delta, f and g, in this order, as one matrix."""
        self.norm = nn.LayerNorm(ctx_dim, eps=1e-5)
        self.output: _Linear | _TiedOutput = (
            _TiedOutput(hidden_dim, embed_dim, vocab_size) if tied else _Linear(hidden_dim, vocab_size)
        )

    def features(self, tokens_BT: Tensor, state_BC: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As the protocol says."""
        if state_BC is None:
            state_BC = self._start(len(tokens_BT), tokens_BT.device)
        if is_quantised(self.gates.weight):
            hidden_TBH, state_BC = self._read_by_layers(tokens_BT, state_BC)
        else:
            inputs_TBH, cell = self._cell(tokens_BT)
            dropout = self.dropout if self.training else 0.0
            hidden_TBH, state_BC = scan(inputs_TBH, state_BC, cell, dropout, self.dropout_generator)
        return self.output.features(hidden_TBH) if isinstance(self.output, _TiedOutput) else hidden_TBH, state_BC

    def head(self) -> tuple[Tensor, Tensor]:
        """Weight [V, F] and bias [V] of the output layer."""
        return (self.embedding if isinstance(self.output, _TiedOutput) else self.output).weight, self.output.bias

    @torch.no_grad()
    def inspect(self, tokens_BT: Tensor) -> Signals:
        """As the protocol says; contexts are those after each step."""
        alive, contexts = [], []
        is_word_TB = tokens_BT.t() != 0
        with torch.autocast(tokens_BT.device.type, enabled=False):
            inputs_TBH, cell = self._cell(tokens_BT)
            readings = read(inputs_TBH, self._start(len(tokens_BT), tokens_BT.device), cell)
            for reading, is_word_B in zip(readings, is_word_TB, strict=True):
                alive.append(torch.stack(reading.units)[:, is_word_B].any(dim=1))
                contexts.append(reading.state_BC[is_word_B])
        contexts_NC = torch.cat(contexts)
        return Signals(
            dead_relu=1 - torch.stack(alive).any(dim=0).float().mean().item(),
            ctx_norm=contexts_NC.norm(dim=1).mean().item(),
            ctx_rank=effective_rank(contexts_NC),
        )

    @torch.no_grad()
    def _read_by_layers(self, tokens_BT: Tensor, state_BC: Tensor) -> tuple[Tensor, Tensor]:
        """The equations as they stand, by calling the layers: what `scan` gives without dropout, and slower."""
        hidden = []
        for tokens_B in tokens_BT.unbind(1):
            hidden_BH = torch.cat([self.embedding(tokens_B), state_BC], dim=1)
            for layer in self.layers:
                units_BH = layer(hidden_BH).relu()
                residual = self.ffn == "residual" and layer is not self.layers[0]
                hidden_BH = hidden_BH + units_BH if residual else units_BH
            delta, f, g = self.gates(hidden_BH).chunk(3, dim=1)
            state_BC = self.norm(f.sigmoid() * state_BC + g.sigmoid() * delta).clamp(-LIMIT, LIMIT)
            hidden.append(hidden_BH)
        return torch.stack(hidden), state_BC

    def _start(self, batch: int, device: torch.device) -> Tensor:
        """The context at the start of a text."""
        dtype = torch.promote_types(self.norm.weight.dtype, torch.float32)
        return torch.zeros(batch, self.ctx_dim, dtype=dtype, device=device)

    def _cell(self, tokens_BT: Tensor) -> tuple[Tensor, Cell]:
        """What the recurrence reads: the tokens' share of the first layer, [T, B, H], and the weights of a step."""
        first, *further = cast("list[nn.Linear]", list(self.layers))
        embed_weight, context_weight = torch.split(first.weight, [self.embedding.embedding_dim, self.ctx_dim], dim=1)
        cell = Cell(
            context_weight=context_weight,
            layers=[(layer.weight, layer.bias) for layer in further],
            gates=(self.gates.weight, self.gates.bias),
            norm=(self.norm.weight, self.norm.bias),
            residual=self.ffn == "residual",
        )
        return self._project(tokens_BT.t(), embed_weight, first.bias), cell

    def _project(self, tokens_TB: Tensor, weight_HE: Tensor, bias_H: Tensor) -> Tensor:
        """The embedding's share of the first layer for all time steps at once, bias included: [T, B, H]."""
        if tokens_TB.numel() < self.vocab_size:
            return F.linear(self.embedding(tokens_TB), weight_HE, bias_H)
        # With more tokens than words it is cheaper to project every word once and look the result up.
        table_VH = F.linear(self.embedding.weight, weight_HE, bias_H)
        # Back from autocast's type: the gradient of a frequent word is a sum over too many steps for 8 bits.
        return F.embedding(tokens_TB, table_VH.to(bias_H.dtype))
