"""What is measured: the result of an epoch, and the evaluation of a model on fixed data."""

import math
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from tune_newllm.errors import InfeasibleError
from tune_newllm.models import LanguageModel
from tune_newllm.models.fixed_point import FixedPointModel
from tune_newllm.models.loss import score
from tune_newllm.models.protocol import State
from tune_newllm.training.batches import PAD, UNK, ContextRows, Windows, to_state, to_tensors
from tune_newllm.training.memory import ONE_SEQUENCE, unless_out_of_memory

EVALUATION_ROWS = {"cuda": 4096, "cpu": 256}
"""Most sequences in one forward pass of an evaluation, whatever a trial's batch: more of them are no faster. Where
memory runs out they become fewer, which changes the order of additions inside the model at most."""
EVALUATION_TOKENS = {"cuda": 2**18, "cpu": 2**14}
"""Most tokens in such a pass, which only long windows reach."""
EVALUATION_LOGITS = 2**27
"""Most logits in such a pass, half a GiB of them, of a model that makes them all at once: a system that runs out of
main memory kills the process before it raises anything, so halving comes too late there."""


@dataclass(frozen=True)
class Evaluation:
    """A model's figures on one set of windows. Losses are in nats per token."""

    loss: float
    """Sum of token losses / number of targets."""
    loss_legacy: float | None
    """Mean of batch means, each over the targets of one batch of `legacy_batch` rows (original research, metric)."""
    ppl: float
    """exp(loss)."""
    acc: float
    """Share of targets that have the highest logit."""
    ppl_known: float
    """Perplexity over the targets other than `<UNK>`, or those asked for; NaN where there are none."""
    targets: int
    """Number of targets (non-padding)."""


