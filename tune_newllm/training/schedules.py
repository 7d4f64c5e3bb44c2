"""Where a run stands, and the course of its learning rate from there."""

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

from tune_newllm.training.checks import one_of, positive, require, whole

Unit = Literal["share", "epoch", "step", "tokens"]
"""What a run's course is counted in: its share from 0 to 1, epochs, optimizer steps or training targets."""
LRScheduleName = Literal["constant", "linear", "cosine", "step", "one-cycle"]

ONE_CYCLE_START, ONE_CYCLE_WARMUP = 1 / 25, 0.3
_ROUNDING = 1e-9
"""A boundary missed by less than this was missed by rounding: 0.3 / 0.1 is less than 3."""


class Position(NamedTuple):
    """Where a run stands before an optimizer step."""

    step: int
    """Optimizer steps taken so far."""
    steps_per_epoch: int
    epochs: int
    """Epochs that the course is laid out over: those of the whole run, unless it was given more later."""
    tokens: int
    """Training targets seen so far."""
    tokens_per_epoch: int

    def at(self, unit: Unit) -> float:
        """How far the run is."""
        if unit == "tokens":
            return self.tokens
        return self.step if unit == "step" else self.step / self._steps_in_one(unit)

    def end(self, unit: Unit) -> float:
        """How far it is when all its epochs are over."""
        if unit == "tokens":
            return self.epochs * self.tokens_per_epoch
        return self.epochs * self.steps_per_epoch / self._steps_in_one(unit)

    def within(self, stage: "LRStage") -> "Position":
        """The same place, counted from the beginning of a stage and in a course as long as that."""
        step, tokens = stage.after * self.steps_per_epoch, stage.after * self.tokens_per_epoch
        return self._replace(step=self.step - step, tokens=self.tokens - tokens, epochs=stage.epochs)

    def _steps_in_one(self, unit: Unit) -> int:
        return {"step": 1, "epoch": self.steps_per_epoch}.get(unit, self.epochs * self.steps_per_epoch)


