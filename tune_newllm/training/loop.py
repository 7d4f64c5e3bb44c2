"""The training loop, the only one: `fit` yields the result of one epoch at a time."""

import math
import time
from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_newllm.errors import DivergedError
from tune_newllm.training import signals
from tune_newllm.training.batches import PAD, Windows, dropout_seed, epoch_order, target_count, to_tensors
from tune_newllm.training.clip import clip_gradients, clip_limit, gradient_norm
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import autocast, peak_memory_bytes, reset_peak_memory, resolve_micro_batch
from tune_newllm.training.metrics import EpochResult, Evaluation, evaluate
from tune_newllm.training.optim import effective_lr
from tune_newllm.training.schedules import Position, lr_at
from tune_newllm.training.state import TrainState

__all__ = ["EpochResult", "Evaluation", "evaluate", "fit", "steps_per_epoch", "train_step"]


def steps_per_epoch(windows: int, batch_size: int) -> int:
    """Optimizer steps of one epoch; a short last batch is used."""
    return math.ceil(windows / batch_size)


def fit(state: TrainState, train: Windows, validation: Windows, config: TrainingConfig) -> Iterator[EpochResult]:
    """Train from where `state` stands until it is finished.

    Yields one result per epoch. By then the state has taken it in, so the caller may save it, and may stop there.

    Args:
        state: advanced in place; `state.finished` says in the end why it ended.
        train: token ids [N, window].
        validation: likewise.
        config: the one that the state was made with.

    Raises:
        DivergedError: a loss or, outside fp16, a gradient norm is not finite. The state keeps the last good epoch's
            results; its weights are spoiled.
    """
    words = signals.count_words(train)
    sample_BT, _ = to_tensors(validation[: signals.INSPECTED_ROWS], state.device)
    while state.finished is None:
        started = time.perf_counter()
        reset_peak_memory(state.device)
        totals = _train_epoch(state, train, config, words)
        totals.seconds = time.perf_counter() - started
        scores = evaluate(state.model, validation, device=state.device, legacy_batch=config.batch_size)
        if not math.isfinite(scores.loss):
            raise DivergedError(state.epoch + 1, state.step, scores.loss)
        result = _epoch_result(state, totals, scores, sample_BT, started)
        state.record(result, config)
        yield result


class Step(NamedTuple):
    """What one optimizer step saw."""

    loss: float
    """Mean over the batch's targets."""
    norm: float
    """Global L2 norm of the gradient before clipping; not finite if loss scaling skips the step."""
    targets: int

    @property
    def applied(self) -> bool:
        """Whether the weights are changed."""
        return math.isfinite(self.norm)


def train_step(state: TrainState, rows: Windows, limit: float | None, micro_batch: int) -> Step:
    """Take one optimizer step at the learning rate that the optimizers hold.

    Args:
        state: its model, optimizers, `step` and `tokens` are advanced.
        rows: the whole batch [B, window].
        limit: largest gradient norm, or None.
        micro_batch: most rows in one forward pass. The loss is normalised by the targets of the whole batch, so the
            step is the same for every micro-batch up to rounding (and dropout masks).

    Raises:
        DivergedError: as `fit` says; the weights are still those before the step.
    """
    step = _compute_gradients(state, rows, micro_batch)
    _apply_gradients(state, step, limit)
    return step


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


def _train_epoch(state: TrainState, train: Windows, config: TrainingConfig, words: signals.WordCounts) -> _Totals:
    state.model.train()
    totals = _Totals()
    steps = steps_per_epoch(len(train), config.batch_size)
    probed = signals.probed_steps(steps)
    parameters = state.parameters
    peak_lr = effective_lr(config, sum(each.numel() for each in parameters))
    micro_batch = resolve_micro_batch(config.micro_batch, state.device)
    order = epoch_order(len(train), config.seed, state.epoch)
    state.generator.manual_seed(dropout_seed(config.seed, state.epoch))
    for index in range(steps):
        position = Position(state.step, steps, config.epochs, state.tokens, words.tokens)
        rows = train[order[index * config.batch_size : (index + 1) * config.batch_size]]
        probe = signals.Probe(parameters, rows) if index in probed else None
        lr = lr_at(position, peak_lr, config.lr_schedule)
        state.set_lr(lr)
        step = _compute_gradients(state, rows, micro_batch, probe)
        if config.clip.schedule == "percentile" and step.applied:
            insort(state.norms, step.norm)
        limit = clip_limit(config.clip, position, state.norms)
        _apply_gradients(state, step, limit, probe)
        state.plateau.add(step.loss, step.targets, len(rows), state.step, words.entropy)
        totals.add(step, lr, limit)
        if probe and step.applied:
            totals.probes.append(probe)
    return totals


def _epoch_result(
    state: TrainState, totals: _Totals, scores: Evaluation, sample_BT: Tensor, started: float
) -> EpochResult:
    inside = state.model.inspect(sample_BT)
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
    )


def _compute_gradients(state: TrainState, rows: Windows, micro_batch: int, probe: signals.Probe | None = None) -> Step:
    targets = target_count(rows)
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    first_rows = probe.first_rows if probe else 0
    loss = _backward(state, rows[:first_rows], targets, micro_batch)
    if probe and first_rows:
        probe.see_first_half(state.scaler.get_scale() if state.scaler else 1.0)
    loss += _backward(state, rows[first_rows:], targets, micro_batch)
    if state.scaler:
        for optimizer in state.optimizers:
            state.scaler.unscale_(optimizer)
    # Read together, because on an accelerator every single read waits for all the work before it.
    loss_value, norm_value = torch.stack([loss, gradient_norm(state.parameters)]).tolist()
    step = Step(loss_value, norm_value, targets)
    state.step += 1
    state.tokens += targets
    _check_finite(state, step)
    if probe and step.applied:
        probe.see_batch()
    return step


def _apply_gradients(state: TrainState, step: Step, limit: float | None, probe: signals.Probe | None = None) -> None:
    if step.applied:
        if limit is not None and step.norm > limit:
            clip_gradients(state.parameters, step.norm, limit)
        if probe:
            probe.see_weights()
        # Not by the scaler: it would let one of two optimizers step where only the other's gradients overflowed.
        for optimizer in state.optimizers:
            optimizer.step()
        if probe:
            probe.see_update()
    if state.scaler:
        state.scaler.update()


def _backward(state: TrainState, rows: Windows, targets: int, micro_batch: int) -> Tensor:
    """Accumulate the gradients of the batch's mean loss; returns that loss as a scalar on the device."""
    total = torch.zeros((), device=state.device)
    for start in range(0, len(rows), micro_batch):
        inputs_BT, targets_BT = to_tensors(rows[start : start + micro_batch], state.device)
        with autocast(state.number, state.device):
            logits_BTV, _ = state.model(inputs_BT)
            flat = logits_BTV.flatten(0, 1).float()
            loss = F.cross_entropy(flat, targets_BT.flatten(), ignore_index=PAD, reduction="sum") / targets
        torch.autograd.backward(state.scaler.scale(loss) if state.scaler else loss)
        total += loss.detach()
    return total


def _check_finite(state: TrainState, step: Step) -> None:
    if not math.isfinite(step.loss):
        raise DivergedError(state.epoch + 1, state.step, step.loss)
    # Loss scaling finds its factor by overflowing; only with no factor left is the gradient itself too large.
    if not math.isfinite(step.norm) and (state.scaler is None or state.scaler.get_scale() <= 1):
        raise DivergedError(state.epoch + 1, state.step, step.norm)
