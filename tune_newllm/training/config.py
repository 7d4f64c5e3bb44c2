"""How a model is trained, as frozen dataclasses that refuse impossible values when they are made.

`Configuration` is the whole of one trial: corpus, model and training. Plain standard-library dataclasses, so that a
checkpoint written as JSON can be read back with nothing but `Configuration.to_dict`'s keys.
"""

import dataclasses
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tune_newllm.data.config import CorpusConfig
from tune_newllm.models.config import ModelConfig
from tune_newllm.training.checks import one_of, positive, require, whole
from tune_newllm.training.clip import ClipConfig
from tune_newllm.training.rules import sde_adam
from tune_newllm.training.schedules import LRScheduleConfig

__all__ = ["ClipConfig", "Configuration", "EarlyStoppingConfig", "LRScheduleConfig", "TrainingConfig"]

LRRule = Literal["none", "sqrt", "linear", "original", "sqrt-sde"]
LRSizeRule = Literal["none", "original"]
Optimizer = Literal["adam", "adamw", "sgd", "muon"]
Decay = Literal["matrices", "all"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
_FORBID_UNKNOWN_KEYS = {"extra": "forbid"}


@dataclass(frozen=True)
class EarlyStoppingConfig:
    """Stop after `patience` epochs in a row that did not lower val_loss by at least `min_delta` (nats per token).

    Raises:
        ValueError: patience below 1 or a negative min_delta.
    """

    patience: int = 10
    min_delta: float = 0.001

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN_KEYS

    def __post_init__(self) -> None:
        require(whole(self.patience), "early_stopping.patience must be a whole number above 0", self.patience)
        require(0 <= self.min_delta < math.inf, "early_stopping.min_delta must not be negative", self.min_delta)

    def spent(self, losses: Iterable[float]) -> bool:
        """Whether patience is over after epochs of these losses (original research, early stopping)."""
        # Not always the lowest so far: one that is lower by less than min_delta is no improvement to compare with.
        best, bad = math.inf, 0
        for loss in losses:
            best, bad = (best, bad + 1) if loss > best - self.min_delta else (loss, 0)
        return bad >= self.patience


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    Raises:
        ValueError: a value outside its range, or two that exclude each other.
    """

    lr: float = 1e-3
    """Peak rate at `batch_size`; with an `lr_rule` at batch 32, which the rule scales."""
    batch_size: int = 32
    epochs: int = 10
    optimizer: Optimizer = "adam"
    beta1: float = 0.9
    """Adam's first beta; the momentum of SGD and Muon."""
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay: Decay = "matrices"
    """What `weight_decay` touches: the matrices with the embedding, but neither biases nor layer norm; or all."""
    lr_schedule: LRScheduleConfig = field(default_factory=LRScheduleConfig)
    lr_rule: LRRule = "none"
    lr_size_rule: LRSizeRule = "none"
    """With `original`, `lr` is the rate of a model of 2,739,432 parameters."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    early_stopping: EarlyStoppingConfig | None = field(default_factory=EarlyStoppingConfig)
    precision: Precision = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    """Most sequences in one forward pass; larger batches accumulate gradients."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN_KEYS

    def __post_init__(self) -> None:
        require(positive(self.lr), "lr must be a finite number above 0", self.lr)
        require(whole(self.batch_size), "batch_size must be a whole number above 0", self.batch_size)
        require(whole(self.epochs), "epochs must be a whole number above 0", self.epochs)
        one_of(Optimizer, "optimizer", self.optimizer)
        require(0 <= self.beta1 < 1, "beta1 must be at least 0 and below 1", self.beta1)
        require(0 <= self.beta2 < 1, "beta2 must be at least 0 and below 1", self.beta2)
        require(positive(self.eps), "eps must be a finite number above 0", self.eps)
        require(0 <= self.weight_decay < math.inf, "weight_decay must not be negative", self.weight_decay)
        one_of(Decay, "decay", self.decay)
        one_of(LRRule, "lr_rule", self.lr_rule)
        one_of(LRSizeRule, "lr_size_rule", self.lr_size_rule)
        one_of(Precision, "precision", self.precision)
        if self.micro_batch != "auto":
            require(whole(self.micro_batch), "micro_batch must be auto or a whole number above 0", self.micro_batch)
        known = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device)
        require(known is not None, "device must be auto, cpu, mps, cuda or cuda:N", self.device)
        require(self.seed == 0 or whole(self.seed), "seed must be a whole number from 0 on", self.seed)
        self._require_that_they_fit()

    def _require_that_they_fit(self) -> None:
        if self.lr_schedule.by == "epoch" and self.lr_schedule.warmup is not None:
            rule = f"lr_schedule.warmup must be below the {self.epochs} epochs of the run"
            require(self.lr_schedule.warmup < self.epochs, rule, self.lr_schedule.warmup)
        if self.lr_rule == "sqrt-sde":
            adaptive = self.optimizer in ("adam", "adamw")
            require(adaptive, "optimizer must be adam or adamw with lr_rule sqrt-sde", self.optimizer)
            sde_adam(self.beta1, self.beta2, self.eps, self.batch_size)


@dataclass(frozen=True)
class Configuration:
    """Everything that decides one training run, and so what a checkpoint must carry to be reproduced."""

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN_KEYS

    def to_dict(self) -> dict[str, Any]:
        """Nested dict of JSON types: dataclasses become dicts, tuples lists."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self))
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
    def __post_init__(self) -> None:
        if self.corpus.windowing == "stream" and self.model.family != "fixed_point":
            raise ValueError(
                "corpus.windowing stream is for model.family fixed_point, which carries its state from row to row, got "
                f"{self.model.family}: take windowing complete"
            )
        if self.model.family == "gpt2" and self.corpus.window > self.model.num_positions + 1:
            raise ValueError(
                f"corpus.window must be at most {self.model.num_positions + 1} in the family gpt2, one more than "
                f"model.num_positions, got {self.corpus.window}: "
                f"set model.num_positions to {self.corpus.window - 1} or more"
            )

