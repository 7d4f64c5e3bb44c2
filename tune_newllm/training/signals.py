"""What a run tells about its learning beside its losses, measured in passing."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from tune_newllm.training.batches import PAD, Rows, Windows, target_count

PROBE_EVERY = 25
"""Optimizer steps for each one that is probed. Two halves take up to twice the time of one batch, so this costs at most
4 % of a training, and next to nothing where batches are large."""
INSPECTED_ROWS = 64
"""Validation windows whose hidden units and contexts are looked at after every epoch, always the first."""
PLATEAU_WINDOWS, PLATEAU_TARGETS, PLATEAU_DEPTH = 1024, 2**16, 0.1
"""The plateau is left when the mean loss of the last so many windows, or of as many long ones as have so many targets,
lies so many nats below it. For word frequencies alone that mean scatters by about 0.02 on the built-in corpus, so that
chance does not pass 0.1, a tenth of the perplexity, in thousands of steps. More windows would notice later, a deeper
mark take slow learning for none."""
_CHUNK_ROWS = 65536


class WordCounts(NamedTuple):
    """The targets of a split."""

    tokens: int
    """Number of targets that are not padding."""
    entropy: float
    """Entropy of their frequencies, in nats: the loss of a model that knows them and nothing else, the plateau."""


def count_words(rows: Windows) -> WordCounts:
    """Count the targets of windows [N, window], which may be memory-mapped."""
    counts = np.zeros(1, dtype=np.int64)
    for start in range(0, len(rows), _CHUNK_ROWS):
        found = np.bincount(rows[start : start + _CHUNK_ROWS, 1:].ravel(), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    counts[PAD] = 0
    shares = counts[counts > 0] / counts.sum()
    return WordCounts(int(counts.sum()), float(-(shares * np.log(shares)).sum()))


@dataclass
class Plateau:
    """Whether a run still only predicts how frequent words are (original research, the plateau)."""

    left: int | None = None
    """1-based optimizer step after which the mean token loss of the last `PLATEAU_WINDOWS` windows, or of fewer with
    `PLATEAU_TARGETS` targets, lay at least `PLATEAU_DEPTH` below the entropy of the word frequencies for the first
    time; None while it has not."""
    recent: list[list[float]] = field(default_factory=list)
    """Sum of losses, targets and windows of the last batches, as few as suffice together; empty once the plateau is
    left."""

    def add(self, loss: float, targets: int, windows: int, step: int, entropy: float) -> None:
        """Take in a batch at a 1-based step: its mean loss, and how many targets and windows it has."""
        if self.left is not None:
            return
        self.recent.append([loss * targets, targets, windows])
        while _suffice(self.recent[1:]):
            self.recent.pop(0)
        if _suffice(self.recent):
            losses, counted, _ = (math.fsum(column) for column in zip(*self.recent, strict=True))
            if losses / counted <= entropy - PLATEAU_DEPTH:
                self.left, self.recent = step, []


def _suffice(batches: Sequence[Sequence[float]]) -> bool:
    """Whether the mean loss of these batches is sure enough to judge by."""
    enough = sum(batch[1] for batch in batches) >= PLATEAU_TARGETS
    return enough or sum(batch[2] for batch in batches) >= PLATEAU_WINDOWS


def probed_steps(steps: int) -> set[int]:
    """Which of an epoch's steps (0-based) are probed: one in `PROBE_EVERY`, at least one, evenly spread."""
    probes = max(1, steps // PROBE_EVERY)
    return {(2 * index + 1) * steps // (2 * probes) for index in range(probes)}


class Probe:
    """One optimizer step looked at more closely. The loop calls the methods in their order.

    For the mean gradients g1 and g2 of two halves of its batch, b1 and b2 sequences, independent of each other:

        E g1.g2 = |G|^2        E |g1 - g2|^2 = tr(Sigma) (1/b1 + 1/b2)

    with G the gradient of the whole corpus and Sigma the covariance of the gradients of single sequences. For equal
    halves these are the unbiased estimators of McCandlish et al. 2018 (arXiv 1812.06162, appendix A.1) from a half and
    a whole batch.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rows: Rows) -> None:
        self._parameters = parameters
        self.first_rows = len(rows) // 2
        """Sequences in the first half, which the loop reads by itself."""
        self._sizes = self.first_rows, len(rows) - self.first_rows
        self._targets = target_count(rows[: self.first_rows]), target_count(rows[self.first_rows :])
        self.dropped = False
        # Left on their device: reading them there would wait for all the work before.
        self._estimates: Tensor | None = None
        self._ratio: Tensor | None = None
        self._first: Tensor | None = None
        self._before: Tensor | None = None

    def drop(self) -> None:
        """Look no more: memory does not suffice."""
        self.dropped, self.first_rows = True, 0
        self._estimates = self._ratio = self._first = self._before = None

    @property
    def signal(self) -> float | None:
        """Estimate of |G|^2; None where there is none, as where a half has no targets."""
        estimates = self._read()
        return None if estimates is None else estimates[0]

    @property
    def noise(self) -> float | None:
        """Estimate of tr(Sigma); likewise."""
        estimates = self._read()
        return None if estimates is None else estimates[1] / sum(1 / size for size in self._sizes)

    @property
    def update_ratio(self) -> float:
        """|dw| / |w|, L2 norms over all weights; NaN before the update."""
        return math.nan if self._ratio is None else float(self._ratio)

    def _read(self) -> list[float] | None:
        """|G|^2, and the squared distance of the halves' gradients."""
        estimates = None if self._estimates is None else self._estimates.tolist()
        return estimates if estimates and all(map(math.isfinite, estimates)) else None

    def see_first_half(self, scale: float) -> None:
        """The gradients hold the first half's share of the batch's, times the loss scale."""
        if all(self._targets) and not self.dropped:
            self._first = self._gradient() / scale

    def see_batch(self) -> None:
        """The gradients hold the whole batch's, neither scaled nor clipped."""
        if self._first is not None:
            first, second = self._first, self._gradient() - self._first
            # The loss is a mean over targets, of which each half has its share.
            g1, g2 = (
                part * (sum(self._targets) / own) for part, own in zip((first, second), self._targets, strict=True)
            )
            self._estimates = torch.stack([g1 @ g2, (g1 - g2).square().sum()])
            self._first = None

    def see_weights(self) -> None:
        """The optimizer is about to change the weights."""
        if not self.dropped:
            self._before = _flat(self._parameters)

    def see_update(self) -> None:
        """The optimizer has changed the weights."""
        if self._before is not None:
            change = torch.linalg.vector_norm(_flat(self._parameters) - self._before)
            self._ratio = change / torch.linalg.vector_norm(self._before)
            self._before = None

    def _gradient(self) -> Tensor:
        return _flat(each.grad for each in self._parameters if each.grad is not None)


def noise_scale(probes: Iterable[Probe]) -> float | None:
    """Gradient noise scale B_simple = tr(Sigma) / |G|^2, in sequences; the two averaged over the probes separately.

    Near it a batch is worth its price: a much smaller one takes nearly as many steps more as it is smaller, a much
    larger one hardly fewer (McCandlish et al. 2018). None where every batch has one sequence, and where the estimate
    of |G|^2 is not positive: the probed gradients were all noise, so the noise scale is far above the batch size. The
    epochs that have a number lean towards smaller ones for that reason.
    """
    pairs = [(each.noise, each.signal) for each in probes if each.noise is not None and each.signal is not None]
    noise, signal = (math.fsum(column) for column in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return noise / signal if noise > 0 and signal > 0 else None


def update_ratio(probes: Sequence[Probe]) -> float | None:
    """Mean of |dw| / |w| over the probed steps; None where loss scaling skipped them all."""
    return math.fsum(each.update_ratio for each in probes) / len(probes) if probes else None


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([each.detach().flatten() for each in tensors])
