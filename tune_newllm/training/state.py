"""Everything a training run needs to go on where it stopped, as one object and one file."""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tune_newllm.errors import CheckpointError, DamagedCheckpointError, UsageError
from tune_newllm.models import LanguageModel
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import (
    Number,
    keep_freed_memory,
    require_number,
    resolve_device,
    resolve_micro_batch,
    use_fast_products,
)
from tune_newllm.training.metrics import EpochResult
from tune_newllm.training.optim import build_optimizers
from tune_newllm.training.passes import Passes, cuda_recorder
from tune_newllm.training.signals import Plateau
from tune_newllm.training.weights import has_checksum, insert_weights, pack, read_tensors, write_packed

_FORMAT = 4


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
    micro_batch: int
    """Most sequences in one forward pass; halved where memory runs out."""
    passes: Passes
    deferred: bool
    """Whether a step's loss and norm stay on the device, unread until someone looks, so that no step waits for them."""
    step: int = 0
    """Optimizer steps taken."""
    tokens: int = 0
    """Training targets seen."""
    finished: Literal["epochs", "patience"] | None = None
    fingerprint: str = ""
    """Stands for what the run was begun with; whoever owns the file compares it."""
    probing: bool = True
    """Whether memory has sufficed for every `signals.Probe` so far; not saved."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms of all steps that were applied, ascending; kept only for a clip schedule that reads them."""
    plateau: Plateau = field(default_factory=Plateau)
    history: list[EpochResult] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    """The model's weights after the best epoch, a copy on the CPU; None before the first epoch."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, a line each; not saved, and emptied by whoever passes it on."""

    @classmethod
    def create(cls, config: TrainingConfig, model: LanguageModel) -> "TrainState":
        """A run before its first step; moves the model to the device and gives it its dropout generator.

        Raises:
            UsageError: the device is not there, cannot compute in the precision asked for, or precision is `auto`.
        """
        device = resolve_device(config.device)
        number = config.precision
        if number == "auto":
            raise UsageError("precision is still auto: let training.choosing.resolve choose it before training")
        require_number(number, device)
        if torch.device(device).type == "cpu":
            keep_freed_memory()
            use_fast_products()
        model.to(device)
        generator = model.dropout_generator = torch.Generator(device)
        scaler = torch.amp.GradScaler(torch.device(device).type) if number == "fp16" else None
        micro_batch = min(resolve_micro_batch(config.micro_batch, device), config.batch_size)
        on_cuda = torch.device(device).type == "cuda"
        passes = Passes(model, number, generator, cuda_recorder() if on_cuda and model.replayable else None)
        # Loss scaling and that schedule decide by the norm of each step.
        deferred = on_cuda and scaler is None and config.clip.schedule != "percentile"
        optimizers = build_optimizers(config, model)
        return cls(model, optimizers, scaler, generator, device, number, micro_batch, passes, deferred)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained: what a family has frozen is not."""
        return [each for each in self.model.parameters() if each.requires_grad]

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
        return _best_epoch(self.history) if self.history else None

    @property
    def is_best(self) -> bool:
        """Whether the last epoch has a new lowest val_loss, so that its weights are to be kept."""
        return self.epoch > 0 and self.best_epoch == self.epoch

    def record(self, result: EpochResult, config: TrainingConfig) -> None:
        """Take in a finished epoch and decide whether the run is finished."""
        self.history.append(result)
        if self.is_best:
            self.best = {name: each.to("cpu", copy=True) for name, each in self.model.state_dict().items()}
        self.judge(config)

    def judge(self, config: TrainingConfig) -> None:
        """Decide whether the run is finished."""
        spent = config.out_of_patience([result.val_loss for result in self.history])
        self.finished = "epochs" if self.epoch >= config.epochs else "patience" if spent else None

    def save(self, path: Path) -> None:
        """Write it atomically: a reader finds the old file or the new one, never a part. Raises OSError."""
        write_packed(path, self.pack())

    def pack(self) -> bytes:
        """A copy of it as the bytes of one safetensors file, for `write_packed`: tensors `model.*`, `optimizer.*`,
        `norms` and, unless the last epoch is the best, `best.*`; the rest as JSON in the metadata.
        """
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for optimizer, names in zip(self.optimizers, self._names(), strict=True):
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {
                    f"optimizer.{names[index]}.{slot}": each for slot, each in slots.items() if each is not None
                }
        if self.best is not None and not self.is_best:
            tensors |= {f"best.{name}": each for name, each in self.best.items()}
        tensors["norms"] = torch.tensor(self.norms, dtype=torch.float64)
        scalars = {
            "format": _FORMAT,
            "fingerprint": self.fingerprint,
            "optimizers": self._kinds(),
            "step": self.step,
            "tokens": self.tokens,
            "micro_batch": self.micro_batch,
            "plateau": dataclasses.asdict(self.plateau),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "history": [dataclasses.asdict(result) for result in self.history],
        }
        return pack(tensors, {"state": json.dumps(scalars)})

    @classmethod
    def load(cls, path: Path, config: TrainingConfig, model: LanguageModel) -> "TrainState":
        """Read what `save` wrote, into `model`. A run that ended because its epochs were done is unfinished again
        when `config.epochs` asks for more.

        Raises:
            DamagedCheckpointError: the file is damaged.
            CheckpointError: it is missing, of another version, or of another model or optimizer.
            UsageError: as in `create`.
        """
        tensors, scalars = _read(path)
        state = cls.create(config, model)
        with _whole(path):
            insert_weights(path, _below("model.", tensors), model)
            state._restore(tensors, scalars)
        state.judge(config)
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
        self.step, self.tokens, self.micro_batch = scalars["step"], scalars["tokens"], scalars["micro_batch"]
        self.fingerprint = scalars["fingerprint"]
        self.norms, self.plateau = tensors["norms"].tolist(), Plateau(**scalars["plateau"])
        self.history = [EpochResult(**row) for row in scalars["history"]]
        self.best = _best_weights(tensors, self.history)

    def _kinds(self) -> list[str]:
        return [type(optimizer).__name__ for optimizer in self.optimizers]

    def _names(self) -> list[list[str]]:
        """For each optimizer the names of its parameters, in the order of its own numbering."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        return [[names[each] for group in one.param_groups for each in group["params"]] for one in self.optimizers]


