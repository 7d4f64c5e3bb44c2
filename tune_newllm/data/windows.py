"""Texts become windows: rows of equal length that a model reads from left to right.

Three rules:

- `complete` skips no text and makes every token after BOS a target exactly once. A text of n tokens becomes
  ceil((n - 1) / (window - 1)) pieces; each begins with the last target of the piece before.
- `original` skips texts of fewer than five words, or of fewer than five pieces with a subword tokenizer; a text that
  fits gives one window, a longer one gives windows at 0, stride, 2 * stride, ... as long as they are full, and its tail
  is dropped (original research, windowing rule).
- `stream` writes the texts one after another and cuts that into rows, each of which begins with the last token of the
  row before: every token but the very first is a target exactly once, and a row continues the row before. Only the last
  row may be padded.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_newllm.data.config import Windowing
from tune_newllm.data.tokenizer import PAD

Windows = NDArray[np.uint16] | NDArray[np.int32]
"""`[N, window]` ids, padded on the right with 0."""

_FEWEST_WORDS = 5
_ROWS_AT_ONCE = 1 << 16


def cut(
    ids_per_text: Sequence[Sequence[int]],
    windowing: Windowing,
    window: int,
    stride: int | None = None,
    dtype: type[np.uint16] | type[np.int32] = np.int32,
) -> Windows:
    """Cut encoded texts into windows.

    Args:
        ids_per_text: for each text BOS, its words, EOS.
        windowing: `complete`, `original` or `stream`.
        window: tokens per window.
        stride: tokens between window starts, read by `original` only; None stands for half a window.
        dtype: must hold the largest id.

    Returns:
        `[N, window]` ids in the order of the texts, padded on the right with PAD.
    """
    lengths_M = _lengths(ids_per_text)
    tokens = np.fromiter(chain.from_iterable(ids_per_text), dtype=dtype, count=int(lengths_M.sum()))
    step = _step(windowing, window, stride)
    if windowing == "stream":
        start_N = np.arange(0, len(tokens) - 1, step)
        return _gather(tokens, start_N, np.full(len(start_N), len(tokens)), window)
    pieces_M = pieces(ids_per_text, windowing, window, stride)
    begin_M = np.cumsum(lengths_M) - lengths_M
    before_M = np.cumsum(pieces_M) - pieces_M
    piece_N = np.arange(pieces_M.sum()) - np.repeat(before_M, pieces_M)
    start_N = np.repeat(begin_M, pieces_M) + piece_N * step
    end_N = np.repeat(begin_M + lengths_M, pieces_M)
    return _gather(tokens, start_N, end_N, window)


def pieces(
    ids_per_text: Sequence[Sequence[int]], windowing: Windowing, window: int, stride: int | None = None
) -> NDArray[np.int64]:
    """How many windows `cut` makes of each text, `[M]`.

    With `stream` those that it completes: a row that reaches into the next text counts as that one's, and the last row
    as the last text's.
    """
    lengths_M, step = _lengths(ids_per_text), _step(windowing, window, stride)
    if windowing == "stream":
        ends_M = np.maximum(np.cumsum(lengths_M) - 1, 0)
        full_M = ends_M // step
        full_M[-1:] = -(-ends_M[-1:] // step)
        return np.diff(full_M, prepend=0)
    if windowing == "complete":
        return -(-(lengths_M - 1) // step)
    pieces_M = np.maximum((lengths_M - window) // step, 0) + 1
    pieces_M[lengths_M < _FEWEST_WORDS + 2] = 0
    return pieces_M


def _step(windowing: Windowing, window: int, stride: int | None) -> int:
    return stride or window // 2 if windowing == "original" else window - 1


def _lengths(ids_per_text: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.fromiter(map(len, ids_per_text), dtype=np.int64, count=len(ids_per_text))


def _gather(tokens: NDArray[Any], start_N: NDArray[np.int64], end_N: NDArray[np.int64], window: int) -> NDArray[Any]:
    """Rows `tokens[start : start + window]`, PAD from `end` on. In slices, so that the index stays small."""
    windows_NW = np.full((len(start_N), window), PAD, dtype=tokens.dtype)
    for row in range(0, len(start_N), _ROWS_AT_ONCE):
        rows = slice(row, row + _ROWS_AT_ONCE)
        index_RW = start_N[rows, None] + np.arange(window)
        inside_RW = index_RW < end_N[rows, None]
        windows_NW[rows][inside_RW] = tokens[index_RW[inside_RW]]
    return windows_NW
