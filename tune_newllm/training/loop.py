"""The training loop, the only one: `fit` yields the result of one epoch at a time."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_newllm.errors import DivergedError
from tune_newllm.training.batches import PAD, Windows, dropout_seed, epoch_order, target_count, to_tensors
from tune_newllm.training.clip import clip_gradients, clip_limit, gradient_norm
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import autocast, peak_memory_bytes, reset_peak_memory, resolve_micro_batch
from tune_newllm.training.metrics import EpochResult, Evaluation, evaluate
from tune_newllm.training.optim import effective_lr, lr_at
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
    while state.finished is None:
        started = time.perf_counter()
        reset_peak_memory(state.device)
        totals = _train_epoch(state, train, config)
        totals.seconds = time.perf_counter() - started
        scores = evaluate(state.model, validation, device=state.device, legacy_batch=config.batch_size)
        if not math.isfinite(scores.loss):
            raise DivergedError(state.epoch + 1, state.step, scores.loss)
        result = _epoch_result(state, totals, scores, time.perf_counter() - started)
        state.record(result, config)
        yield result


class Step(NamedTuple):
    """What one optimizer step saw."""

    loss: float
    """Mean over the batch's targets."""
    norm: float
    """Global L2 norm of the gradient before clipping; not finite if loss scaling skipped the step."""
    targets: int


def train_step(state: TrainState, rows: Windows, limit: float | None, micro_batch: int) -> Step:
    """Take one optimizer step at the learning rate that the optimizer holds.

    Args:
        state: its model, optimizer, `step` and `tokens` are advanced.
        rows: the whole batch [B, window].
        limit: largest gradient norm, or None.
        micro_batch: most rows in one forward pass. The loss is normalised by the targets of the whole batch, so the
            step is the same for every micro-batch up to rounding (and dropout masks).

    Raises:
        DivergedError: as `fit` says; the weights are still those before the step.
    """
    targets = target_count(rows)
    state.optimizer.zero_grad(set_to_none=True)
    loss = _backward(state, rows, targets, micro_batch)
    if state.scaler:
        state.scaler.unscale_(state.optimizer)
    parameters = [each for group in state.optimizer.param_groups for each in group["params"]]
    norm = gradient_norm(parameters)
    # Read together, because on an accelerator every single read waits for all the work before it.
    loss_value, norm_value = torch.stack([loss, norm]).tolist()
    step = Step(loss_value, norm_value, targets)
    state.step += 1
    state.tokens += targets
    _check_finite(state, step)
    if limit is not None and step.norm > limit:
        clip_gradients(parameters, norm, limit)
    if state.scaler:
        state.scaler.step(state.optimizer)
        state.scaler.update()
    else:
        state.optimizer.step()
    return step


@dataclass
class _Totals:
    """Sums over one epoch. `applied` counts the steps that loss scaling did not skip."""

    limit: float | None
    loss: float = 0.0
    targets: int = 0
    norm: float = 0.0
    clipped: int = 0
    applied: int = 0
    lr: float = 0.0
    seconds: float = 0.0

    def add(self, step: Step) -> None:
        self.loss += step.loss * step.targets
        self.targets += step.targets
        if math.isfinite(step.norm):
            self.norm += step.norm
            self.clipped += self.limit is not None and step.norm > self.limit
            self.applied += 1


def _train_epoch(state: TrainState, train: Windows, config: TrainingConfig) -> _Totals:
    state.model.train()
    totals = _Totals(clip_limit(config.clip, state.epoch))
    total_steps = config.epochs * steps_per_epoch(len(train), config.batch_size)
    peak_lr, micro_batch = effective_lr(config), resolve_micro_batch(config.micro_batch, state.device)
    order = epoch_order(len(train), config.seed, state.epoch)
    state.generator.manual_seed(dropout_seed(config.seed, state.epoch))
    for start in range(0, len(order), config.batch_size):
        totals.lr = lr_at(state.step, total_steps, peak_lr, config.lr_schedule)
        for group in state.optimizer.param_groups:
            group["lr"] = totals.lr
        rows = train[order[start : start + config.batch_size]]
        totals.add(train_step(state, rows, totals.limit, micro_batch))
    return totals


def _epoch_result(state: TrainState, totals: _Totals, scores: Evaluation, seconds: float) -> EpochResult:
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
        seconds=seconds,
        peak_memory_bytes=peak_memory_bytes(state.device),
        lr=totals.lr,
        clip=totals.limit,
    )


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
