"""The settings of a model, validated where they are made."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

_CHOICES = {
    "family": ("context_vector", "fixed_point", "gpt2"),
    "init": ("original", "he", "orthogonal"),
    "ffn": ("plain", "residual"),
    "embedding": ("random", "gpt2"),
}
_SIZES = ("embed_dim", "hidden_dim", "ctx_dim", "num_layers")
_WHOLE = (*_SIZES, "num_heads", "num_positions", "num_input_tokens", "blocks")
GPT2_EMBED_DIM = 768


@dataclass(frozen=True)
class ModelConfig:
    """Which model to build and how large.

    What a family has no use for it does not read: `gpt2` neither `ctx_dim`, `ffn` nor `init` (`gpt2.draw` is its own),
    `fixed_point` neither `hidden_dim`, `dropout` nor `ffn`.

    Raises:
        ValueError: a field breaks its rule; the message names the field, the rule and what was got.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    family: Literal["context_vector", "fixed_point", "gpt2"] = "context_vector"
    embed_dim: int = 256
    """E, length of a token's embedding."""
    hidden_dim: int = 512
    """H, width of every feed-forward layer."""
    ctx_dim: int = 256
    """C, length of the context vector."""
    num_layers: int = 6
    """L, number of feed-forward layers."""
    dropout: float = 0.0
    """Probability that a hidden unit is zeroed in training, after every layer: in a deep `plain` stack the noise of all
    layers multiplies, and nothing is learnt (the original research used 0.1 at up to 12 layers)."""
    init: Literal["original", "he", "orthogonal"] = "orthogonal"
    """How the first weights are drawn (`initial_weights.draw`): `orthogonal` for any depth, `he` for up to about 24
    layers, `original` for the original's tables."""
    ffn: Literal["plain", "residual"] = "plain"
    """`residual` adds every feed-forward layer after the first to what it read; no further parameters."""
    tied: bool = False
    """Whether the output matrix is the embedding, behind a projection from H to E where the two differ."""
    num_heads: int = 4
    """`gpt2`: attention heads, which share the embedding's length among them."""
    num_positions: int = 64
    """`gpt2`: most tokens that are attended to, and so one less than the longest window to train on."""
    num_input_tokens: int = 1
    """`fixed_point`: k, the tokens that a step reads, the last one and those before it."""
    token_input_all_layers: bool = True
    """`fixed_point`: whether every layer of the context block reads the token; if not, the first alone does, and the
    layers get narrower from C + k E to C."""
    blocks: int = 1
    """`fixed_point`: context blocks that share C among them; each is taught by its share of the tokens."""
    embedding: Literal["random", "gpt2"] = "random"
    """`fixed_point`: what the embedding begins with; GPT-2's goes with its tokenizer and E = 768."""
    train_embedding: bool = True
    """`fixed_point`: whether the embedding is trained; the contexts read it as it began all the same."""

    def __post_init__(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"model.{name} must be a whole number of at least 1, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {self.dropout!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"model.{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        for name in ("tied", "token_input_all_layers", "train_embedding"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"model.{name} must be true or false, got {getattr(self, name)!r}")
        if self.family == "gpt2" and self.embed_dim % self.num_heads:
            raise ValueError(
                f"model.num_heads must divide model.embed_dim ({self.embed_dim}) in the family gpt2, "
                f"got {self.num_heads!r}"
            )
        if self.family == "fixed_point":
            self._check_fixed_point()

    def _check_fixed_point(self) -> None:
        if self.num_input_tokens > 3:
            raise ValueError(f"model.num_input_tokens must be 1, 2 or 3, got {self.num_input_tokens}")
        if self.ctx_dim % self.blocks:
            raise ValueError(f"model.blocks must divide model.ctx_dim ({self.ctx_dim}), got {self.blocks}")
        if self.embedding == "gpt2" and self.embed_dim != GPT2_EMBED_DIM:
            raise ValueError(f"model.embed_dim must be {GPT2_EMBED_DIM} with embedding gpt2, got {self.embed_dim}")


def parameter_count(config: ModelConfig, vocab_size: int) -> int:
    """Number of scalars, by formula (original research, parameter counts) and without building anything."""
    return _COUNTS[config.family](config, vocab_size)


def frozen_count(config: ModelConfig, vocab_size: int) -> int:
    """How many of them are never trained along with the rest."""
    if config.family != "fixed_point":
        return 0
    inputs, one = config.num_input_tokens * config.embed_dim, config.ctx_dim // config.blocks
    widths = context_widths(one, inputs, config.num_layers, config.token_input_all_layers)
    count = 0
    for index, (below, width) in enumerate(pairwise([one, *widths])):
        read = inputs if config.token_input_all_layers or index == 0 else 0
        count += config.blocks * _layer(below + read, below, width)
    return count + (0 if config.train_embedding else vocab_size * config.embed_dim)


def _context_vector(config: ModelConfig, vocab_size: int) -> int:
    embed, hidden, ctx = config.embed_dim, config.hidden_dim, config.ctx_dim
    first_layer = (embed + ctx) * hidden + hidden
    further_layers = (config.num_layers - 1) * (hidden * hidden + hidden)
    output = hidden * vocab_size + vocab_size
    if config.tied:
        output = vocab_size + (hidden * embed if hidden != embed else 0)
    gates = 3 * (hidden * ctx + ctx)
    return vocab_size * embed + first_layer + further_layers + output + gates + 2 * ctx


def _gpt2(config: ModelConfig, vocab_size: int) -> int:
    embed, hidden = config.embed_dim, config.hidden_dim
    attention = embed * 3 * embed + 3 * embed + embed * embed + embed
    feed_forward = embed * hidden + hidden + hidden * embed + embed
    blocks = config.num_layers * (attention + feed_forward + 2 * 2 * embed)
    tables = (vocab_size * (1 if config.tied else 2) + config.num_positions) * embed
    return tables + blocks + 2 * embed


def context_widths(ctx_dim: int, input_dim: int, num_layers: int, all_layers: bool) -> list[int]:
    """Length after each layer of a context block (original research, CVFP model).

    Args:
        ctx_dim: D of this block.
        input_dim: k E.
        num_layers: L.
        all_layers: whether every layer reads the token.
    """
    if all_layers:
        return [ctx_dim] * num_layers
    widest = ctx_dim + input_dim
    return [widest - input_dim * index // num_layers for index in range(1, num_layers + 1)]


def token_widths(embed_dim: int, num_input_tokens: int, num_layers: int) -> list[int]:
    """Length after each layer of the token block: from k E down to E."""
    steps = range(1, num_layers + 1)
    return [num_input_tokens * embed_dim - (num_input_tokens - 1) * embed_dim * index // num_layers for index in steps]


def _fixed_point(config: ModelConfig, vocab_size: int) -> int:
    inputs, one = config.num_input_tokens * config.embed_dim, config.ctx_dim // config.blocks
    contexts = context_widths(one, inputs, config.num_layers, config.token_input_all_layers)
    tokens = token_widths(config.embed_dim, config.num_input_tokens, config.num_layers)
    count = frozen_count(replace(config, train_embedding=False), vocab_size) + 2 * config.embed_dim
    for context, (below, width) in zip(contexts, pairwise([inputs, *tokens]), strict=True):
        count += _layer(config.blocks * context + below, below, width)
    return count if config.tied else count + (config.embed_dim + 1) * vocab_size


def _layer(read: int, kept: int, width: int) -> int:
    """A layer of the fixed-point family: its product, its norm, and a projection where the length changes."""
    return (read + 1) * width + 2 * width + ((kept + 1) * width if kept != width else 0)


_COUNTS = {"context_vector": _context_vector, "fixed_point": _fixed_point, "gpt2": _gpt2}