def read_saved_weights(path: Path) -> dict[str, Tensor] | None:
    """The weights of the best epoch, by their `state_dict` names and on the CPU, out of a file that `TrainState.save`
    wrote; None where no epoch was finished.

    Raises:
        CheckpointError: the file is missing, damaged or of another version.
    """
    tensors, scalars = _read(path)
    with _whole(path):
        return _best_weights(tensors, [EpochResult(**row) for row in scalars["history"]])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and scalars of a training state of this version."""
    tensors, metadata = read_tensors(path)
    with _whole(path):
        scalars: dict[str, Any] = json.loads(metadata["state"])
        if scalars["format"] != _FORMAT:
            raise CheckpointError(
                f"{path} has format {scalars['format']}, this version reads {_FORMAT}: "
                "train anew, or go on with the version that wrote it"
            )
    if not has_checksum(metadata):
        raise DamagedCheckpointError(f"{path} is damaged (it has no checksum): use another copy")
    return tensors, scalars


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turns errors over parts that are absent or do not fit into one that names the file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} is not a whole training state ({error!r}): train anew or start from weights"
        ) from None


def _best_epoch(history: list[EpochResult]) -> int:
    return min(history, key=lambda result: result.val_loss).epoch


def _best_weights(tensors: dict[str, Tensor], history: list[EpochResult]) -> dict[str, Tensor] | None:
    if not history:
        return None
    best = _below("model." if _best_epoch(history) == len(history) else "best.", tensors)
    if not best:
        raise ValueError("the weights of its best epoch are missing")
    return best


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
