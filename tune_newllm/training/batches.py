"""Which rows of token ids an epoch visits in which order, and rows as tensors.

Rows are padded on the right with id 0, which is never a target.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tune_newllm.models.fixed_point import Contexts
from tune_newllm.models.protocol import State

PAD, UNK = 0, 1
_CHUNK_ROWS = 65536

Windows = NDArray[np.integer]
"""Token ids [N, window], as a corpus is prepared; usually memory-mapped."""


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order in which an epoch visits `count` rows; a function of its arguments alone, so resuming needs no state."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def dropout_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's dropout masks: another stream than its order, and like that a function of its arguments."""
    return int(np.random.SeedSequence([seed, epoch], spawn_key=(1,)).generate_state(1, np.uint64)[0])


class ResidentWindows:
    """Windows that lie on an accelerator, so that a batch of them costs no copy and no waiting.

    Args:
        windows: token ids [N, window].
        device: where they are to lie.
    """

    def __init__(self, windows: Windows, device: str) -> None:
        self._tokens = torch.empty(windows.shape, dtype=torch.int32, device=device)
        self._targets = np.empty(len(windows), dtype=np.int64)
        for start in range(0, len(windows), _CHUNK_ROWS):
            chunk = slice(start, start + _CHUNK_ROWS)
            self._tokens[chunk] = torch.from_numpy(np.array(windows[chunk], dtype=np.int32))
            self._targets[chunk] = np.count_nonzero(windows[chunk, 1:] != PAD, axis=1)

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "ResidentWindows":
        """Some of the rows."""
        part = ResidentWindows.__new__(ResidentWindows)
        part._targets = self._targets[rows]
        if isinstance(rows, slice):
            part._tokens = self._tokens[rows]
        else:
            index = torch.from_numpy(rows)
            # Only from pinned memory does a copy not wait for the work before it.
            index = index.pin_memory() if self._tokens.is_cuda else index
            part._tokens = self._tokens.index_select(0, index.to(self._tokens.device, non_blocking=True))
        return part

    def target_count(self) -> int:
        """As the function of this name."""
        return int(self._targets.sum())

    def tokens(self) -> Tensor:
        """All of every row, [B, window] int64: the width is the same for every batch."""
        return self._tokens.long()


class ContextRows:
    """Windows with the contexts of a fixed-point model, which it then need not read step by step.

    Args:
        windows: token ids [N, window].
        contexts: after each of the first window - 1 tokens, [N, window - 1, W], wherever they lie.
        before: ids of the k - 1 tokens before each row, the oldest first, -1 where there is none, [N, k - 1].
        carries: whether each row goes on where the one before ends.
    """

    def __init__(self, windows: Windows, contexts: Tensor, before: NDArray[np.int64], carries: bool) -> None:
        self.windows, self.contexts, self.before, self.carries = windows, contexts, before, carries
        self._places = np.arange(len(windows))

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> "ContextRows":
        """Some of the rows, whose contexts stay where they are until they are asked for."""
        part = ContextRows(self.windows[rows], self.contexts, self.before[rows], self.carries)
        part._places = self._places[rows]
        return part

    @property
    def steps(self) -> int:
        """Tokens of a row that have a context."""
        return self.contexts.shape[1]

    def inputs(self, device: str) -> tuple[Tensor, Tensor]:
        """Ids of all tokens that have a context, [B, T] int64, padding too, and of those before them, [k - 1, B]."""
        ids_BT = torch.from_numpy(np.array(self.windows[:, :-1], dtype=np.int64))
        return ids_BT.to(device), torch.from_numpy(self.before.T).to(device)

    def state(self, device: str, steps: int) -> Contexts:
        """What stands in the place of a state for so many tokens."""
        places = torch.from_numpy(self._places).to(self.contexts.device)
        contexts_BTW = self.contexts[:, :steps].index_select(0, places).to(device)
        return Contexts(contexts_BTW.transpose(0, 1), torch.from_numpy(self.before.T).to(device))


Rows = Windows | ResidentWindows | ContextRows
"""What a training step reads."""


def target_count(rows: Rows) -> int:
    """Number of targets that are not padding; a row's first token is never a target."""
    if isinstance(rows, ResidentWindows):
        return rows.target_count()
    rows = rows.windows if isinstance(rows, ContextRows) else rows
    return int(np.count_nonzero(rows[:, 1:] != PAD))


def to_tokens(rows: Rows, device: str) -> Tensor:
    """Token ids [B, T + 1] int64; in main memory T is cut to the longest row: what follows would be padding only."""
    if isinstance(rows, ResidentWindows):
        return rows.tokens()
    rows = rows.windows if isinstance(rows, ContextRows) else rows
    used = np.flatnonzero((rows[:, 1:] != PAD).any(axis=0))
    width = int(used[-1]) + 2 if len(used) else 2
    return torch.from_numpy(np.array(rows[:, :width], dtype=np.int64)).to(device)


def to_state(rows: Rows, device: str, steps: int) -> State:
    """The state with which a model reads the first `steps` tokens of each row: None for the start of a text."""
    return rows.state(device, steps) if isinstance(rows, ContextRows) else None


def to_tensors(rows: Windows | ContextRows, device: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both [B, T]: `to_tokens` without the last and without the first."""
    tokens = to_tokens(rows, device)
    return tokens[:, :-1], tokens[:, 1:]
