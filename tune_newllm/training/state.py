"""Everything a training run needs to go on where it stopped, as one object and one file."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tune_newllm.errors import CheckpointError, UsageError
from tune_newllm.models import LanguageModel
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import Number, require_number, resolve_device
from tune_newllm.training.metrics import EpochResult
from tune_newllm.training.optim import build_optimizers
from tune_newllm.training.signals import Plateau
from tune_newllm.training.weights import insert_weights, load_weights, read_tensors, save_weights, write_tensors

__all__ = ["TrainState", "load_weights", "save_weights"]

_FORMAT = 2


@dataclass
class TrainState:
    """A model in training. Make one with `create` or `load`; `fit` advances it.

    What is not here is derived: an epoch's data order and dropout masks from (seed, epoch), the learning rate from the
    position in the run, the clip limit from the position and `norms`.
    """

    model: LanguageModel
    optimizers: list[torch.optim.Optimizer]
    """Each has parameters of its own; together they have all."""
    scaler: torch.amp.GradScaler | None
    """Loss scaling, in fp16 only."""
    generator: torch.Generator
    """Source of the dropout masks, seeded anew in every epoch; the model holds the same object."""
    device: str
    number: Number
    step: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Training targets seen."""
    patience_loss: float | None = None
    """Loss that early stopping compares with; not always the lowest, because of min_delta."""
    bad_epochs: int = 0
    """Epochs in a row that did not improve on it."""
    finished: Literal["epochs", "patience"] | None = None
    norms: list[float] = field(default_factory=list)
    """Gradient norms of all steps that were applied, ascending; kept only for a clip schedule that reads them."""
    plateau: Plateau = field(default_factory=Plateau)
    history: list[EpochResult] = field(default_factory=list)

    @classmethod
    def create(cls, config: TrainingConfig, model: LanguageModel) -> "TrainState":
        """A run before its first step; moves the model to the device and gives it its dropout generator.

        Raises:
            UsageError: the device is not there, cannot compute in the precision asked for, or precision is `auto`.
        """
        device = resolve_device(config.device)
        number = config.precision
        if number == "auto":
            raise UsageError("precision is still auto: let training.precision.resolve choose it before training")
        require_number(number, device)
        model.to(device)
        generator = model.dropout_generator = torch.Generator(device)
        scaler = torch.amp.GradScaler(torch.device(device).type) if number == "fp16" else None
        return cls(model, build_optimizers(config, model), scaler, generator, device, number)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return list(self.model.parameters())

    def set_lr(self, lr: float) -> None:
        """Give all parameters one learning rate."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def best_epoch(self) -> int | None:
        """1-based epoch of the lowest val_loss, the first of equals; None before the first epoch."""
        return min(self.history, key=lambda result: result.val_loss).epoch if self.history else None

    @property
    def is_best(self) -> bool:
        """Whether the last epoch has a new lowest val_loss, so that its weights are to be kept."""
        return self.epoch > 0 and self.best_epoch == self.epoch

    def record(self, result: EpochResult, config: TrainingConfig) -> None:
        """Take in a finished epoch and decide whether the run is finished (original research, early stopping)."""
        self.history.append(result)
        stopping = config.early_stopping
        if stopping is not None:
            if self.patience_loss is not None and result.val_loss > self.patience_loss - stopping.min_delta:
                self.bad_epochs += 1
            else:
                self.patience_loss, self.bad_epochs = result.val_loss, 0
        self.finished = self._finished(config)

    def _finished(self, config: TrainingConfig) -> Literal["epochs", "patience"] | None:
        if self.epoch >= config.epochs:
            return "epochs"
        stopping = config.early_stopping
        return "patience" if stopping is not None and self.bad_epochs >= stopping.patience else None

    def save(self, path: Path) -> None:
        """Write one safetensors file: tensors `model.*`, `optimizer.*` and `norms`, the rest as JSON in its metadata.

        Atomic: a reader finds the old file or the new one, never a part.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for optimizer, names in zip(self.optimizers, self._names(), strict=True):
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"optimizer.{names[index]}.{slot}": each for slot, each in slots.items() if each is not None
                }
        tensors["norms"] = torch.tensor(self.norms, dtype=torch.float64)
        scalars = {
            "format": _FORMAT,
            "optimizers": self._kinds(),
            "step": self.step,
            "tokens": self.tokens,
            "patience_loss": self.patience_loss,
            "bad_epochs": self.bad_epochs,
            "plateau": dataclasses.asdict(self.plateau),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "history": [dataclasses.asdict(result) for result in self.history],
        }
        write_tensors(path, tensors, {"state": json.dumps(scalars)})

    @classmethod
    def load(cls, path: Path, config: TrainingConfig, model: LanguageModel) -> "TrainState":
        """Read what `save` wrote, into `model`. A run that ended because its epochs were done is unfinished again
        when `config.epochs` asks for more.

        Raises:
            CheckpointError: the file is missing, damaged, of another version, or of another model or optimizer.
            UsageError: as in `create`.
        """
        tensors, metadata = read_tensors(path)
        state = cls.create(config, model)
        try:
            scalars = json.loads(metadata["state"])
            if scalars["format"] != _FORMAT:
                raise CheckpointError(
                    f"{path} has format {scalars['format']}, this version reads {_FORMAT}: "
                    "train anew, or go on with the version that wrote it"
                )
            insert_weights(path, _below("model.", tensors), model)
            state._restore(tensors, scalars)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{path} is not a whole training state ({error!r}): train anew or start from weights"
            ) from None
        state.finished = state._finished(config)
        return state

    def _restore(self, tensors: dict[str, Tensor], scalars: dict[str, Any]) -> None:
        if scalars["optimizers"] != self._kinds():
            raise ValueError(f"optimizers {scalars['optimizers']} instead of {self._kinds()}")
        found: dict[str, dict[str, Tensor]] = {}
        for name, tensor in _below("optimizer.", tensors).items():
            parameter, _, slot = name.rpartition(".")
            found.setdefault(parameter, {})[slot] = tensor
        for optimizer, names in zip(self.optimizers, self._names(), strict=True):
            slots = {index: found[name] for index, name in enumerate(names) if name in found}
            optimizer.load_state_dict(optimizer.state_dict() | {"state": slots})
        if self.scaler and scalars["scaler"]:
            self.scaler.load_state_dict(scalars["scaler"])
        self.step, self.tokens = scalars["step"], scalars["tokens"]
        self.patience_loss, self.bad_epochs = scalars["patience_loss"], scalars["bad_epochs"]
        self.norms, self.plateau = tensors["norms"].tolist(), Plateau(**scalars["plateau"])
        self.history = [EpochResult(**row) for row in scalars["history"]]

    def _kinds(self) -> list[str]:
        return [type(optimizer).__name__ for optimizer in self.optimizers]

    def _names(self) -> list[list[str]]:
        """For each optimizer the names of its parameters, in the order of its own numbering."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [[names[each] for group in one.param_groups for each in group["params"]] for one in self.optimizers]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
