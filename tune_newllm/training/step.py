"""One optimizer step: the gradients of a batch, in as many passes as memory allows, and what follows from them."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from tune_newllm.errors import DivergedError, InfeasibleError
from tune_newllm.training.batches import Rows, target_count, to_state, to_tokens
from tune_newllm.training.memory import ONE_SEQUENCE, unless_out_of_memory
from tune_newllm.training.optim import clip_divisor, gradient_norm, take_step
from tune_newllm.training.signals import Probe
from tune_newllm.training.state import TrainState


class Step:
    """What one optimizer step saw.

    Args:
        measured: mean loss over the batch's targets, and global L2 norm of the gradient before clipping, [2].
        targets: of the batch.
        number: 1-based, of this step.
    """

    def __init__(self, measured: Tensor, targets: int, number: int) -> None:
        self.measured, self.targets, self.number = measured, targets, number
        self._read: list[float] | None = None

    @property
    def loss(self) -> float:
        """Mean over the batch's targets. On an accelerator the first look waits for all the work before it."""
        return self.read()[0]

    @property
    def norm(self) -> float:
        """Global L2 norm of the gradient before clipping; not finite if loss scaling skips the step."""
        return self.read()[1]

    @property
    def applied(self) -> bool:
        """Whether the weights are changed."""
        return math.isfinite(self.norm)

    def read(self) -> list[float]:
        """Loss and norm."""
        if self._read is None:
            self._read = self.measured.tolist()
        return self._read


def read_all(steps: Sequence[Step]) -> None:
    """Read several steps' numbers at once, which is one wait instead of many."""
    for step, read in zip(steps, torch.stack([step.measured for step in steps]).tolist(), strict=True):
        step._read = read


def train_step(state: TrainState, rows: Rows, limit: float | None, micro_batch: int) -> Step:
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


def compute_gradients(state: TrainState, rows: Rows, probe: Probe | None = None) -> Step:
    """Leave the gradients of the batch's mean loss in the parameters, neither scaled nor clipped.

    The loss is normalised by the targets of the whole batch, so it is the same for every micro-batch up to rounding
    (and dropout masks). The micro-batch is halved where memory runs out, and stays so; but where only the probe does
    not fit, the probe is dropped.

    Raises:
        DivergedError: as `fit` says; the weights are still those before the step. Not where `state.deferred`: then the
            caller checks later.
        InfeasibleError: memory does not suffice for one sequence.
    """
    targets = target_count(rows)
    total = _within_memory(state, rows, targets, probe)
    if state.scaler:
        for optimizer in state.optimizers:
            state.scaler.unscale_(optimizer)
    state.step += 1
    state.tokens += targets
    step = Step(torch.stack([total / targets, gradient_norm(state.parameters)]), targets, state.step)
    if not state.deferred:
        check_finite(state, step)
    if probe and (state.deferred or step.applied):
        _look(state, probe, probe.see_batch)
    return step


def _within_memory(state: TrainState, rows: Rows, targets: int, probe: Probe | None) -> Tensor:
    """`_backward_in_halves`, from the beginning and with half the micro-batch as often as memory runs out."""
    masks, micro_batch = state.generator.get_state(), state.micro_batch
    while True:
        loss = unless_out_of_memory(partial(_backward_in_halves, state, rows, targets, probe), state.device)
        if loss is not None:
            return loss
        state.generator.set_state(masks)
        if state.passes.forget():
            # What was recorded holds memory of its own; without it the pass may fit.
            continue
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


def _backward_in_halves(state: TrainState, rows: Rows, targets: int, probe: Probe | None) -> Tensor:
    """The batch's gradients, from none; a probe sees those of its first half alone. Returns what `_backward` does."""
    state.passes.clear_gradients()
    first_rows = probe.first_rows if probe else 0
    total = _backward(state, rows[:first_rows], targets)
    if probe and first_rows:
        _look(state, probe, partial(probe.see_first_half, state.scaler.get_scale() if state.scaler else 1.0))
    return total + _backward(state, rows[first_rows:], targets)


def _backward(state: TrainState, rows: Rows, targets: int) -> Tensor:
    """Accumulate the gradients of the batch's mean loss; returns the sum of these rows' losses, on the device."""
    total = torch.zeros((), device=state.device)
    weight = torch.full((), 1 / targets, device=state.device)
    if state.scaler:
        weight = state.scaler.scale(weight)
    for start in range(0, len(rows), state.micro_batch):
        part = rows[start : start + state.micro_batch]
        tokens_BT = to_tokens(part, state.device)
        total += state.passes(tokens_BT, weight, to_state(part, state.device, tokens_BT.shape[1] - 1))
    return total


def apply_gradients(state: TrainState, step: Step, limit: float | None, probe: Probe | None = None) -> None:
    """Clip the gradients to `limit` and change the weights by them, unless loss scaling skips the step.

    Raises:
        InfeasibleError: memory does not suffice for the optimizers' own state. The weights are spoiled.
    """
    if state.deferred or step.applied:
        clips = limit is not None and (state.deferred or step.norm > limit)
        divisor = clip_divisor(step.measured[1], limit) if limit is not None and clips else None
        if probe:
            _look(state, probe, probe.see_weights)
        if not unless_out_of_memory(partial(_change_weights, state, divisor), state.device):
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


def _change_weights(state: TrainState, divisor: Tensor | None) -> bool:
    # Not by the scaler: it would let one of two optimizers step where only the other's gradients overflowed.
    take_step(state.optimizers, divisor)
    return True


def check_finite(state: TrainState, step: Step) -> None:
    """Look whether a step's loss and gradient are numbers.

    Raises:
        DivergedError: they are not.
    """
    if not math.isfinite(step.loss):
        raise DivergedError(state.epoch + 1, step.number, step.loss)
    # Loss scaling finds its factor by overflowing; only with no factor left is the gradient itself too large.
    if not math.isfinite(step.norm) and (state.scaler is None or state.scaler.get_scale() <= 1):
        raise DivergedError(state.epoch + 1, step.number, step.norm)
