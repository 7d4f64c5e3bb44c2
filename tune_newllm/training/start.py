"""The checkpoint that a training begins with: its weights, and its tokenizer, by which the corpus is numbered."""

import dataclasses
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tune_newllm.data.tokenizer import Tokenizer
from tune_newllm.data.vocabulary import load_tokenizer
from tune_newllm.errors import CheckpointError, UsageError
from tune_newllm.models import LanguageModel, ModelConfig, build
from tune_newllm.models.vocabulary_rows import with_new_rows
from tune_newllm.training.checkpoints import WEIGHTS, saved_weights
from tune_newllm.training.config import Configuration
from tune_newllm.training.run import CONFIGURATION
from tune_newllm.training.weights import insert_weights, save_weights

_FREE: dict[str, Any] = {"dropout": 0.0, "init": "orthogonal", "embedding": "random"}
"""Fields of the model in which a training may differ from its start: they shape no weight."""


@dataclass(frozen=True)
class Start:
    """What is read of a checkpoint folder."""

    folder: Path
    model: ModelConfig
    tokenizer: Tokenizer
    weights: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> "Start":
        """Read a trial's folder, a run's or an export.

        Raises:
            CheckpointError: a file is missing or damaged.
        """
        try:
            content = json.loads((folder / CONFIGURATION).read_text(encoding="utf-8"))
            model, entries = ModelConfig(**content["model"]), content["vocab_size"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CheckpointError(
                f"training.start: {folder} is no checkpoint that can be read ({error}): give the folder of a run, of a "
                "trial or of an export"
            ) from error
        tokenizer = load_tokenizer(folder)
        if len(tokenizer) != entries:
            raise CheckpointError(
                f"training.start: {folder} mixes two checkpoints: its tokenizer numbers {len(tokenizer)}, its "
                f"configuration {entries}"
            )
        weights = saved_weights(folder)
        if any(tensor.dtype == torch.int8 for tensor in weights.values()):
            raise CheckpointError(
                f"training.start: {folder} is int8, and quantising comes after training: give the checkpoint that it "
                "was made from"
            )
        return cls(folder, model, tokenizer, weights)

    def require(self, model: ModelConfig) -> None:
        """Refuse a training of another model.

        Raises:
            UsageError: they differ in what shapes the weights.
        """
        here, there = (dataclasses.asdict(dataclasses.replace(each, **_FREE)) for each in (model, self.model))
        if changed := [f"model.{key}: {there[key]}" for key in here if here[key] != there[key]]:
            raise UsageError(f"training.start: {self.folder} has {', '.join(changed)}; the file must say the same")

    def begin(self, configuration: Configuration, vocab_size: int) -> LanguageModel:
        """The model with the checkpoint's weights and, for words that it does not know, rows drawn from the seed.

        Args:
            configuration: of the training.
            vocab_size: of the corpus as `tokenizer` and the new words number it.

        Raises:
            CheckpointError: the weights are not the model's.
        """
        model = build(configuration.model, vocab_size, configuration.training.seed)
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        insert_weights(self.folder, with_new_rows(self.weights, shapes, configuration.training.seed), model)
        return model

    def save(self, folder: Path) -> None:
        """Write a copy that `read` reads, all that is needed to begin elsewhere.

        Raises:
            OSError: it cannot be written.
        """
        folder.mkdir()
        shutil.copyfile(self.folder / CONFIGURATION, folder / CONFIGURATION)
        self.tokenizer.save(folder)
        save_weights(self.weights, folder / WEIGHTS)
