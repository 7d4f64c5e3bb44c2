"""The settings of a model, validated where they are made."""

from dataclasses import dataclass
from typing import ClassVar, Literal

_CHOICES = {
    "family": ("context_vector", "gpt2"),
    "init": ("original", "he", "orthogonal"),
    "ffn": ("plain", "residual"),
}


@dataclass(frozen=True)
class ModelConfig:
    """Which model to build and how large.

    What a family has no use for it does not read: `gpt2` neither `ctx_dim`, `ffn` nor `init` (`gpt2.draw` is its own).

    Raises:
        ValueError: a field breaks its rule; the message names the field, the rule and what was got.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    family: Literal["context_vector", "gpt2"] = "context_vector"
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

    def __post_init__(self) -> None:
        for name in ("embed_dim", "hidden_dim", "ctx_dim", "num_layers", "num_heads", "num_positions"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"model.{name} must be a whole number of at least 1, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {self.dropout!r}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"model.{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        if not isinstance(self.tied, bool):
            raise ValueError(f"model.tied must be true or false, got {self.tied!r}")
        if self.family == "gpt2" and self.embed_dim % self.num_heads:
            raise ValueError(
                f"model.num_heads must divide model.embed_dim ({self.embed_dim}) in the family gpt2, "
                f"got {self.num_heads!r}"
            )


def parameter_count(config: ModelConfig, vocab_size: int) -> int:
    """Number of scalars, by formula (original research, parameter counts) and without building anything."""
    return _COUNTS[config.family](config, vocab_size)


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


_COUNTS = {"context_vector": _context_vector, "gpt2": _gpt2}
