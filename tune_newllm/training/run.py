"""One training in a folder: begins it, or goes on with it, and keeps on disk what resuming and exporting need."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from tune_newllm.data.files import write_text
from tune_newllm.data.tokenizer import FILE_NAME
from tune_newllm.errors import CheckpointError, DamagedCheckpointError, UsageError
from tune_newllm.models import LanguageModel, build
from tune_newllm.training.config import Configuration
from tune_newllm.training.loop import EpochResult, fit
from tune_newllm.training.state import TrainState, read_saved_weights
from tune_newllm.training.weights import can_be_read, read_tensors, save_weights

if TYPE_CHECKING:
    from tune_newllm.data.corpora import PreparedCorpus

STATE, PREVIOUS = "state.safetensors", "state-previous.safetensors"
WEIGHTS = "model.safetensors"
CONFIGURATION = "configuration.json"


class Run:
    """A training that lives in a folder, in which no other process may train at the same time.

    The folder holds `configuration.json`, `tokenizer.json`, `model.safetensors` (the weights of the epoch with the
    lowest val_loss), `state.safetensors` (everything needed to go on) and `state-previous.safetensors` (the same of
    the epoch before, in case the newer one gets damaged). A folder with a state is continued.

    An epoch's state is written before its weights. So these are never ahead of it, and where a kill left them behind
    they are written again from the state when the run is opened.

    Args:
        folder: made if need be.
        configuration: resolved: nothing in it is `auto`.
        corpus: the prepared corpus, of which `corpus.max_samples` texts are trained on; its tokenizer is saved beside
            the weights.
        model: start from these weights instead of fresh ones.

    Raises:
        DamagedCheckpointError: the folder has states, but no whole one.
        CheckpointError: the state in the folder is of another configuration or version, or cannot be read.
        UsageError: the device or precision is not there, or the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, configuration: Configuration, corpus: "PreparedCorpus", model: LanguageModel | None = None
    ) -> None:
        self.folder, self.configuration = folder, configuration
        self._corpus = corpus.first(configuration.corpus.max_samples)
        training = configuration.training
        model = model or build(configuration.model, len(corpus.tokenizer), training.seed)
        self._newest_is_whole, self._fingerprint = True, _fingerprint(configuration)
        begun = has_begun(folder)
        # Before the folder is made, so that what cannot be trained leaves none behind.
        self._state = self._newest_state(model) if begun else TrainState.create(training, model)
        self._state.fingerprint = self._fingerprint
        self.notes = self._state.notes
        """What the user should know, a line each; emptied by whoever passes it on."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _remove_drafts(folder)
            corpus.tokenizer.save(folder)
            self._write_configuration()
            self._mend_weights()
        except OSError as error:
            raise UsageError(
                f"a run needs a folder it can write to, got {folder} ({error.strerror}): give another one"
            ) from error

    def _newest_state(self, model: LanguageModel) -> TrainState:
        """The newest whole state. One that is whole but does not fit is an error, never passed over."""
        faults = []
        for name in (STATE, PREVIOUS):
            path = self.folder / name
            if not path.exists():
                faults.append(f"{path} is missing")
                continue
            try:
                state = TrainState.load(path, self.configuration.training, model)
            except DamagedCheckpointError:
                faults.append(f"{path} is damaged")
                continue
            if state.fingerprint != self._fingerprint:
                raise CheckpointError(
                    f"{path} is of a training with another configuration{self._difference()}: "
                    "go on with that one or give another folder"
                )
            self._newest_is_whole = name == STATE
            state.notes += [f"{fault}; going on after epoch {state.epoch} from {name}" for fault in faults]
            return state
        raise DamagedCheckpointError(f"{' and '.join(faults)}: remove what is there to train anew, or use another copy")

    def _difference(self) -> str:
        """In which keys the folder's configuration is another one, as far as it says so."""
        try:
            there = _begun_with(json.loads((self.folder / CONFIGURATION).read_text(encoding="utf-8")))
            here = _begun_with(self.configuration.to_dict())
            keys = [f"{part}.{key}" for part in here for key in here[part] if here[part][key] != there[part].get(key)]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return ""
        return f" ({', '.join(keys)})" if keys else ""

    def _mend_weights(self) -> None:
        """See to it that the weights are those of the best epoch, or that there are none."""
        path, best = self.folder / WEIGHTS, self._state.best_epoch
        if best is None or _origin(path) == self._origin_of(best):
            return
        found = best_weights(self.folder, best)
        if found is None:
            path.unlink(missing_ok=True)
            outcome = "lost until there is a better one"
        else:
            save_weights(found, path, self._origin_of(best))
            outcome = "written again"
        self.notes.append(f"{path} did not hold the weights of epoch {best}, the best one; they are {outcome}")

    def _origin_of(self, epoch: int) -> dict[str, str]:
        """Metadata of the weights after an epoch."""
        return {"epoch": str(epoch), "fingerprint": self._fingerprint}

    def _write_configuration(self) -> None:
        """Also when a run goes on: it may have been given more epochs."""
        text = json.dumps(self.configuration.to_dict() | {"vocab_size": len(self._corpus.tokenizer)}, indent=2)
        write_text(self.folder / CONFIGURATION, text + "\n")

    @property
    def history(self) -> list[EpochResult]:
        """Results of all finished epochs, those of earlier processes included."""
        return self._state.history

    @property
    def micro_batch(self) -> int:
        """Most sequences in one forward pass. May be set, before the first epoch, to begin with fewer."""
        return self._state.micro_batch

    @micro_batch.setter
    def micro_batch(self, sequences: int) -> None:
        self._state.micro_batch = sequences

    @property
    def finished(self) -> Literal["epochs", "patience"] | None:
        """Why the training is over, None while it is not."""
        return self._state.finished

    def epochs(self) -> Iterator[EpochResult]:
        """Train on, one result at a time; each is on disk with its state before it is yielded.

        Raises:
            DivergedError, InfeasibleError: as `training.loop.fit`; the files keep the last good epoch.
            OSError: the folder cannot be written to any more; likewise.
        """
        for result in fit(self._state, self._corpus.train, self._corpus.validation, self.configuration.training):
            # A damaged state must not take the place of the whole one that is left.
            self._state.save(self.folder / STATE, keep=self.folder / PREVIOUS if self._newest_is_whole else None)
            self._newest_is_whole = True
            if self._state.is_best:
                save_weights(self._state.model.state_dict(), self.folder / WEIGHTS, self._origin_of(result.epoch))
            yield result


