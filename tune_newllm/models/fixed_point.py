"""The fixed-point family: contexts by one block, learned first and then frozen; predictions by another that reads them.

One step, for token t with x_t the last k normalised embeddings, oldest first (original research, CVFP model):

    c^(i) = LN(R(c^(i-1)) + ReLU(W_i [c^(i-1); x_t] + b_i))    i = 1..L, from the context of the token before; R is the
                                                               identity, or a projection where the length changes
    z_i   = LN(R(z_(i-1)) + ReLU(V_i [c^(i); z_(i-1)] + a_i))  i = 1..L, from z_0 = x_t
    logits = W_o z_L + b_o                                     predicts the next token

The contexts of a text depend on no weight that is trained for prediction, so a training reads them once and keeps them.

Shape suffixes: B sequences, T time steps, N vectors, D context, E embedding, V vocabulary, W all layers' contexts.
"""

from itertools import pairwise
from typing import ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import context_widths, token_widths
from .context_scan import scan_rows, scan_stream
from .protocol import LanguageModel, Signals, effective_rank

EPS = 1e-5


class FixedPointState(NamedTuple):
    """What the model remembers of the tokens before."""

    context_BD: Tensor
    before_KB: Tensor
    """Ids of the last k - 1 tokens, the oldest first; -1 before the start."""


class Contexts(NamedTuple):
    """In the place of a state: the contexts after each of the tokens themselves, read before."""

    contexts_TBW: Tensor
    """Of all layers, one after the other."""
    before_KB: Tensor
    """As in `FixedPointState`."""


class _Linear(nn.Linear):
    """A linear layer that leaves its weights undefined: they are drawn in one place, from one generator."""

    def reset_parameters(self) -> None:
        pass


class Layer(nn.Module):
    """LN(R(kept) + ReLU(W [context; token] + b)), where what is kept is one of the two.

    Args:
        context_dim: length of the context that is read.
        token_dim: of the token that is read; 0 where none is.
        kept_dim: of what is kept.
        dim: of the result.
    """

    def __init__(self, context_dim: int, token_dim: int, kept_dim: int, dim: int) -> None:
        super().__init__()
        self.sizes = [context_dim, token_dim]
        self.mix = _Linear(context_dim + token_dim, dim)
        self.residual = _Linear(kept_dim, dim) if kept_dim != dim else None
        self.norm = nn.LayerNorm(dim, eps=EPS)

    @property
    def context_weight(self) -> Tensor:
        """The context's share of W."""
        return self.mix.weight[:, : self.sizes[0]]

    def token_share(self, token: Tensor) -> Tensor:
        """The token's share of the product, bias included."""
        return F.linear(token, self.mix.weight[:, self.sizes[0] :], self.mix.bias)

    def forward(self, context: Tensor, token: Tensor, kept: Tensor) -> Tensor:
        """Vectors of any leading shape; with a token length of 0, `token` is not read."""
        share = self.token_share(token) if self.sizes[1] else self.mix.bias
        mixed = (F.linear(context, self.context_weight) + share).relu()
        return cast(Tensor, self.norm(mixed + (kept if self.residual is None else self.residual(kept))))


class ContextBlock(nn.Module):
    """One step of the contexts of one block, on vectors that do not depend on each other."""

    def __init__(self, ctx_dim: int, input_dim: int, num_layers: int, all_layers: bool) -> None:
        super().__init__()
        self.widths = context_widths(ctx_dim, input_dim, num_layers, all_layers)
        sizes = pairwise([ctx_dim, *self.widths])
        self.layers = nn.ModuleList(
            Layer(below, input_dim if all_layers or index == 0 else 0, below, width)
            for index, (below, width) in enumerate(sizes)
        )

    def forward(self, context_ND: Tensor, inputs_NX: Tensor) -> Tensor:
        """The contexts after a token of these inputs, [N, D]."""
        for layer in self.layers:
            context_ND = layer(context_ND, inputs_NX, context_ND)
        return context_ND


