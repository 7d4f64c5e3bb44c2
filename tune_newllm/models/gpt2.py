"""GPT-2 from scratch, which has attention in place of a context vector (original research, TinyGPT2).

The blocks are transformers' own. The weights have the names of its `GPT2LMHeadModel`, which loads them as they are.

It attends to at most P = `num_positions` tokens. A longer text is read in windows of P tokens that overlap: each but
the first begins with the last P // 2 tokens of the one before, which are read again. So past the beginning every
prediction has at least P // 2 tokens before it, wherever a text is divided, and no token is read more than twice.

Shape suffixes: B sequences, T time steps, N tokens of the current window, V vocabulary, E embedding.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .protocol import Init, LanguageModel, Signals
from .torchao import load_torchao

if TYPE_CHECKING:
    from transformers import DynamicCache, GPT2Config

_BOS, _EOS = 2, 3


class Window(NamedTuple):
    """What has been read of a text: the state of the model."""

    tokens_BN: Tensor
    """Of the current window."""
    cache: "DynamicCache | None"
    """Their keys and values; None where they have to be read again."""


class GPT2(LanguageModel):
    """The model with undefined weights: draw them or load a state before use. Its state is a `Window`; one that was
    left in training is read again when it is passed on, because keys and values are not kept there.

    Args:
        config: transformers' own, as `gpt2_config` makes it.
    """

    replayable: ClassVar[bool] = False
    """Its dropout masks come from torch's default generator, which is lent the state of the model's own for a pass;
    that cannot be recorded."""

    def __init__(self, config: "GPT2Config") -> None:
        load_torchao()
        from transformers import GPT2Model

        super().__init__()
        self.vocab_size, self.positions = config.vocab_size, config.n_positions
        # Nothing is drawn on a device that holds no numbers.
        with torch.device("meta"):
            transformer = GPT2Model(config)
            head = None if config.tie_word_embeddings else nn.Linear(config.n_embd, config.vocab_size, bias=False)
        device = torch.get_default_device()
        self.transformer = transformer.to_empty(device=device)
        self.lm_head = None if head is None else head.to_empty(device=device)

    def features(self, tokens_BT: Tensor, state: Window | None = None) -> tuple[Tensor, Window]:
        """As the protocol says."""
        state = state or Window(tokens_BT[:, :0], None)
        read = []
        with self._dropout_from_own_generator(tokens_BT.device):
            while tokens_BT.shape[1]:
                if state.tokens_BN.shape[1] == self.positions:
                    state = Window(state.tokens_BN[:, self.positions - self.positions // 2 :], None)
                room = self.positions - state.tokens_BN.shape[1]
                features_BNE, state = self._read_on(tokens_BT[:, :room], state)
                read.append(features_BNE)
                tokens_BT = tokens_BT[:, room:]
        return torch.cat(read, dim=1).transpose(0, 1) if len(read) > 1 else read[0].transpose(0, 1), state

    def head(self) -> tuple[Tensor, None]:
        """Weight [V, E] of the output layer, which has no bias."""
        return (self.transformer.wte if self.lm_head is None else self.lm_head).weight, None

    def inspect(self, tokens_BT: Tensor) -> Signals:
        """It has neither contexts nor units that are 0 for good."""
        return Signals(dead_relu=None, ctx_norm=None, ctx_rank=None)

    def _read_on(self, tokens_BN: Tensor, state: Window) -> tuple[Tensor, Window]:
        """Read tokens for which the window has room: their features [B, N, E]."""
        from transformers import DynamicCache

        window_BN = torch.cat([state.tokens_BN, tokens_BN], dim=1)
        cache = None
        if not self.training:
            cache = DynamicCache() if state.cache is None else _fork(state.cache)
        unread_BN = window_BN if state.cache is None or cache is None else tokens_BN
        features_BNE = self._read(unread_BN, cache)
        return features_BNE[:, -tokens_BN.shape[1] :], Window(window_BN, cache)

    def _read(self, tokens_BN: Tensor, cache: "DynamicCache | None") -> Tensor:
        """What `GPT2Model.forward` does, without its search for padding and packed texts, which waits for the device.

        There is no mask for padding: it stands to the right of a text, and no position attends to a later one.
        """
        body, count = self.transformer, tokens_BN.shape[1]
        past = cache.get_seq_length() if cache is not None else 0
        places_N = torch.arange(past, past + count, device=tokens_BN.device)
        mask = None
        if past and count > 1:
            mask = torch.ones(count, past + count, dtype=torch.bool, device=tokens_BN.device).tril(past)[None, None]
        hidden_BNE = body.drop(body.wte(tokens_BN) + body.wpe(places_N))
        for block in body.h:
            hidden_BNE = block(hidden_BNE, cache, mask)
        features_BNE: Tensor = body.ln_f(hidden_BNE)
        return features_BNE

    @contextmanager
    def _dropout_from_own_generator(self, device: torch.device) -> Iterator[None]:
        """Let torch's default generator, the only one that its dropout knows, stand in for `dropout_generator`."""
        own = self.dropout_generator
        if own is None or not self.training:
            yield
            return
        default = _default_generator(device)
        before = default.get_state()
        default.set_state(own.get_state())
        try:
            yield
        finally:
            own.set_state(default.get_state())
            default.set_state(before)


def gpt2_config(
    vocab_size: int,
    embed_dim: int,
    hidden_dim: int,
    num_layers: int,
    num_heads: int,
    num_positions: int,
    dropout: float,
    tied: bool,
) -> "GPT2Config":
    """transformers' configuration of a GPT-2 with these sizes."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=vocab_size,
        n_positions=num_positions,
        n_embd=embed_dim,
        n_layer=num_layers,
        n_head=num_heads,
        n_inner=hidden_dim,
        # The function that GPT-2 calls gelu_new, as one operation instead of eight.
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=_BOS,
        eos_token_id=_EOS,
        tie_word_embeddings=tied,
        # Without a mask this one alone looks at no later token. transformers does not declare the argument.
        attn_implementation="sdpa",  # type: ignore[call-arg]
    )


@torch.no_grad()
def draw(model: GPT2, init: Init, generator: torch.Generator) -> None:
    """Draw all weights as GPT-2 does, whatever `init` says: matrices and tables from N(0, 0.02^2), those that add to
    the residual stream from N(0, 0.02^2 / (2 L)) with L layers; all biases become 0, the layer norms the identity."""
    layers = len(model.transformer.h)
    for name, weight in model.named_parameters():
        if weight.ndim == 1:
            weight.fill_(1 if ".ln_" in name and name.endswith("weight") else 0)
        else:
            scale = (2 * layers) ** -0.5 if name.endswith("c_proj.weight") else 1.0
            weight.normal_(0, 0.02 * scale, generator=generator)


def _fork(cache: "DynamicCache") -> "DynamicCache":
    """A cache that grows without the other one's knowledge; it shares what is there."""
    fork = copy.copy(cache)
    fork.layers = [copy.copy(layer) for layer in cache.layers]
    return fork


def _default_generator(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator
