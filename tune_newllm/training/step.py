"""One optimizer step: the gradients of a batch, in as many passes as memory allows, and what follows from them."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_newllm.errors import DivergedError, InfeasibleError
from tune_newllm.training.batches import PAD, Windows, target_count, to_tensors
from tune_newllm.training.clip import clip_gradients, gradient_norm
from tune_newllm.training.device import autocast
from tune_newllm.training.memory import ONE_SEQUENCE, unless_out_of_memory
from tune_newllm.training.signals import Probe
from tune_newllm.training.state import TrainState


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
        state: its model, optimizers, `step` and `tokens` are advanced; it remembers the micro-batch.
        rows: the whole batch [B, window].
        limit: largest gradient norm, or None.
        micro_batch: most rows in one forward pass.

    Raises:
        DivergedError, InfeasibleError: as `compute_gradients` and `apply_gradients` say.
    """
    state.micro_batch = micro_batch
    step = compute_gradients(state, rows)
    apply_gradients(state, step, limit)
    return step


def compute_gradients(state: TrainState, rows: Windows, probe: Probe | None = None) -> Step:
    """Leave the gradients of the batch's mean loss in the parameters, neither scaled nor clipped.

    The loss is normalised by the targets of the whole batch, so it is the same for every micro-batch up to rounding
    (and dropout masks). The micro-batch is halved where memory runs out, and stays so; but where only the probe does
    not fit, the probe is dropped.

    Raises:
        DivergedError: as `fit` says; the weights are still those before the step.
        InfeasibleError: memory does not suffice for one sequence.
    """
    targets = target_count(rows)
    loss = _within_memory(state, rows, targets, probe)
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
        _look(state, probe, probe.see_batch)
    return step


def _within_memory(state: TrainState, rows: Windows, targets: int, probe: Probe | None) -> Tensor:
    """`_backward_in_halves`, from the beginning and with half the micro-batch as often as memory runs out."""
    masks, micro_batch = state.generator.get_state(), state.micro_batch
    while True:
        loss = unless_out_of_memory(partial(_backward_in_halves, state, rows, targets, probe), state.device)
        if loss is not None:
            return loss
        state.generator.set_state(masks)
        tried = min(state.micro_batch, len(rows) - (probe.first_rows if probe else 0))
        if tried == 1 and probe and not probe.dropped:
            # Without its copies of the gradients the larger passes may fit.
            _drop(state, probe)
            state.micro_batch = micro_batch
            continue
        if tried == 1:
            raise InfeasibleError(ONE_SEQUENCE)
        state.micro_batch = tried // 2
        state.notes.append(
            f"out of memory at {tried} sequences a pass in epoch {state.epoch + 1}; going on with {state.micro_batch}"
        )


def _backward_in_halves(state: TrainState, rows: Windows, targets: int, probe: Probe | None) -> Tensor:
    """The batch's gradients, from none; a probe sees those of its first half alone. Returns what `_backward` does."""
    for optimizer in state.optimizers:
        optimizer.zero_grad(set_to_none=True)
    first_rows = probe.first_rows if probe else 0
    loss = _backward(state, rows[:first_rows], targets)
    if probe and first_rows:
        _look(state, probe, partial(probe.see_first_half, state.scaler.get_scale() if state.scaler else 1.0))
    return loss + _backward(state, rows[first_rows:], targets)


def _backward(state: TrainState, rows: Windows, targets: int) -> Tensor:
    """Accumulate the gradients of the batch's mean loss; returns that loss as a scalar on the device."""
    total = torch.zeros((), device=state.device)
    for start in range(0, len(rows), state.micro_batch):
        inputs_BT, targets_BT = to_tensors(rows[start : start + state.micro_batch], state.device)
        with autocast(state.number, state.device):
            logits_BTV, _ = state.model(inputs_BT)
            flat = logits_BTV.flatten(0, 1).float()
            loss = F.cross_entropy(flat, targets_BT.flatten(), ignore_index=PAD, reduction="sum") / targets
        torch.autograd.backward(state.scaler.scale(loss) if state.scaler else loss)
        total += loss.detach()
    return total


def apply_gradients(state: TrainState, step: Step, limit: float | None, probe: Probe | None = None) -> None:
    """Clip the gradients to `limit` and change the weights by them, unless loss scaling skips the step.

    Raises:
        InfeasibleError: memory does not suffice for the optimizers' own state. The weights are spoiled.
    """
    if step.applied:
        if limit is not None and step.norm > limit:
            clip_gradients(state.parameters, step.norm, limit)
        if probe:
            _look(state, probe, probe.see_weights)
        if not unless_out_of_memory(partial(_change_weights, state), state.device):
            raise InfeasibleError("out of memory in the optimizer's step: take a smaller model or a simpler optimizer")
        if probe:
            _look(state, probe, probe.see_update)
    if state.scaler:
        state.scaler.update()


def _look(state: TrainState, probe: Probe, look: Callable[[], None]) -> None:
    """Let a probe look, or drop it: what it finds is never worth a training."""

    def looked() -> bool:
        look()
        return True

    if not unless_out_of_memory(looked, state.device):
        _drop(state, probe)


def _drop(state: TrainState, probe: Probe) -> None:
    probe.drop()
    state.probing = False
    state.notes.append(
        f"out of memory for the look at the gradients in epoch {state.epoch + 1}; going on without noise scale and "
        "update ratio"
    )


def _change_weights(state: TrainState) -> bool:
    # Not by the scaler: it would let one of two optimizers step where only the other's gradients overflowed.
    for optimizer in state.optimizers:
        optimizer.step()
    return True


def _check_finite(state: TrainState, step: Step) -> None:
    if not math.isfinite(step.loss):
        raise DivergedError(state.epoch + 1, state.step, step.loss)
    # Loss scaling finds its factor by overflowing; only with no factor left is the gradient itself too large.
    if not math.isfinite(step.norm) and (state.scaler is None or state.scaler.get_scale() <= 1):
        raise DivergedError(state.epoch + 1, state.step, step.norm)
