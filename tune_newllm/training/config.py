"""How a model is trained, as frozen dataclasses that refuse impossible values when they are made.

`Configuration` is the whole of one trial: corpus, model and training. Plain standard-library dataclasses, so that a
checkpoint written as JSON can be read back with nothing but `Configuration.to_dict`'s keys.
"""

import dataclasses
import itertools
import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from tune_newllm.data.config import CorpusConfig
from tune_newllm.models.config import ModelConfig

ClipSchedule = Literal["none", "constant", "original", "piecewise"]
LRScheduleName = Literal["constant", "cosine"]
LRRule = Literal["none", "sqrt", "linear"]
Optimizer = Literal["adam", "adamw"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
_FORBID_UNKNOWN_KEYS = {"extra": "forbid"}


@dataclass(frozen=True)
class ClipConfig:
    """Limit on the global L2 norm of the gradient.

    `none`: no limit. `constant`: `norm` always. `original`: 0.5, from the 11th epoch 1.0, from the 31st 2.0 (original
    research). `piecewise`: `table` of (0-based epoch, norm) rows, each valid from its epoch on; the first is epoch 0.
    `norm` and `table` are read only by the schedule they belong to, so that a search may vary `schedule` alone.

    Raises:
        ValueError: a norm or a table breaks these rules.
    """

    schedule: ClipSchedule = "constant"
    norm: float = 1.0
    by: Literal["epoch"] = "epoch"
    table: tuple[tuple[int, float], ...] | None = None

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN_KEYS

    def __post_init__(self) -> None:
        _one_of(ClipSchedule, "clip.schedule", self.schedule)
        _one_of(Literal["epoch"], "clip.by", self.by)
        _require(_positive(self.norm), "clip.norm must be a finite number above 0", self.norm)
        if self.table is not None:
            epochs = [epoch for epoch, _ in self.table]
            increasing = all(before < after for before, after in itertools.pairwise(epochs))
            _require(epochs[:1] == [0] and increasing, "clip.table must start at epoch 0 and increase", self.table)
            _require(all(_positive(norm) for _, norm in self.table), "clip.table norms must be above 0", self.table)
        elif self.schedule == "piecewise":
            raise ValueError("clip.table must be given when clip.schedule is piecewise, e.g. [[0, 0.5], [10, 1.0]]")


@dataclass(frozen=True)
class LRScheduleConfig:
    """Course of the learning rate over all optimizer steps of a run.

    `warmup` is the share of all steps over which the rate rises linearly to its peak; `final` is the share of the peak
    at which `cosine` ends (`constant` stays at the peak and does not read it).

    Raises:
        ValueError: a share outside its range.
    """

    name: LRScheduleName = "constant"
    warmup: float = 0.0
    final: float = 0.0

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN_KEYS

    def __post_init__(self) -> None:
        _one_of(LRScheduleName, "lr_schedule.name", self.name)
        _require(0 <= self.warmup < 1, "lr_schedule.warmup must be a share with 0 <= warmup < 1", self.warmup)
        _require(0 <= self.final <= 1, "lr_schedule.final must be a share with 0 <= final <= 1", self.final)


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
        _require(_whole(self.patience), "early_stopping.patience must be a whole number above 0", self.patience)
        _require(0 <= self.min_delta < math.inf, "early_stopping.min_delta must not be negative", self.min_delta)


@dataclass(frozen=True)
class TrainingConfig:
    """One training run.

    `lr` is the peak rate at `batch_size`, or with an `lr_rule` the rate at batch 32 that the rule scales.
    `micro_batch` is the largest number of sequences in one forward pass; larger batches accumulate gradients.
    `device` is auto, cpu, mps, cuda or cuda:N.

    Raises:
        ValueError: a value outside its range.
    """

    lr: float = 1e-3
    batch_size: int = 32
    epochs: int = 10
    optimizer: Optimizer = "adam"
    weight_decay: float = 0.0
    lr_schedule: LRScheduleConfig = field(default_factory=LRScheduleConfig)
    lr_rule: LRRule = "none"
    clip: ClipConfig = field(default_factory=ClipConfig)
    early_stopping: EarlyStoppingConfig | None = field(default_factory=EarlyStoppingConfig)
    precision: Precision = "auto"
    micro_batch: int | Literal["auto"] = "auto"
    device: str = "auto"
    seed: int = 0

    __pydantic_config__: ClassVar[dict[str, str]] = _FORBID_UNKNOWN_KEYS

    def __post_init__(self) -> None:
        _require(_positive(self.lr), "lr must be a finite number above 0", self.lr)
        _require(_whole(self.batch_size), "batch_size must be a whole number above 0", self.batch_size)
        _require(_whole(self.epochs), "epochs must be a whole number above 0", self.epochs)
        _one_of(Optimizer, "optimizer", self.optimizer)
        _require(0 <= self.weight_decay < math.inf, "weight_decay must not be negative", self.weight_decay)
        _one_of(LRRule, "lr_rule", self.lr_rule)
        _one_of(Precision, "precision", self.precision)
        if self.micro_batch != "auto":
            _require(_whole(self.micro_batch), "micro_batch must be auto or a whole number above 0", self.micro_batch)
        known = re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device)
        _require(known is not None, "device must be auto, cpu, mps, cuda or cuda:N", self.device)
        _require(self.seed == 0 or _whole(self.seed), "seed must be a whole number from 0 on", self.seed)


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


def _positive(value: float) -> bool:
    return 0 < value < math.inf


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63


def _one_of(choices: Any, name: str, got: object) -> None:
    allowed = get_args(choices)
    _require(got in allowed, f"{name} must be one of {', '.join(allowed)}", got)


def _require(holds: bool, rule: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{rule}, got {got!r}")
