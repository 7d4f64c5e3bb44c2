"""How a model is trained, as frozen dataclasses that refuse impossible values when they are made.

`Configuration` is the whole of one trial: corpus, model and training. Plain standard-library dataclasses, so that a
checkpoint written as JSON can be read back with nothing but `Configuration.to_dict`'s keys.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from tune_newllm.data.config import CorpusConfig
from tune_newllm.models.config import ModelConfig
from tune_newllm.training.checks import one_of, positive, require, whole
from tune_newllm.training.clip import ClipConfig
from tune_newllm.training.fixed_point_config import FixedPointConfig
from tune_newllm.training.rules import sde_adam
from tune_newllm.training.schedules import LRScheduleConfig, LRStage

__all__ = ["ClipConfig", "Configuration", "EarlyStoppingConfig", "LRScheduleConfig", "LRStage", "TrainingConfig"]

LRRule = Literal["none", "sqrt", "linear", "original", "sqrt-sde"]
LRSizeRule = Literal["none", "original"]
Optimizer = Literal["adam", "adamw", "sgd", "muon"]
Decay = Literal["matrices", "all"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
DEVICE = r"auto|cpu|mps|cuda(:\d+)?"
"""What a device is called."""
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

    def spent(self, losses: Iterable[float], since: int = 0) -> bool:
        """Whether patience is over after epochs of these losses (original research, early stopping).

        Args:
            losses: of all epochs of the run.
            since: epochs before which none counts as bad, while the best of them stays to be improved on.
        """
        # Not always the lowest so far: one that is lower by less than min_delta is no improvement to compare with.
        best, bad = math.inf, 0
        for epoch, loss in enumerate(losses, 1):
            best, bad = (best, bad + (epoch > since)) if loss > best - self.min_delta else (loss, 0)
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
    schedule_epochs: int | None = None
    """Epochs that `lr_schedule` and `clip` are laid out over; after them both stay where they are. None: all. A run
    that is given more epochs keeps the number it was begun with."""
    lr_stages: tuple[LRStage, ...] = ()
    """Further courses of the learning rate, each from an epoch on; of a run that was given more epochs with a new
    schedule."""
    lr_rule: LRRule = "none"
    lr_size_rule: LRSizeRule = "none"
    """With `original`, `lr` is the rate of a model of 2,739,432 parameters."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    fixed_point: FixedPointConfig = field(default_factory=FixedPointConfig)
    """Phase one of `model.family` fixed_point; others have none."""
    early_stopping: EarlyStoppingConfig | None = field(default_factory=EarlyStoppingConfig)
    precision: Precision = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    """Most sequences in one forward pass; larger batches accumulate gradients."""
    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:N."""
    seed: int = 0
    shuffle: bool = True
    """Whether every epoch visits the windows in a new order; the original research's fixed-point training did not."""
    start: str | None = None
    """Folder of a checkpoint whose weights and tokenizer the training begins with; a relative path starts at the file
    that names it."""
    new_words: int = 0
    """So many of the corpus's most frequent words that `start` does not know get numbers and rows of their own."""

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN_KEYS

    def __post_init__(self) -> None:
        require(positive(self.lr), "lr must be a finite number above 0", self.lr)
        require(whole(self.batch_size), "batch_size must be a whole number above 0", self.batch_size)
        require(whole(self.epochs), "epochs must be a whole number above 0", self.epochs)
        if self.schedule_epochs is not None:
            require(whole(self.schedule_epochs), "schedule_epochs must be a whole number above 0", self.schedule_epochs)
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
        known = re.fullmatch(DEVICE, self.device)
        require(known is not None, "device must be auto, cpu, mps, cuda or cuda:N", self.device)
        require(isinstance(self.shuffle, bool), "shuffle must be true or false", self.shuffle)
        require(self.seed == 0 or whole(self.seed), "seed must be a whole number from 0 on", self.seed)
        words = self.new_words
        require(words == 0 or whole(words), "new_words must be a whole number from 0 on", words)
        require(words == 0 or self.start is not None, "new_words must be 0 without training.start", words)
        self._require_that_they_fit()

    @property
    def laid_out_over(self) -> int:
        """Epochs that `lr_schedule` and `clip` are laid out over."""
        return self.epochs if self.schedule_epochs is None else self.schedule_epochs

    def lr_stage(self, epoch: int) -> LRStage:
        """The course that the learning rate follows after so many finished epochs."""
        first = LRStage(0, self.laid_out_over, self.lr, self.lr_schedule)
        return next((stage for stage in reversed(self.lr_stages) if stage.after <= epoch), first)

    def out_of_patience(self, losses: Sequence[float]) -> bool:
        """Whether early stopping ends the run after epochs of these losses.

        A new schedule of the learning rate has all of its patience; what must be improved on is the best of all epochs.
        """
        stopping = self.early_stopping
        return stopping is not None and stopping.spent(losses, since=self.lr_stage(len(losses)).after)

    def _require_that_they_fit(self) -> None:
        if self.lr_schedule.by == "epoch" and self.lr_schedule.warmup is not None:
            rule = f"lr_schedule.warmup must be below the {self.laid_out_over} epochs of the run"
            require(self.lr_schedule.warmup < self.laid_out_over, rule, self.lr_schedule.warmup)
        afters = [0, *(stage.after for stage in self.lr_stages)]
        increasing = all(before < after for before, after in itertools.pairwise(afters))
        require(increasing, "lr_stages.after must be above 0 and increase from one to the next", afters[1:])
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
        if self.model.family == "fixed_point" and self.model.embedding == "gpt2" and self.corpus.tokenizer != "gpt2":
            raise ValueError(
                "corpus.tokenizer must be gpt2 with model.embedding gpt2, whose rows are those of GPT-2's pieces, got "
                f"{self.corpus.tokenizer}"
            )

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
