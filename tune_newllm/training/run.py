"""One training in a folder: begins it, or goes on with it, and keeps on disk what resuming and exporting need."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tune_newllm.errors import UsageError
from tune_newllm.models import LanguageModel, build
from tune_newllm.training.config import Configuration
from tune_newllm.training.loop import EpochResult, fit
from tune_newllm.training.state import TrainState
from tune_newllm.training.weights import save_weights

if TYPE_CHECKING:
    from tune_newllm.data.corpora import PreparedCorpus

STATE = "state.safetensors"
WEIGHTS = "model.safetensors"
CONFIGURATION = "configuration.json"


class Run:
    """A training that lives in a folder.

    The folder holds `configuration.json`, `tokenizer.json`, `model.safetensors` (the weights of the epoch with the
    lowest val_loss) and `state.safetensors` (everything needed to go on). A folder with a state is continued.

    Args:
        folder: made if need be.
        configuration: resolved: nothing in it is `auto`.
        corpus: the prepared corpus, of which `corpus.max_samples` texts are trained on; its tokenizer is saved beside
            the weights.
        model: start from these weights instead of fresh ones.

    Raises:
        CheckpointError: the state in the folder is damaged or of another model.
        UsageError: the device or precision is not there, or the folder cannot be written to.
    """

    def __init__(
        self, folder: Path, configuration: Configuration, corpus: "PreparedCorpus", model: LanguageModel | None = None
    ) -> None:
        self.folder, self.configuration = folder, configuration
        self._corpus = corpus.first(configuration.corpus.max_samples)
        training = configuration.training
        model = model or build(configuration.model, len(corpus.tokenizer), training.seed)
        begun = (folder / STATE).exists()
        # Before the folder is made, so that what cannot be trained leaves none behind.
        self._state = TrainState.load(folder / STATE, training, model) if begun else TrainState.create(training, model)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not begun:
                corpus.tokenizer.save(folder)
            self._write_configuration()
        except OSError as error:
            raise UsageError(
                f"a run needs a folder it can write to, got {folder} ({error.strerror}): give another one"
            ) from None

    def _write_configuration(self) -> None:
        """Also when a run goes on: it may have been given more epochs."""
        text = json.dumps(self.configuration.to_dict() | {"vocab_size": len(self._corpus.tokenizer)}, indent=2)
        # Renamed into place: a run whose configuration is torn could not be continued.
        draft = self.folder / f".{CONFIGURATION}.{os.getpid()}"
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(self.folder / CONFIGURATION)

    @property
    def history(self) -> list[EpochResult]:
        """Results of all finished epochs, those of earlier processes included."""
        return self._state.history

    @property
    def finished(self) -> Literal["epochs", "patience"] | None:
        """Why the training is over, None while it is not."""
        return self._state.finished

    def epochs(self) -> Iterator[EpochResult]:
        """Train on, one result at a time; each is on disk with its state before it is yielded.

        Raises:
            DivergedError: as `training.loop.fit`; the files keep the last good epoch.
        """
        for result in fit(self._state, self._corpus.train, self._corpus.validation, self.configuration.training):
            if self._state.is_best:
                save_weights(self._state.model, self.folder / WEIGHTS)
            self._state.save(self.folder / STATE)
            yield result


def log_line(result: EpochResult) -> str:
    """One epoch in one line, for a log."""
    numbers = (f"{name} {value:.5g}" if isinstance(value, float) else f"{name} {value}"
               for name, value in dataclasses.asdict(result).items())  # fmt: skip
    return "  ".join(numbers)
