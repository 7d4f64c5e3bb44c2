"""Which rows of token ids an epoch visits in which order, and rows as tensors.

Rows are padded on the right with id 0, which is never a target.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PAD, UNK = 0, 1

Windows = NDArray[np.integer]
"""Token ids [N, window], as a corpus is prepared; usually memory-mapped."""


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order in which an epoch visits `count` rows; a function of its arguments alone, so resuming needs no state."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def dropout_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's dropout masks: another stream than its order, and like that a function of its arguments."""
    return int(np.random.SeedSequence([seed, epoch], spawn_key=(1,)).generate_state(1, np.uint64)[0])


def target_count(rows: Windows) -> int:
    """Number of targets that are not padding; a row's first token is never a target."""
    return int(np.count_nonzero(rows[:, 1:] != PAD))


def to_tensors(rows: Windows, device: str) -> tuple[Tensor, Tensor]:
    """Inputs and targets, both [B, T] int64, with T cut to the longest row: what follows would be padding only."""
    used = np.flatnonzero((rows[:, 1:] != PAD).any(axis=0))
    width = int(used[-1]) + 2 if len(used) else 2
    tokens = torch.from_numpy(np.array(rows[:, :width], dtype=np.int64)).to(device)
    return tokens[:, :-1], tokens[:, 1:]