class FixedPointModel(LanguageModel):
    """The model with undefined weights: draw them or load a state before use.

    The context blocks, and the embedding unless `train_embedding`, are frozen from the start: whoever teaches the
    blocks thaws them meanwhile. Contexts are made of the embedding as it was drawn, normalised without gain and bias,
    and so stay the same whatever is trained: a trained embedding is kept in both versions.

    Args:
        vocab_size: V.
        embed_dim: E.
        ctx_dim: D.
        num_layers: L, of both blocks.
        num_input_tokens: k, tokens that a step reads.
        token_input_all_layers: whether every layer of the context block reads the token, or only the first, with
            widths that decrease from there on.
        blocks: context blocks that share D among them, each with a context of its own.
        tied: whether the embedding is the output matrix; there is no bias then.
        train_embedding: whether the embedding is trained.
    """

    replayable: ClassVar[bool] = False
    settled: Tensor
    """Whether the context blocks have been taught (phase one): a truth value, saved with the weights."""
    drawn_embedding: Tensor | None
    """What contexts are made of, where the embedding is trained; also saved."""

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        ctx_dim: int,
        num_layers: int,
        num_input_tokens: int = 1,
        token_input_all_layers: bool = True,
        blocks: int = 1,
        tied: bool = False,
        train_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.vocab_size, self.ctx_dim, self.num_input_tokens = vocab_size, ctx_dim, num_input_tokens
        inputs = num_input_tokens * embed_dim
        self.embedding = nn.Embedding(vocab_size, embed_dim, _weight=torch.empty(vocab_size, embed_dim))
        self.embedding.requires_grad_(train_embedding)
        self.embed_norm = nn.LayerNorm(embed_dim, eps=EPS)
        self.context_blocks = nn.ModuleList(
            ContextBlock(ctx_dim // blocks, inputs, num_layers, token_input_all_layers) for _ in range(blocks)
        ).requires_grad_(False)
        one = context_widths(ctx_dim // blocks, inputs, num_layers, token_input_all_layers)
        self.context_widths = [blocks * width for width in one]
        """Of each layer, all blocks together."""
        widths = token_widths(embed_dim, num_input_tokens, num_layers)
        self.token_layers = nn.ModuleList(
            Layer(context, below, below, width)
            for context, (below, width) in zip(self.context_widths, pairwise([inputs, *widths]), strict=True)
        )
        self.output = None if tied else _Linear(embed_dim, vocab_size)
        drawn = torch.empty(vocab_size, embed_dim) if train_embedding else None
        self.register_buffer("drawn_embedding", drawn)
        self.register_buffer("settled", torch.zeros((), dtype=torch.bool))

    def features(
        self, tokens_BT: Tensor, state: FixedPointState | Contexts | None = None
    ) -> tuple[Tensor, FixedPointState]:
        """As the protocol says; with `Contexts` nothing is read step by step."""
        tokens_TB = tokens_BT.t()
        if not isinstance(state, Contexts):
            state = state or self.start(len(tokens_BT), tokens_BT.device)
            state = Contexts(self.read(tokens_TB, state), state.before_KB)
        inputs_TBX = self._inputs(tokens_TB, state.before_KB, trained=True)
        features_TBF = inputs_TBX
        for layer, context_TBw in zip(
            self.token_layers, torch.split(state.contexts_TBW, self.context_widths, -1), strict=True
        ):
            features_TBF = layer(context_TBw, features_TBF, features_TBF)
        last_BD = state.contexts_TBW[-1, :, -self.ctx_dim :]
        return features_TBF, FixedPointState(last_BD, self._last(tokens_TB, state.before_KB))

    def features_of_stream(
        self, tokens_BT: Tensor, state: FixedPointState | None = None
    ) -> tuple[Tensor, FixedPointState]:
        """As `features`, but each row continues the one before it, and the first one the state of a single sequence."""
        rows, steps = tokens_BT.shape
        tokens_N1, state = tokens_BT.reshape(-1, 1), state or self.start(1, tokens_BT.device)
        known = Contexts(self.read_stream(tokens_N1[:, 0], state)[:, None], state.before_KB)
        features_N1F, state = self.features(tokens_N1.t(), known)
        return features_N1F.view(rows, steps, -1).transpose(0, 1), state

    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, E] and bias [V] of the output layer; no bias where it is tied."""
        return (self.embedding.weight, None) if self.output is None else (self.output.weight, self.output.bias)

    @torch.no_grad()
    def inspect(self, tokens_BT: Tensor) -> Signals:
        """As the protocol says; every row is read from the start of a text."""
        contexts_TBW = self.read(tokens_BT.t(), self.start(len(tokens_BT), tokens_BT.device))
        contexts_ND = contexts_TBW[tokens_BT.t() != 0][:, -self.ctx_dim :]
        return Signals(None, contexts_ND.norm(dim=1).mean().item(), effective_rank(contexts_ND))

    def start(self, batch: int, device: torch.device) -> FixedPointState:
        """The state at the start of texts."""
        context_BD = self.embed_norm.weight.new_zeros(batch, self.ctx_dim)
        before_KB = torch.full((self.num_input_tokens - 1, batch), -1, dtype=torch.long, device=device)
        return FixedPointState(context_BD, before_KB)

    @torch.no_grad()
    def read(self, tokens_TB: Tensor, state: FixedPointState) -> Tensor:
        """The contexts of all layers after each token, [T, B, W], in the weights' own precision."""
        with torch.autocast(tokens_TB.device.type, enabled=False):
            return scan_rows(self.context_blocks, self.context_inputs(tokens_TB, state.before_KB), state.context_BD)

    @torch.no_grad()
    def read_stream(self, tokens_N: Tensor, state: FixedPointState) -> Tensor:
        """The same for one long text, [N, W], up to rounding, but many times as fast."""
        inputs_NX = self.context_inputs(tokens_N[:, None], state.before_KB)[:, 0]
        with torch.autocast(tokens_N.device.type, enabled=False):
            return scan_stream(self.context_blocks, inputs_NX, state.context_BD[0])

    def step(self, context_ND: Tensor, inputs_NX: Tensor) -> Tensor:
        """The contexts after one token each, [N, D], by all blocks; differentiable."""
        chunks_NDs = context_ND.chunk(len(self.context_blocks), 1)
        blocks = zip(self.context_blocks, chunks_NDs, strict=True)
        return torch.cat([block(chunk_Nd, inputs_NX) for block, chunk_Nd in blocks], 1)

    @torch.no_grad()
    def context_inputs(self, tokens_TB: Tensor, before_KB: Tensor) -> Tensor:
        """What the context blocks read beside the context, [T, B, k E]."""
        return self._inputs(tokens_TB, before_KB, trained=False)

    @torch.no_grad()
    def take_embedding(self, weight_VE: Tensor) -> None:
        """Begin with an embedding from elsewhere."""
        self.embedding.weight.copy_(weight_VE)
        if self.drawn_embedding is not None:
            self.drawn_embedding.copy_(weight_VE)

    def _inputs(self, tokens_TB: Tensor, before_KB: Tensor, trained: bool) -> Tensor:
        table_VE = self.embedding.weight
        if not trained and self.drawn_embedding is not None:
            table_VE = self.drawn_embedding
        ids_SB = torch.cat([before_KB, tokens_TB])
        vectors_SBE = F.embedding(ids_SB.clamp(min=0), table_VE)
        gain, bias = (self.embed_norm.weight, self.embed_norm.bias) if trained else (None, None)
        vectors_SBE = F.layer_norm(vectors_SBE, vectors_SBE.shape[2:], gain, bias, EPS)
        if self.num_input_tokens == 1:
            return vectors_SBE
        vectors_SBE = vectors_SBE * (ids_SB >= 0)[..., None]
        steps = len(tokens_TB)
        return torch.cat([vectors_SBE[ago : ago + steps] for ago in range(self.num_input_tokens)], dim=-1)

    def _last(self, tokens_TB: Tensor, before_KB: Tensor) -> Tensor:
        return torch.cat([before_KB, tokens_TB])[len(tokens_TB) :]