@dataclass(frozen=True)
class LRScheduleConfig:
    """Course of the learning rate. `lr_at` has the formulas.

    `warmup`, `length` and `every` are counted in units of `by`. A field is read only by the schedules named beside it,
    so that a search may vary `name` alone.

    Raises:
        ValueError: a value outside its range, or two that exclude each other.
    """

    name: LRScheduleName = "constant"
    warmup: float | None = None
    """All: how long the rate rises to its peak. None: not at all, and with one-cycle 0.3 of the length."""
    final: float = 0.0
    """Linear, cosine, one-cycle: the share of the peak at which they end."""
    by: Unit = "share"
    length: float | None = None
    """All but constant: where the decay ends, from the start of the run. None: with the run."""
    restarts: int = 0
    """Cosine: how often it starts again from the peak; all its cycles are equally long."""
    every: float | None = None
    """Step: how far apart the drops are. None: a third of the length."""
    factor: float = 0.5
    """Step: what a drop multiplies the rate by."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        one_of(LRScheduleName, "lr_schedule.name", self.name)
        one_of(Unit, "lr_schedule.by", self.by)
        longest = 1.0 if self.by == "share" else math.inf
        if self.warmup is not None:
            rule = "be a share with 0 <= warmup < 1" if self.by == "share" else "be a finite number from 0 on"
            require(0 <= self.warmup < longest, f"lr_schedule.warmup must {rule}", self.warmup)
        require(0 <= self.final <= 1, "lr_schedule.final must be a share with 0 <= final <= 1", self.final)
        for name, value in (("length", self.length), ("every", self.every)):
            if value is not None:
                rule = "be a share above 0 and at most 1" if self.by == "share" else "be a finite number above 0"
                require(positive(value) and value <= longest, f"lr_schedule.{name} must {rule}", value)
        require(self.restarts == 0 or whole(self.restarts), "lr_schedule.restarts must be 0 or more", self.restarts)
        require(0 < self.factor <= 1, "lr_schedule.factor must be above 0 and at most 1", self.factor)
        self._require_that_they_fit()

    def _require_that_they_fit(self) -> None:
        if self.name == "constant" or self.warmup is None:
            return
        length = 1.0 if self.length is None and self.by == "share" else self.length
        if length is not None:
            require(
                self.warmup < length, f"lr_schedule.warmup must be below lr_schedule.length {length:g}", self.warmup
            )
        every = length / 3 if self.every is None and length is not None else self.every
        if self.name == "step" and every is not None:
            rule = f"lr_schedule.warmup must be over by the first drop at lr_schedule.every {every:g}"
            require(self.warmup <= every, rule, self.warmup)


@dataclass(frozen=True)
class LRStage:
    """A course of the learning rate that takes the place of the one before it when a run is given more epochs.

    It begins after the first `after` epochs of the run and is laid out over `epochs` from there; should the run become
    longer still, the rate stays where it is then. `lr` goes through the run's scaling rules as `training.lr` does.

    Raises:
        ValueError: a value outside its range.
    """

    after: int
    epochs: int
    lr: float
    lr_schedule: LRScheduleConfig = field(default_factory=LRScheduleConfig)

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        require(self.after == 0 or whole(self.after), "lr_stages.after must be a whole number from 0 on", self.after)
        require(whole(self.epochs), "lr_stages.epochs must be a whole number above 0", self.epochs)
        require(positive(self.lr), "lr_stages.lr must be a finite number above 0", self.lr)
        if self.lr_schedule.by == "epoch" and self.lr_schedule.warmup is not None:
            rule = f"lr_schedule.warmup must be below the {self.epochs} epochs that the schedule is laid out over"
            require(self.lr_schedule.warmup < self.epochs, rule, self.lr_schedule.warmup)


def lr_at(position: Position, peak: float, schedule: LRScheduleConfig) -> float:
    """Learning rate of the optimizer step that follows a position.

    With x the position, W the warm-up, L the length (all in units of `by`), d one step and p = (x - W) / (L - W), the
    rate is, as a share of the peak:

    - warm-up, x < W: (x + d) / W, so that the first step already learns and the last one reaches the peak. One-cycle
      instead rises linearly from 1/25 at x = 0 to 1 at x = W (Smith & Topin 2017, arXiv 1708.07120; their opposite
      course of the momentum is left out).
    - constant: 1. After L the others stay where they are.
    - linear, one-cycle: 1 - (1 - final) p
    - cosine: final + (1 - final) (1 + cos(pi q)) / 2, where q runs from 0 to 1 once, or `restarts` + 1 times with warm
      restarts (Loshchilov & Hutter 2017, arXiv 1608.03983; equal cycles, their T_mult = 1).
    - step: factor^k after k drops at x = every, 2 every ... that lie before L.
    """
    x, end = position.at(schedule.by), position.end(schedule.by)
    length = end if schedule.length is None else schedule.length
    one_cycle = schedule.name == "one-cycle"
    default = ONE_CYCLE_WARMUP * length if one_cycle else 0.0
    warmup = default if schedule.warmup is None else schedule.warmup
    if x < warmup:
        if one_cycle:
            return peak * (ONE_CYCLE_START + (1 - ONE_CYCLE_START) * x / warmup)
        one_step = end / (position.epochs * position.steps_per_epoch)
        return peak * min(1.0, (x + one_step) / warmup)
    if schedule.name == "constant":
        return peak
    if schedule.name == "step":
        return peak * schedule.factor ** _drops(x, length, schedule.every or length / 3)
    # A run that is shorter than its warm-up has no decay to be in.
    progress = min(1.0, (x - warmup) / (length - warmup)) if length > warmup else 0.0
    if schedule.name == "cosine":
        return peak * (schedule.final + (1 - schedule.final) * _cosine(progress, schedule.restarts + 1))
    return peak * (1 - (1 - schedule.final) * progress)


def _drops(x: float, length: float, every: float) -> int:
    """Multiples of `every` from itself up to x, without those that do not lie before `length`."""
    return min(math.floor(x / every + _ROUNDING), math.ceil(length / every - _ROUNDING) - 1)


def _cosine(progress: float, cycles: int) -> float:
    """From 1 to 0 in half a cosine, as often as there are cycles."""
    cycle = min(math.floor(progress * cycles + _ROUNDING), cycles - 1)
    return (1 + math.cos(math.pi * max(0.0, progress * cycles - cycle))) / 2
