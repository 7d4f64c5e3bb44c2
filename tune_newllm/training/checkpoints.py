"""A run's checkpoints on disk: its state in two generations and the weights of its best epoch, written behind it."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from torch import Tensor

from tune_newllm.errors import CheckpointError, DamagedCheckpointError
from tune_newllm.models import LanguageModel
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.state import TrainState, read_saved_weights
from tune_newllm.training.weights import can_be_read, read_tensors, save_weights, write_packed

STATE, PREVIOUS = "state.safetensors", "state-previous.safetensors"
WEIGHTS = "model.safetensors"
CHECKPOINT_SECONDS = 10.0
"""How much training a killed process may cost, and one epoch more: between its checkpoints a run writes nothing."""
_log = logging.getLogger(__name__)


class Checkpoints:
    """The files that resuming and exporting need, and the thread that writes them.

    A state holds the weights of the best epoch too and is written before the file that has these alone. So this file
    is never ahead of the state, and where a kill left it behind it is written again from the state.

    Args:
        folder: of the run.
        fingerprint: stands for what the run was begun with.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder, self._fingerprint = folder, fingerprint
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._pending: list[Future[None]] = []
        self._newest_is_whole = True
        self._weights_of: int | None = None
        self._last = time.monotonic()
        self.epoch = 0
        """That of the newest state on disk."""

    def newest(self, config: TrainingConfig, model: LanguageModel) -> TrainState:
        """The newest whole state. One that is whole but does not fit is an error, never passed over.

        Raises:
            DamagedCheckpointError: there is none.
            CheckpointError: it does not fit the model, is of another version, or cannot be read.
        """
        faults = []
        for name in (STATE, PREVIOUS):
            path = self._folder / name
            if not path.exists():
                faults.append(f"{path} is missing")
                continue
            try:
                state = TrainState.load(path, config, model)
            except DamagedCheckpointError:
                faults.append(f"{path} is damaged")
                continue
            self._newest_is_whole, self.epoch = name == STATE, state.epoch
            state.notes += [f"{fault}; going on after epoch {state.epoch} from {name}" for fault in faults]
            return state
        raise DamagedCheckpointError(f"{' and '.join(faults)}: remove what is there to train anew, or use another copy")

    def mend_weights(self, state: TrainState) -> list[str]:
        """See to it that the weights are those of the best epoch that the newest state knows; says so if they were not.

        Raises:
            OSError: the folder cannot be written to.
        """
        self._weights_of, path = state.best_epoch, self._folder / WEIGHTS
        if state.best is None or _origin(path) == self._origin_of(state.best_epoch):
            return []
        save_weights(state.best, path, self._origin_of(state.best_epoch))
        return [f"{path} did not hold the weights of epoch {state.best_epoch}, the best one; they are written again"]

    def due(self) -> bool:
        """Whether the last checkpoint is long enough ago."""
        return time.monotonic() - self._last >= CHECKPOINT_SECONDS

    def write(self, state: TrainState, *, wait: bool) -> None:
        """Write the state as it is now, and the best weights so far: in the background, or on disk when this returns.

        Raises:
            OSError: this one, or one before it, could not be written.
        """
        self.wait()
        work = partial(self._write, state.pack(), state.epoch, state.best, state.best_epoch)
        self.also(work)
        self._last = time.monotonic()
        if wait:
            self.wait()

    def also(self, work: Callable[[], None]) -> None:
        """Have the same thread do something after all that it was given before: what a later state on disk takes for
        done is done. An OSError of it is raised as one of `write`."""
        self._pending.append(self._thread.submit(work))

    def wait(self) -> None:
        """Have everything on disk. Raises OSError as `write`."""
        while self._pending:
            self._pending.pop(0).result()

    def check(self) -> None:
        """Raise the OSError of something that could not be written, without waiting for what may be."""
        while self._pending and self._pending[0].done():
            self._pending.pop(0).result()

    def keep_best(self, state: TrainState) -> None:
        """Write the best weights alone, for a training that has spoiled its state and ends by it. Raises OSError."""
        self.wait()
        self._write_weights(state.best, state.best_epoch)

    def _write(self, packed: bytes, epoch: int, best: dict[str, Tensor] | None, best_epoch: int | None) -> None:
        # A damaged state must not take the place of the whole one that is left.
        keep = self._folder / PREVIOUS if self._newest_is_whole else None
        write_packed(self._folder / STATE, packed, keep)
        self._newest_is_whole, self.epoch = True, epoch
        self._write_weights(best, best_epoch)

    def _write_weights(self, best: dict[str, Tensor] | None, best_epoch: int | None) -> None:
        if best is not None and best_epoch != self._weights_of:
            save_weights(best, self._folder / WEIGHTS, self._origin_of(best_epoch))
            self._weights_of = best_epoch

    def _origin_of(self, epoch: int | None) -> dict[str, str]:
        """Metadata of the weights after an epoch."""
        return {"epoch": str(epoch), "fingerprint": self._fingerprint}


def has_begun(folder: Path) -> bool:
    """Whether a folder has a state to go on from, or what damage has left of one."""
    return (folder / STATE).exists() or (folder / PREVIOUS).exists()


def best_weights(folder: Path) -> dict[str, Tensor] | None:
    """The weights of a run's best epoch out of its newest state, which alone knows of all epochs; None where that is
    missing or damaged.

    Raises:
        CheckpointError: the state cannot be read.
    """
    try:
        return read_saved_weights(folder / STATE)
    except CheckpointError as error:
        if not can_be_read(error):
            raise
        return None


def saved_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint folder; those that are missing or damaged are taken from the training state, with a
    warning, where that is of the best epoch.

    Raises:
        DamagedCheckpointError: the weights are damaged, and no state has them.
        CheckpointError: they are missing or cannot be read.
    """
    fault: CheckpointError
    try:
        if (folder / WEIGHTS).exists():
            return read_tensors(folder / WEIGHTS)[0]
        fault = CheckpointError(
            f"{folder} has no {WEIGHTS}: weights are written after the first epoch, and a sweep keeps those of its "
            "best trials; give another checkpoint"
        )
    except DamagedCheckpointError as error:
        fault = error
    weights = best_weights(folder)
    if weights is None:
        raise fault
    what = "damaged" if isinstance(fault, DamagedCheckpointError) else "missing"
    _log.warning("%s is %s: the weights of the best epoch come from the training state", folder / WEIGHTS, what)
    return weights


def _origin(weights: Path) -> dict[str, str] | None:
    """The epoch and the fingerprint that weights name; None where the file does not, is missing or damaged."""
    try:
        metadata = read_tensors(weights)[1]
        return {key: metadata[key] for key in ("epoch", "fingerprint")}
    except KeyError:
        return None
    except CheckpointError as error:
        if not can_be_read(error):
            raise
        return None
