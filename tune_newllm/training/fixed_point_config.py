"""How the context blocks of the fixed-point family are taught before anything else is trained."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from tune_newllm.training.checks import one_of, positive, require, whole

Procedure = Literal["mended", "original"]


@dataclass(frozen=True)
class FixedPointConfig:
    """Phase one (original research, CVFP phase 1), which `training.fixed_point` describes.

    The first iteration reads all contexts. Each one after it teaches the blocks to give the contexts of the iteration
    before from disturbed contexts, while they stay spread out, and takes new contexts from them.

    Raises:
        ValueError: a value outside its range.
    """

    procedure: Procedure = "mended"
    """`original` does what the original did: one step of Adam an iteration, from gradients that count a short batch in
    full; a spread that weighs less the larger the batch; contexts that are a step old and disturbed; the last context
    of all before the first token. `mended` takes a step a batch, of rows in a new order each time, and takes
    undisturbed contexts afterwards; before the first token there is 0."""
    max_iterations: int = 40
    """With the reading of the first; 1 leaves the blocks as they were drawn."""
    min_iterations: int = 5
    threshold: float = 0.03
    """A context has converged if its mean squared change from one iteration to the next is below."""
    stop_share: float = 0.95
    """Share of converged contexts that ends it."""
    noise: float = 0.1
    """Standard deviation of the disturbance."""
    lr: float = 2e-3
    """Of Adam."""
    batch_tokens: int = 8000
    """Tokens of a batch, in whole rows."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    diversity: float = 0.6
    """Weight of the spread in the loss; the rest is that of the mean squared error."""
    validation_passes: int = 4
    """Readings of the validation rows, each from where the one before has ended; at least 3, or 0 for none."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        one_of(Procedure, "fixed_point.procedure", self.procedure)
        for name in ("max_iterations", "min_iterations", "batch_tokens"):
            require(
                whole(getattr(self, name)), f"fixed_point.{name} must be a whole number above 0", getattr(self, name)
            )
        for name in ("threshold", "lr", "clip"):
            require(
                positive(getattr(self, name)),
                f"fixed_point.{name} must be a finite number above 0",
                getattr(self, name),
            )
        require(0 < self.stop_share <= 1, "fixed_point.stop_share must be above 0 and at most 1", self.stop_share)
        require(0 <= self.noise < float("inf"), "fixed_point.noise must not be negative", self.noise)
        require(0 <= self.diversity < 1, "fixed_point.diversity must be at least 0 and below 1", self.diversity)
        passes = self.validation_passes
        require(
            passes == 0 or (whole(passes) and passes > 2),
            "fixed_point.validation_passes must be 0 or at least 3",
            passes,
        )
