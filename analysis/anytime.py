"""How low the loss of a sweep was after every amount of work."""

import numpy as np
from numpy.typing import NDArray

from .best import UNFIT
from .load import Sweep


def best_so_far(sweep: Sweep) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The improvements of a sweep in the order of their records, whatever trial made them.

    Returns:
        epochs trained in all trials together, and the lowest `val_loss` (nats per token) that any trial had after them;
        one pair for each fall of the loss and one for the last epoch. Epochs of trials that failed or diverged count
        as trained, their losses do not count.
    """
    rows = sweep.epochs.sort_values("time", kind="stable")
    unfit = sweep.trials.loc[sweep.trials["state"].isin(UNFIT), "trial_id"]
    losses = rows["val_loss"].where(np.isfinite(rows["val_loss"]) & ~rows["trial_id"].isin(unfit), np.inf)
    lowest = np.minimum.accumulate(losses.to_numpy(dtype="float64"))
    falls = np.append(True, lowest[1:] < lowest[:-1])[: lowest.size]
    falls[-1:] = True
    kept = np.isfinite(lowest) & falls
    return np.flatnonzero(kept) + 1, lowest[kept]
