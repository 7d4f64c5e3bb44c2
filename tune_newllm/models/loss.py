"""Cross-entropy over a vocabulary without ever holding all logits: the output layer and its loss, a piece at a time.

The logits are larger than everything else in a small model, so each piece of them is made, turned into losses and into
its share of the gradients, and forgotten while it still lies in the processor's cache. Memory is bounded whatever the
vocabulary.

Shape suffixes: N positions, V vocabulary, F features (what the output layer reads).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CPU_LOGITS, GPU_LOGITS = 2**18, 2**27
"""Logits of one piece: a MB of the cache there, and half a GiB here."""
SELECTS_TARGETS = ("cpu",)
"""Devices on which positions without a target are left out; on others the host would wait for their number."""
FEWEST_ROWS = 64
"""With fewer positions in a piece its matrix products are slow, however large the vocabulary."""
_softmax = torch.ops.aten._softmax.out


class Scores(NamedTuple):
    """What a prediction is judged by, for each position, [N] in float32 or wider."""

    loss: Tensor
    """Negative log-probability of the target, nats."""
    hit: Tensor
    """1 where no token has a higher logit than the target, else 0."""


def cross_entropy(
    features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor | None, targets_N: Tensor, pad: int | None
) -> Tensor:
    """Sum of the losses of all targets other than `pad`, a scalar of the weight's type.

    Differentiable, once, with respect to features, weight and bias; the gradients are computed along with the loss.
    Matrix products run in autocast's type where autocast is on; gradients of the weights are summed in float32.

    Args:
        features_NF: what the output layer reads.
        weight_VF: of the output layer.
        bias_V: likewise, or None.
        targets_N: token ids.
        pad: id at the positions that have no target.
    """
    device = features_NF.device.type
    kept_K = None
    if device in SELECTS_TARGETS and pad is not None:
        is_target_N = targets_N != pad
        kept_K = None if is_target_N.all() else is_target_N.nonzero().flatten()
        pad = None
    if torch.is_autocast_enabled(device):
        features_NF = features_NF.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        total: Tensor = _CrossEntropy.apply(  # type: ignore[no-untyped-call]
            features_NF, weight_VF, bias_V, targets_N, pad, kept_K
        )
        return total


@torch.no_grad()
def score(features_NF: Tensor, weight_VF: Tensor, bias_V: Tensor | None, targets_N: Tensor) -> Scores:
    """Loss and hit of every position, padding too; without derivative. Arguments as in `cross_entropy`."""
    pieces = [features_NF.new_empty(0, 2, dtype=torch.promote_types(features_NF.dtype, torch.float32))]
    for rows in _pieces(features_NF, weight_VF):
        logits_nV = _logits(features_NF[rows], weight_VF, bias_V)
        wanted_n1 = logits_nV.gather(1, targets_N[rows, None])
        highest_n1 = logits_nV.amax(1, keepdim=True)
        total_n1 = logits_nV.sub_(highest_n1).exp_().sum(1, keepdim=True)
        pieces.append(torch.cat([highest_n1 + total_n1.log() - wanted_n1, wanted_n1 >= highest_n1], dim=1))
    return Scores(*torch.cat(pieces).unbind(1))


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradients in one pass over the pieces; the backward pass only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        features_NF: Tensor,
        weight_VF: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        pad: int | None,
        kept_K: Tensor | None,
    ) -> Tensor:
        positions = len(features_NF)
        if kept_K is not None:
            features_NF, targets_N = features_NF.index_select(0, kept_K), targets_N.index_select(0, kept_K)
        # The weights' gradients are sums over all positions, for which 8 bits are too few.
        d_features_NF, d_weight_VF = torch.empty_like(features_NF), torch.zeros_like(weight_VF)
        d_bias_V, total = weight_VF.new_zeros(len(weight_VF)), weight_VF.new_zeros(())
        weight_VF = weight_VF.to(features_NF.dtype)
        bias_V = None if bias_V is None else bias_V.to(features_NF.dtype)
        for rows in _pieces(features_NF, weight_VF):
            logits_nV, target_n1 = _logits(features_NF[rows], weight_VF, bias_V), targets_N[rows, None]
            wanted_n1, highest_n1 = logits_nV.gather(1, target_n1), logits_nV.amax(1, keepdim=True)
            shares_nV = _softmax(logits_nV, -1, False, out=logits_nV)
            # The log of the sum of exponentials, by way of the highest share, which cannot underflow.
            losses_n1 = highest_n1 - shares_nV.amax(1, keepdim=True).log() - wanted_n1
            # The derivative by the logits: the shares, less 1 at the target.
            d_logits_nV = shares_nV.scatter_add_(1, target_n1, -torch.ones_like(wanted_n1))
            if pad is not None:
                is_target_n1 = target_n1 != pad
                losses_n1 = losses_n1 * is_target_n1
                d_logits_nV.mul_(is_target_n1)
            total += losses_n1.sum()
            d_bias_V += d_logits_nV.sum(0)
            d_logits_nV = d_logits_nV.to(features_NF.dtype)
            torch.mm(d_logits_nV, weight_VF, out=d_features_NF[rows])
            _add_product(d_weight_VF, d_logits_nV.t(), features_NF[rows])
        if kept_K is not None:
            kept_KF, d_features_NF = d_features_NF, d_features_NF.new_zeros(positions, d_features_NF.shape[1])
            d_features_NF.index_copy_(0, kept_K, kept_KF)
        ctx.save_for_backward(d_features_NF, d_weight_VF, d_bias_V)
        ctx.has_bias = bias_V is not None
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        d_features_NF, d_weight_VF, d_bias_V = (each * d_total.to(each.dtype) for each in ctx.saved_tensors)
        return d_features_NF, d_weight_VF, d_bias_V if ctx.has_bias else None, None, None, None


def _pieces(features_NF: Tensor, weight_VF: Tensor) -> Iterator[slice]:
    """Rows whose logits are made at a time."""
    logits = CPU_LOGITS if features_NF.device.type == "cpu" else GPU_LOGITS
    size = max(FEWEST_ROWS, logits // len(weight_VF))
    return (slice(start, start + size) for start in range(0, len(features_NF), size))


def _logits(features_nF: Tensor, weight_VF: Tensor, bias_V: Tensor | None) -> Tensor:
    """A tensor of its own, in float32 or wider."""
    logits_nV = F.linear(features_nF, weight_VF, bias_V)
    return logits_nV.to(torch.promote_types(logits_nV.dtype, torch.float32))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a total that may be of a wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
