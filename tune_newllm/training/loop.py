"""The training loop, the only one: `fit` yields the result of one epoch at a time."""

import math
import time
from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tune_newllm.errors import DivergedError
from tune_newllm.models import Signals
from tune_newllm.models.fixed_point import FixedPointModel
from tune_newllm.training import signals
from tune_newllm.training.batches import (
    ContextRows,
    ResidentWindows,
    Rows,
    Windows,
    dropout_seed,
    epoch_order,
    to_tensors,
)
from tune_newllm.training.clip import clip_limit
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import peak_memory_bytes, reset_peak_memory
from tune_newllm.training.fixed_point import prepared
from tune_newllm.training.memory import unless_out_of_memory
from tune_newllm.training.metrics import EpochResult, Evaluation, evaluate
from tune_newllm.training.optim import effective_lr, model_size
from tune_newllm.training.schedules import Position, lr_at
from tune_newllm.training.state import TrainState
from tune_newllm.training.step import Step, apply_gradients, check_finite, compute_gradients, read_all, train_step

__all__ = ["EpochResult", "Evaluation", "evaluate", "fit", "steps_per_epoch", "train_step"]


UNREAD_STEPS = 32
"""Most steps whose losses are read together on an accelerator, where each reading waits for all the work before it. A
divergence is noticed so many steps late at most."""


def steps_per_epoch(windows: int, batch_size: int) -> int:
    """Optimizer steps of one epoch; a short last batch is used."""
    return math.ceil(windows / batch_size)


def fit(
    state: TrainState,
    train: Windows,
    validation: Windows,
    config: TrainingConfig,
    carries: bool = False,
    folder: Path | None = None,
) -> Iterator[EpochResult]:
    """Train from where `state` stands until it is finished; a fixed-point model's phase one comes before the epochs.

    Yields one result per epoch. By then the state has taken it in, so the caller may save it, and may stop there.

    Args:
        state: advanced in place; `state.finished` says in the end why it ended.
        train: token ids [N, window].
        validation: likewise.
        config: the one that the state was made with.
        carries: whether each row goes on where the one before ends, which only a fixed-point model can read.
        folder: of the run, as `fixed_point.prepared` has a use for it.

    Raises:
        DivergedError: a loss or, outside fp16, a gradient norm is not finite. The state keeps the last good epoch's
            results; its weights are spoiled.
        DegenerateError: phase one came to nothing, as `fixed_point.prepared` says.
        InfeasibleError: memory does not suffice for one sequence, or not for the optimizer.
    """
    if state.finished is not None:
        return
    words, started = signals.count_words(train), time.perf_counter()
    sample_BT, _ = to_tensors(validation[: signals.INSPECTED_ROWS], state.device)
    reset_peak_memory(state.device)
    rows = _read_rows(state, train, validation, config, carries, folder)
    while state.finished is None:
        begun = time.perf_counter()
        totals = _train_epoch(state, rows.train, config, words)
        totals.seconds = time.perf_counter() - begun
        scores = evaluate(state.model, rows.validation, device=state.device, legacy_batch=config.batch_size)
        if not math.isfinite(scores.loss):
            raise DivergedError(state.epoch + 1, state.step, scores.loss)
        result = _epoch_result(state, totals, scores, sample_BT, started)
        result = replace(result, fixed_point_iterations=rows.iterations, fixed_point_converged=rows.converged)
        state.record(result, config)
        yield result
        started = time.perf_counter()
        reset_peak_memory(state.device)


class _Rows(NamedTuple):
    """What the epochs read, and what a fixed-point model's phase one says of itself in each of them."""

    train: Rows
    validation: Windows | ContextRows
    iterations: int | None = None
    converged: float | None = None


def _read_rows(
    state: TrainState, train: Windows, validation: Windows, config: TrainingConfig, carries: bool, folder: Path | None
) -> _Rows:
    """The rows where they are read fastest, with the contexts of a fixed-point model."""
    if isinstance(state.model, FixedPointModel):
        return _Rows(*prepared(state, train, validation, config, carries, folder))
    rows: Rows | None = None
    if state.passes.recorder:
        rows = unless_out_of_memory(partial(ResidentWindows, train, state.device), state.device)
    return _Rows(train if rows is None else rows, validation)