def has_begun(folder: Path) -> bool:
    """Whether a folder has a state to go on from, or what damage has left of one."""
    return (folder / STATE).exists() or (folder / PREVIOUS).exists()


def best_weights(folder: Path, best: int | None = None) -> dict[str, Tensor] | None:
    """The weights of a run's best epoch out of its states; None where that epoch is neither of theirs.

    Args:
        best: that epoch, if it is known; otherwise the newest state tells, which alone knows of all epochs.

    Raises:
        CheckpointError: a state cannot be read.
    """
    for name in (STATE, PREVIOUS):
        try:
            saved = read_saved_weights(folder / name)
        except CheckpointError as error:
            if not can_be_read(error):
                raise
            if best is None:
                return None
            continue
        best = best or saved.best_epoch
        if saved.epoch == best:
            return saved.tensors
    return None


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


def _fingerprint(configuration: Configuration) -> str:
    text = json.dumps(_begun_with(configuration.to_dict()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _begun_with(plain: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what a run may go on with otherwise than it was begun."""
    free = ("epochs", "micro_batch", "device")
    return plain | {"training": {key: value for key, value in plain["training"].items() if key not in free}}


def _remove_drafts(folder: Path) -> None:
    """Remove what processes that are gone did not finish writing."""
    for draft in folder.glob(".*.*"):
        name, _, process = draft.name[1:].rpartition(".")
        if name in (STATE, WEIGHTS, CONFIGURATION, FILE_NAME) and process.isdecimal() and not _lives(int(process)):
            draft.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether there is another process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process != os.getpid()


def log_line(result: EpochResult) -> str:
    """One epoch in one line, for a log."""
    numbers = (f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"
               for name, value in dataclasses.asdict(result).items())  # fmt: skip
    return "  ".join(numbers)
