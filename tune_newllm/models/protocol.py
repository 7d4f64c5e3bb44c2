"""What every family of models offers: all that training steps, measuring and generating know of a model. Only what a
fixed-point model needs beside, phase one, contexts read before and rows that carry on, is asked for by its own class.

Shape suffixes: B sequences, T time steps, V vocabulary, F features (what the output layer reads).
"""

from abc import abstractmethod
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = Any
"""All that a model remembers of the tokens it has read; only its own family knows what it is."""
Init = Literal["original", "he", "orthogonal"]
"""Ways of drawing a model's first weights."""


class Signals(NamedTuple):
    """What shows how well a model uses its width; None where a family has no such thing."""

    dead_relu: float | None
    """Share of the L * H feed-forward units that are 0 at every position."""
    ctx_norm: float | None
    """Mean L2 norm of the contexts after each step."""
    ctx_rank: float | None
    """Effective rank of all contexts together, in dimensions: from 1 to C (or the number of contexts, if that is less),
    or 0 if they are all 0."""


class LanguageModel(nn.Module):
    """A causal language model with undefined weights: draw them or load a state before use."""

    replayable: ClassVar[bool] = True
    """Whether a pass of it may be recorded as a CUDA graph: it asks the device for nothing and draws random numbers
    from `dropout_generator` alone."""
    vocab_size: int
    dropout_generator: torch.Generator | None = None
    """Source of the dropout masks, on the model's device; None means torch's default generator."""

    def forward(self, tokens_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Read tokens and predict, at every position, the token that follows.

        Args:
            tokens_BT: token ids.
            state: what the tokens before have left; None means the start of a text.

        Returns:
            logits_BTV, and the state after the last token.
        """
        features_TBF, state = self.features(tokens_BT, state)
        return F.linear(features_TBF.transpose(0, 1), *self.head()), state

    @abstractmethod
    def features(self, tokens_BT: Tensor, state: State = None) -> tuple[Tensor, State]:
        """What the output layer reads after every token, [T, B, F], time first; and the state after the last token.

        Arguments as in `forward`; logits are an affine map of the features by `head`.
        """

    @abstractmethod
    def head(self) -> tuple[Tensor, Tensor | None]:
        """Weight [V, F] and bias [V] of the output layer."""

    @abstractmethod
    def inspect(self, tokens_BT: Tensor) -> Signals:
        """How the model uses its width in reading the tokens: without dropout, in the weights' own precision.

        Positions of padding (id 0) do not count.
        """


def is_quantised(weight: Tensor) -> bool:
    """Whether it is a tensor of a quantiser's own kind, with which only `F.linear` multiplies."""
    return type(weight.data) is not Tensor


def effective_rank(vectors_NC: Tensor) -> float:
    """exp(-sum p ln p), where p are the singular values of the matrix, not centred, divided by their sum; 0 for a
    matrix of zeros (original research, effective rank)."""
    if not vectors_NC.any():
        return 0.0
    singular = torch.linalg.svdvals(vectors_NC)
    return float(torch.special.entr(singular / singular.sum()).sum().exp())
