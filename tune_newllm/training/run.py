"""One training in a folder: begins it, or goes on with it, and keeps on disk what resuming and exporting need."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from tune_newllm.data.files import remove_drafts, write_text
from tune_newllm.data.tokenizer import FILE_NAME
from tune_newllm.errors import CheckpointError, DivergedError, InfeasibleError, UsageError
from tune_newllm.models import LanguageModel, build
from tune_newllm.models.fixed_point import FixedPointModel
from tune_newllm.training.checkpoints import STATE, WEIGHTS, Checkpoints, has_begun
from tune_newllm.training.config import Configuration
from tune_newllm.training.continuation import rescheduled
from tune_newllm.training.gpt2_embedding import gpt2_embedding
from tune_newllm.training.loop import EpochResult, Evaluation, evaluate, fit
from tune_newllm.training.optim import model_size
from tune_newllm.training.schedules import LRScheduleConfig, Position, lr_at
from tune_newllm.training.state import TrainState
from tune_newllm.training.weights import save_weights

if TYPE_CHECKING:
    from tune_newllm.data.corpora import PreparedCorpus

CONFIGURATION = "configuration.json"


class Run:
    """A training that lives in a folder, in which no other process may train at the same time.

    The folder holds `configuration.json`, `tokenizer.json`, `model.safetensors` (the weights of the epoch with the
    lowest val_loss), `state.safetensors` (everything needed to go on) and `state-previous.safetensors` (the same of
    the checkpoint before, in case the newer one gets damaged). A folder with a state is continued; the epochs since
    then are trained again, bit by bit as before.

    Args:
        folder: made if need be.
        configuration: resolved: nothing in it is `auto`.
        corpus: the prepared corpus, of which `corpus.max_samples` texts are trained on; its tokenizer is saved beside
            the weights.
        model: start from these weights instead of fresh ones.
        ends: epochs after which whoever reads the results may end the training for good; like the last one these are
            on disk before their results are yielded.

    Raises:
        DamagedCheckpointError: the folder has states, but no whole one.
        CheckpointError: the state in the folder is of another configuration or version, or cannot be read.
        UsageError: the device or precision is not there, the folder cannot be written to, or GPT-2's embedding is asked
            for and cannot be had.
    """

    def __init__(
        self,
        folder: Path,
        configuration: Configuration,
        corpus: "PreparedCorpus",
        model: LanguageModel | None = None,
        ends: Collection[int] = (),
    ) -> None:
        self.folder, self.configuration, self._ends = folder, configuration, ends
        self._corpus = corpus.first(configuration.corpus.max_samples)
        training = configuration.training
        begun = has_begun(folder)
        if model is None:
            model = build(configuration.model, len(corpus.tokenizer), training.seed)
            if isinstance(model, FixedPointModel) and configuration.model.embedding == "gpt2" and not begun:
                model.take_embedding(gpt2_embedding(corpus.tokenizer))
        self._fingerprint = _fingerprint(configuration)
        self._checkpoints = Checkpoints(folder, self._fingerprint)
        # Before the folder is made, so that what cannot be trained leaves none behind.
        self._state = self._newest_state(model) if begun else TrainState.create(training, model)
        self._state.fingerprint = self._fingerprint
        if training.epochs < self._state.epoch:
            # On file it has never fewer than are trained.
            training = replace(training, epochs=self._state.epoch)
            self.configuration = replace(configuration, training=training)
        self.notes = self._state.notes
        """What the user should know, a line each; emptied by whoever passes it on."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_drafts(folder, (STATE, WEIGHTS, CONFIGURATION, FILE_NAME))
            corpus.tokenizer.save(folder)
            self._write_configuration(folder)
            self.notes += self._checkpoints.mend_weights(self._state)
        except OSError as error:
            raise UsageError(
                f"a run needs a folder it can write to, got {folder} ({error.strerror}): give another one"
            ) from error

    def _newest_state(self, model: LanguageModel) -> TrainState:
        state = self._checkpoints.newest(self.configuration.training, model)
        if state.fingerprint != self._fingerprint:
            raise CheckpointError(
                f"{self.folder} has the state of a training with another configuration{self._difference()}: "
                "go on with that one or give another folder"
            )
        return state

    def _difference(self) -> str:
        """In which keys the folder's configuration is another one, as far as it says so."""
        try:
            there = _begun_with(json.loads((self.folder / CONFIGURATION).read_text(encoding="utf-8")))
            here = _begun_with(self.configuration.to_dict())
            keys = [f"{part}.{key}" for part in here for key in here[part] if here[part][key] != there[part].get(key)]
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return ""
        return f" ({', '.join(keys)})" if keys else ""

    def _write_configuration(self, folder: Path) -> None:
        """Also when a run goes on: it may have been given more epochs."""
        text = json.dumps(self.configuration.to_dict() | {"vocab_size": len(self._corpus.tokenizer)}, indent=2)
        write_text(folder / CONFIGURATION, text + "\n")

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

    @property
    def lr_share(self) -> float:
        """Learning rate of the next step as a share of its course's peak; there must be a finished epoch."""
        state, training = self._state, self.configuration.training
        stage = training.lr_stage(state.epoch)
        steps, tokens = state.step // state.epoch, state.tokens // state.epoch
        place = Position(state.step, steps, training.laid_out_over, state.tokens, tokens)
        return lr_at(place.within(stage), 1.0, stage.lr_schedule)

    def reschedule(self, lr: float, lr_schedule: LRScheduleConfig) -> None:
        """Follow another course of the learning rate from the next epoch on, laid out over the epochs still to come;
        asked again while it is under way this changes nothing.

        Raises:
            UsageError: no epoch is to come, or the schedule is impossible in so few.
        """
        training = self.configuration.training
        try:
            training = rescheduled(training, self._state.epoch, training.epochs, lr, lr_schedule)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.configuration = replace(self.configuration, training=training)
        self._write_configuration(self.folder)
        self._state.judge(training)

    @property
    def model_size(self) -> int:
        """Scalars of the model's weights."""
        return model_size(self._state.model)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return len(self._corpus.tokenizer)

    def weights(self) -> dict[str, Tensor]:
        """A copy of the weights as they are now, on the CPU."""
        return {name: each.to("cpu", copy=True) for name, each in self._state.model.state_dict().items()}

    def best(self) -> tuple[int, dict[str, Tensor]]:
        """The best epoch so far and its weights, on the CPU and never changed; there must be a finished epoch."""
        assert self._state.best_epoch is not None
        assert self._state.best is not None
        return self._state.best_epoch, self._state.best

    def write_checkpoint(self, folder: Path, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Write a folder of the same kind as the run's own, without a state: weights of one of its epochs.

        Raises:
            OSError: it cannot be written to.
        """
        folder.mkdir(parents=True, exist_ok=True)
        remove_drafts(folder, (WEIGHTS, CONFIGURATION, FILE_NAME))
        self._corpus.tokenizer.save(folder)
        self._write_configuration(folder)
        save_weights(weights, folder / WEIGHTS, {"epoch": str(epoch), "fingerprint": self._fingerprint})

    def later(self, work: Callable[[], None]) -> None:
        """Have it done in the background, before any state is on disk that is newer than what the run holds now.

        An OSError of it ends the run as one of a checkpoint does.
        """
        self._checkpoints.also(work)

    def evaluate(self) -> Evaluation:
        """The weights as they are, on the validation split."""
        corpus, state = self._corpus, self._state
        return evaluate(state.model, corpus.validation, device=state.device, carries=corpus.carries)

    @property
    def saved_epoch(self) -> int:
        """The epoch after which another process would go on now."""
        return self._checkpoints.epoch

    def epochs(self) -> Generator[EpochResult, None, None]:
        """Train on, one result at a time. To stop between two of them close the iterator, which saves what is there.

        Raises:
            DivergedError, InfeasibleError: as `training.loop.fit`; the state on disk is that of the last checkpoint,
                the weights are the best ones of all epochs.
            OSError: the folder cannot be written to any more; what the last checkpoint left stays.
        """
        state, checkpoints = self._state, self._checkpoints
        try:
            for result in fit(
                state,
                self._corpus.train,
                self._corpus.validation,
                self.configuration.training,
                self._corpus.carries,
                self.folder,
            ):
                checkpoints.check()
                awaited = state.finished is not None or result.epoch in self._ends
                if awaited or checkpoints.due():
                    checkpoints.write(state, wait=awaited)
                yield result
        except GeneratorExit:
            checkpoints.wait()
            if checkpoints.epoch < state.epoch:
                checkpoints.write(state, wait=True)
            raise
        except (DivergedError, InfeasibleError):
            checkpoints.keep_best(state)
            raise
        finally:
            # Ctrl-C in the middle of an epoch leaves no state to be saved but the one that is being written.
            checkpoints.wait()


def _fingerprint(configuration: Configuration) -> str:
    text = json.dumps(_begun_with(configuration.to_dict()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _begun_with(plain: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what a run may go on with otherwise than it was begun.

    The length of its schedules is none of that: more epochs must not lay them out anew.
    """
    free = ("epochs", "lr_stages", "early_stopping", "micro_batch", "device")
    training = plain["training"]
    kept = {key: value for key, value in training.items() if key not in free}
    return plain | {"training": kept | {"schedule_epochs": training.get("schedule_epochs") or training["epochs"]}}


def log_line(result: EpochResult) -> str:
    """One epoch in one line, for a log."""
    numbers = (f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"
               for name, value in dataclasses.asdict(result).items())  # fmt: skip
    return "  ".join(numbers)