@dataclass(frozen=True)
class EpochResult:
    """One finished epoch. Losses are in nats per token; `val_*` are an `Evaluation` after the epoch's last step."""

    epoch: int
    """1-based."""
    step: int
    """Optimizer steps since the start of training, with those that loss scaling skipped."""
    tokens: int
    """Training targets (non-padding) seen since the start of training."""
    train_loss: float
    """Token-weighted mean over the epoch, with dropout, each batch before its own step."""
    val_loss: float
    val_loss_legacy: float
    val_ppl: float
    val_acc: float
    val_ppl_known: float
    grad_norm: float
    """Mean over the epoch's steps of the global L2 norm before clipping; steps skipped by loss scaling do not count."""
    clipped_share: float
    """Share of those steps whose norm was above their own limit."""
    tokens_per_s: float
    """Training targets per second of training, evaluation not counted."""
    seconds: float
    """The whole epoch, with evaluation; in a process's first one also a fixed-point model's phase one and the reading
    of its contexts."""
    peak_memory_bytes: int
    """Most bytes in the epoch, as `training.device.peak_memory_bytes` says."""
    lr: float
    """Of the epoch's last step, after scaling rule and schedule."""
    clip: float | None
    """Limit on the gradient norm of the epoch's last step, None for no limit."""
    noise_scale: float | None
    """Gradient noise scale, in sequences; what None means is said at `training.signals.noise_scale`."""
    update_ratio: float | None
    """Mean over a few steps of |change of the weights| / |weights|; None where loss scaling skipped them all."""
    dead_relu: float | None
    """Share of the hidden units that are 0 at every position of a fixed sample of the validation windows; None, as the
    next two, for a family that has none."""
    ctx_norm: float | None
    """Mean L2 norm of the contexts of that sample."""
    ctx_rank: float | None
    """Effective rank of these contexts, in dimensions (original research, effective rank)."""
    plateau_step: int | None
    """Step at which the run left the plateau of the word frequencies (`training.signals.Plateau`); None while not."""
    micro_batch: int
    """Most sequences in one forward pass of training, at the end of the epoch."""
    fixed_point_iterations: int | None = None
    """Of a fixed-point model's phase one, before the first epoch; None where there was none."""
    fixed_point_converged: float | None = None
    """Share of contexts that the last of these iterations changed by less than the threshold."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    windows: Windows | ContextRows,
    *,
    device: str,
    legacy_batch: int | None = None,
    carries: bool = False,
    known: Tensor | None = None,
) -> Evaluation:
    """Measure a model on windows [N, window], in fp32 whatever the training precision was, as the original did.

    Args:
        model: follows the model protocol and lies on `device`; its training mode is restored.
        windows: every row starts with a zero state, unless its contexts are there already.
        device: as `resolve_device` gives it.
        legacy_batch: batch size for `loss_legacy`, which is None without it.
        carries: whether each row goes on where the one before ends, which only a fixed-point model can read.
        known: [V], the entries that `ppl_known` counts as targets; None stands for all but `<PAD>` and `<UNK>`.

    Raises:
        InfeasibleError: memory does not suffice for one sequence.
    """
    was_training = model.training
    model.eval()
    try:
        return summarise(_measure_all(model, windows, device, carries, known), legacy_batch)
    finally:
        model.train(was_training)


def _measure_all(
    model: nn.Module, windows: Windows | ContextRows, device: str, carries: bool, known: Tensor | None
) -> NDArray[np.float64]:
    sums: list[NDArray[np.float64]] = []
    kind = "cuda" if torch.device(device).type == "cuda" else "cpu"
    width = (windows.windows if isinstance(windows, ContextRows) else windows).shape[1]
    most = max(1, min(EVALUATION_ROWS[kind], EVALUATION_TOKENS[kind] // width))
    # Of a model that makes all logits at once only these tell how many a sequence has.
    start, rows, state = 0, most if isinstance(model, LanguageModel) else 1, None
    while start < len(windows):
        part = windows[start : start + rows]
        measured = unless_out_of_memory(partial(_measure, model, part, device, carries, state, known), device)
        if measured is not None:
            sums.append(measured.sums)
            start, state = start + rows, measured.state
            if start == 1 and measured.logits:
                rows = max(1, min(EVALUATION_LOGITS // measured.logits, most))
        elif rows > 1:
            rows = min(rows, len(windows) - start) // 2 or 1
        else:
            raise InfeasibleError(ONE_SEQUENCE)
    return np.concatenate(sums)


class _Measured(NamedTuple):
    """Some rows."""

    sums: NDArray[np.float64]
    """Their `sequence_sums`."""
    logits: int
    """How many they took where all of them were made at once, else 0."""
    state: State
    """For the rows that go on where they end."""


def _measure(
    model: nn.Module,
    rows: Windows | ContextRows,
    device: str,
    carries: bool,
    state: State,
    known: Tensor | None,
) -> _Measured:
    inputs_BT, targets_BT = to_tensors(rows, device)
    is_known_BT = targets_BT > UNK if known is None else known.to(targets_BT.device)[targets_BT]
    if isinstance(model, LanguageModel):
        if carries and isinstance(model, FixedPointModel):
            features_TBF, state = model.features_of_stream(inputs_BT, state)
        else:
            features_TBF, _ = model.features(inputs_BT, to_state(rows, device, inputs_BT.shape[1]))
        targets_TB = targets_BT.t()
        is_target_TB = targets_TB != PAD
        scores = score(features_TBF[is_target_TB], *model.head(), targets_TB[is_target_TB])
        loss_BT, hit_BT = (
            torch.zeros_like(targets_TB, dtype=each.dtype).masked_scatter_(is_target_TB, each).t() for each in scores
        )
        return _Measured(sequence_sums(loss_BT, hit_BT, targets_BT, is_known_BT), 0, state)
    logits_BTV, _ = model(inputs_BT)
    flat = logits_BTV.flatten(0, 1).float()
    loss_BT = F.cross_entropy(flat, targets_BT.flatten(), ignore_index=PAD, reduction="none").view_as(targets_BT)
    hit_BT = (logits_BTV.argmax(-1) == targets_BT) & (targets_BT != PAD)
    return _Measured(sequence_sums(loss_BT, hit_BT, targets_BT, is_known_BT), logits_BTV.numel(), None)


def sequence_sums(loss_BT: Tensor, hit_BT: Tensor, targets_BT: Tensor, is_known_BT: Tensor) -> NDArray[np.float64]:
    """Per sequence: loss, targets, hits, loss over known targets, known targets; [B, 5].

    Args:
        loss_BT: 0 where there is no target.
        hit_BT: likewise.
        targets_BT: token ids.
        is_known_BT: which of them count as known.
    """
    columns = [loss_BT, targets_BT != PAD, hit_BT, loss_BT * is_known_BT, is_known_BT]
    sums = torch.stack([column.sum(1, dtype=torch.float32) for column in columns], dim=1)
    return sums.cpu().double().numpy()


def summarise(sums: NDArray[np.float64], legacy_batch: int | None) -> Evaluation:
    """Figures from the rows that `sequence_sums` gave, in the order of the data."""
    loss, targets, hits, known_loss, known = sums.sum(axis=0).tolist()
    legacy = None
    if legacy_batch is not None:
        starts = np.arange(0, len(sums), legacy_batch)
        legacy = float(np.mean(np.add.reduceat(sums[:, 0], starts) / np.add.reduceat(sums[:, 1], starts)))
    return Evaluation(
        loss=loss / targets,
        loss_legacy=legacy,
        ppl=perplexity(loss / targets),
        acc=hits / targets,
        ppl_known=perplexity(known_loss / known) if known else math.nan,
        targets=int(targets),
    )


def perplexity(loss: float) -> float:
    """exp(loss), infinite where a float cannot hold it."""
    return math.exp(loss) if loss < 709 else loss * math.inf
