"""The contexts of the fixed-point family, step by step: of many texts side by side, or of one long text in segments.

A context block soon forgets where it began. So the segments of a long text are read side by side as well, each from
zeros at first; then again from where the segment before has ended, until that changes nothing any more. The first
segment is right from the start, and each round makes at least one more so: whatever the weights, the result is that of
reading the text from left to right. Most blocks need a single further round, which ends as soon as its contexts are
those of the round before; it then replaces products of a matrix and a vector, which only read the matrix from memory,
by products of two matrices.

Shape suffixes: B texts or segments, T time steps, N tokens of one text, D context, X input, W contexts of all layers.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .products import Packed, Plain, factor
from .protocol import is_quantised

if TYPE_CHECKING:
    from .fixed_point import ContextBlock, Layer

SEGMENT = 128
"""Tokens of a segment. Shorter ones spend a larger share of the time in further rounds."""
SEGMENTS = {"cuda": 512, "cpu": 64}
"""Segments side by side: more are hardly faster, and their contexts must fit into memory."""
AGREED = 1e-5
"""Two contexts, whose entries have unit variance at the start, are the same if none differs by more: rounding alone
makes a tenth of that."""
_CHECK_EVERY = 4


class _Cell(NamedTuple):
    """A layer as the recurrence reads it."""

    mix: Plain | Packed
    residual: tuple[Plain | Packed, Tensor] | None
    norm: tuple[Tensor, Tensor, float]

    def __call__(self, context_BD: Tensor, share: Tensor) -> Tensor:
        mixed = self.mix.added(share, context_BD).relu_()
        if self.residual is None:
            mixed += context_BD
        else:
            product, bias = self.residual
            mixed += product.added(bias.expand_as(mixed), context_BD)
        gain, bias, eps = self.norm
        return F.layer_norm(mixed, mixed.shape[1:], gain, bias, eps)


class _Steps:
    """One block at work on a batch of texts.

    Args:
        block: of which all weights are read.
        inputs_TBX: what it reads beside the context.
    """

    def __init__(self, block: "ContextBlock", inputs_TBX: Tensor) -> None:
        batch = inputs_TBX.shape[1]
        self.cells, self.shares = [], list[Tensor]()
        for layer in cast("list[Layer]", list(block.layers)):
            residual = None
            if layer.residual is not None:
                residual = factor(layer.residual.weight, batch), layer.residual.bias
            norm = (layer.norm.weight, layer.norm.bias, layer.norm.eps)
            self.cells.append(_Cell(factor(layer.context_weight, batch), residual, norm))
            if layer.sizes[1]:
                self.shares.append(layer.token_share(inputs_TBX))
            else:
                self.shares.append(layer.mix.bias.expand(*inputs_TBX.shape[:2], -1))

    def step(self, time: int, context_BD: Tensor, rows: Any = slice(None)) -> list[Tensor]:
        """The contexts after each layer."""
        contexts = []
        for cell, share_TBw in zip(self.cells, self.shares, strict=True):
            context_BD = cell(context_BD, share_TBw[time, rows])
            contexts.append(context_BD)
        return contexts


class _StepsByLayers:
    """The same by calling the layers, with weights that are quantised; slower."""

    def __init__(self, block: "ContextBlock", inputs_TBX: Tensor) -> None:
        self.layers, self.inputs_TBX = list(block.layers), inputs_TBX

    def step(self, time: int, context_BD: Tensor, rows: Any = slice(None)) -> list[Tensor]:
        """The contexts after each layer."""
        contexts = []
        for layer in self.layers:
            context_BD = layer(context_BD, self.inputs_TBX[time, rows], context_BD)
            contexts.append(context_BD)
        return contexts


def _steps(block: "ContextBlock", inputs_TBX: Tensor) -> _Steps | _StepsByLayers:
    quantised = is_quantised(cast("Layer", block.layers[0]).mix.weight)
    return _StepsByLayers(block, inputs_TBX) if quantised else _Steps(block, inputs_TBX)


def scan_rows(blocks: Iterable[Any], inputs_TBX: Tensor, starts_BD: Tensor) -> Tensor:
    """The contexts of all layers of all blocks after each step, [T, B, W]: layer by layer, in each block by block.

    Args:
        blocks: context blocks, which share D among them.
        inputs_TBX: what they read beside the context.
        starts_BD: contexts before the first step.
    """
    steps, batch, _ = inputs_TBX.shape
    blocks = list(blocks)
    contexts_TBW, places = _room(blocks, inputs_TBX, (steps, batch))
    for block, start, place in zip(blocks, starts_BD.chunk(len(blocks), 1), places, strict=True):
        work, context = _steps(block, inputs_TBX), start.contiguous()
        for time in range(steps):
            contexts = work.step(time, context)
            context = contexts[-1]
            for each, columns in zip(contexts, place, strict=True):
                contexts_TBW[time, :, columns] = each
    return contexts_TBW


def scan_stream(blocks: Iterable[Any], inputs_NX: Tensor, start_D: Tensor) -> Tensor:
    """The same for one long text, [N, W]; `inputs_NX` and `start_D` as in `scan_rows`, of this text alone."""
    blocks = list(blocks)
    contexts_NW, places = _room(blocks, inputs_NX, (len(inputs_NX),))
    most = SEGMENT * SEGMENTS["cuda" if inputs_NX.is_cuda else "cpu"]
    for begin in range(0, len(inputs_NX), most):
        part = slice(begin, begin + most)
        if begin:
            start_D = contexts_NW[begin - 1, -len(start_D) :]
        for block, start, place in zip(blocks, start_D.chunk(len(blocks)), places, strict=True):
            for each, columns in zip(_segments(block, inputs_NX[part], start), place, strict=True):
                contexts_NW[part, columns] = each
    return contexts_NW


def _room(blocks: Sequence[Any], like: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, list[list[slice]]]:
    """An empty tensor for all contexts, and for each block the columns of each of its layers."""
    places: list[list[slice]] = [[] for _ in blocks]
    column = 0
    for widths in zip(*(block.widths for block in blocks), strict=True):
        for place, width in zip(places, widths, strict=True):
            place.append(slice(column, column + width))
            column += width
    return like.new_empty(*shape, column), places


def _segments(block: "ContextBlock", inputs_NX: Tensor, start_d: Tensor) -> list[Tensor]:
    """The contexts of each layer of one block, [N, w]."""
    tokens = len(inputs_NX)
    steps = min(SEGMENT, tokens)
    batch = -(-tokens // steps)
    padded_NX = F.pad(inputs_NX, (0, 0, 0, batch * steps - tokens))
    work = _steps(block, padded_NX.view(batch, steps, -1).transpose(0, 1).contiguous())
    contexts = [inputs_NX.new_empty(steps, batch, width) for width in block.widths]
    starts_Bd = inputs_NX.new_zeros(batch, len(start_d))
    starts_Bd[0] = start_d
    _round(work, contexts, starts_Bd, slice(None), 0.0)
    while True:
        ends_Bd = torch.cat([start_d[None], contexts[-1][-1, :-1]])
        changed_K = ((ends_Bd - starts_Bd).abs().amax(1) > AGREED).nonzero()[:, 0]
        if not len(changed_K):
            return [each.transpose(0, 1).reshape(batch * steps, -1)[:tokens] for each in contexts]
        starts_Bd[changed_K] = ends_Bd[changed_K]
        _round(work, contexts, starts_Bd[changed_K], changed_K, AGREED)


def _round(work: _Steps | _StepsByLayers, contexts: list[Tensor], context_Bd: Tensor, rows: Any, agreed: float) -> None:
    """Read some of the segments from these contexts, until what is found is there already."""
    for time in range(len(contexts[0])):
        found = work.step(time, context_Bd, rows)
        context_Bd = found[-1]
        alike = agreed and time % _CHECK_EVERY == 0
        if alike and (contexts[-1][time, rows] - context_Bd).abs().amax() <= agreed:
            return
        for each, new in zip(contexts, found, strict=True):
            each[time, rows] = new
