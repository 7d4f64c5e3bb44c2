"""The settings of a model, validated where they are made."""

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class ModelConfig:
    """Which model to build and how large.

    Raises:
        ValueError: a field breaks its rule; the message names the field, the rule and what was got.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    family: Literal["context_vector"] = "context_vector"
    embed_dim: int = 256
    """E, length of a token's embedding."""
    hidden_dim: int = 512
    """H, width of every feed-forward layer."""
    ctx_dim: int = 256
    """C, length of the context vector."""
    num_layers: int = 6
    """L, number of feed-forward layers."""
    dropout: float = 0.1
    """Probability that a hidden unit is zeroed in training."""
    init: Literal["original", "he"] = "he"
    """`he` keeps the variance of the signal through the layers; `original` is the original research's N(0, 0.02^2)."""

    def __post_init__(self) -> None:
        for name in ("embed_dim", "hidden_dim", "ctx_dim", "num_layers"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"model.{name} must be a whole number of at least 1, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be at least 0 and below 1, got {self.dropout!r}")
        if self.family != "context_vector":
            raise ValueError(f"model.family must be context_vector, got {self.family!r}")
        if self.init not in ("original", "he"):
            raise ValueError(f"model.init must be original or he, got {self.init!r}")