@dataclass
class _Totals:
    """Sums over one epoch. `applied` counts the steps that loss scaling did not skip."""

    loss: float = 0.0
    targets: int = 0
    norm: float = 0.0
    clipped: int = 0
    applied: int = 0
    lr: float = 0.0
    limit: float | None = None
    seconds: float = 0.0
    probes: list[signals.Probe] = field(default_factory=list)

    def add(self, step: Step, lr: float, limit: float | None) -> None:
        self.loss += step.loss * step.targets
        self.targets += step.targets
        self.lr, self.limit = lr, limit
        if step.applied:
            self.norm += step.norm
            self.clipped += limit is not None and step.norm > limit
            self.applied += 1


def _train_epoch(state: TrainState, train: Rows, config: TrainingConfig, words: signals.WordCounts) -> _Totals:
    state.model.train()
    totals, taken = _Totals(), list[_Taken]()
    steps = steps_per_epoch(len(train), config.batch_size)
    probed = signals.probed_steps(steps)
    parameters = state.parameters
    stage = config.lr_stage(state.epoch)
    peak_lr = effective_lr(replace(config, lr=stage.lr), model_size(state.model))
    order = epoch_order(len(train), config.seed, state.epoch) if config.shuffle else np.arange(len(train))
    state.generator.manual_seed(dropout_seed(config.seed, state.epoch))
    for index in range(steps):
        position = Position(state.step, steps, config.laid_out_over, state.tokens, words.tokens)
        rows = train[order[index * config.batch_size : (index + 1) * config.batch_size]]
        probe = signals.Probe(parameters, rows) if index in probed and state.probing else None
        lr = lr_at(position.within(stage), peak_lr, stage.lr_schedule)
        state.set_lr(lr)
        step = compute_gradients(state, rows, probe)
        if config.clip.schedule == "percentile" and step.applied:
            insort(state.norms, step.norm)
        limit = clip_limit(config.clip, position, state.norms)
        apply_gradients(state, step, limit, probe)
        taken.append(_Taken(step, lr, limit, len(rows), probe))
        if not state.deferred or len(taken) == UNREAD_STEPS or index == steps - 1:
            _take_in(state, taken, totals, words)
            taken.clear()
    return totals


class _Taken(NamedTuple):
    """A step that was taken, with what may not have been read yet."""

    step: Step
    lr: float
    limit: float | None
    rows: int
    probe: signals.Probe | None


def _take_in(state: TrainState, taken: Sequence[_Taken], totals: _Totals, words: signals.WordCounts) -> None:
    """Read what the steps saw, and count it."""
    if state.deferred:
        read_all([each.step for each in taken])
    for step, lr, limit, rows, probe in taken:
        check_finite(state, step)
        state.plateau.add(step.loss, step.targets, rows, step.number, words.entropy)
        totals.add(step, lr, limit)
        if probe and step.applied and not probe.dropped:
            totals.probes.append(probe)


def _epoch_result(
    state: TrainState, totals: _Totals, scores: Evaluation, sample_BT: Tensor, started: float
) -> EpochResult:
    inside = _inspect(state, sample_BT)
    return EpochResult(
        epoch=state.epoch + 1,
        step=state.step,
        tokens=state.tokens,
        train_loss=totals.loss / totals.targets,
        val_loss=scores.loss,
        val_loss_legacy=scores.loss_legacy if scores.loss_legacy is not None else math.nan,
        val_ppl=scores.ppl,
        val_acc=scores.acc,
        val_ppl_known=scores.ppl_known,
        grad_norm=totals.norm / totals.applied if totals.applied else math.nan,
        clipped_share=totals.clipped / totals.applied if totals.applied else math.nan,
        tokens_per_s=totals.targets / totals.seconds,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(state.device),
        lr=totals.lr,
        clip=totals.limit,
        noise_scale=signals.noise_scale(totals.probes),
        update_ratio=signals.update_ratio(totals.probes),
        dead_relu=inside.dead_relu,
        ctx_norm=inside.ctx_norm,
        ctx_rank=inside.ctx_rank,
        plateau_step=state.plateau.left,
        micro_batch=state.micro_batch,
    )


def _inspect(state: TrainState, sample_BT: Tensor) -> Signals:
    """What the model shows of itself on the whole sample: on the processor where the device has no memory for it."""
    seen = unless_out_of_memory(partial(state.model.inspect, sample_BT), state.device)
    if seen is None and state.passes.forget():
        seen = unless_out_of_memory(partial(state.model.inspect, sample_BT), state.device)
    if seen is None:
        seen = state.model.to("cpu").inspect(sample_BT.cpu())
        state.model.to(state.device)
    return seen
