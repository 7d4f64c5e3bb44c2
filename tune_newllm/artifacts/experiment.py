"""An experiment under a name, with the files and names of the original research, in the folder of its run:

`best_NAME/`, `NAME_epoch_5/`, `NAME_epoch_10/` … and `NAME_final/` are checkpoints like the run's own;
`NAME_progress.json` has what is known of every epoch.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from tune_newllm.data.files import remove_drafts, write_text
from tune_newllm.training.config import Configuration
from tune_newllm.training.metrics import EpochResult, perplexity
from tune_newllm.training.optim import effective_lr
from tune_newllm.training.run import Run

EVERY = 5
"""Epochs between two checkpoints that stay (original research, training)."""


class Experiment:
    """Keeps the files of an experiment beside its run, in the background, and never behind the run's own state.

    Args:
        name: what the files are called.
        run: a run that has not begun in this process yet.
    """

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._run = run
        self._best_written = 0
        remove_drafts(run.folder, (self.progress.name,))
        if run.history:
            # What a process that was killed did not come to write.
            self.take_in(run.history[-1])

    @property
    def best(self) -> Path:
        """The checkpoint with the lowest val_loss."""
        return self._run.folder / f"best_{self.name}"

    @property
    def progress(self) -> Path:
        """The JSON of all epochs."""
        return self._run.folder / f"{self.name}_progress.json"

    def known(self) -> dict[str, Any]:
        """What the JSON of all epochs holds now."""
        return progress(self.name, self._run)

    def file(self, ending: str) -> Path:
        """Another file of this name."""
        return self._run.folder / f"{self.name}{ending}"

    def take_in(self, result: EpochResult) -> None:
        """After an epoch, before the next one."""
        run, ended = self._run, self._run.finished is not None
        kept = [self.file(f"_epoch_{result.epoch}")] if ended or result.epoch % EVERY == 0 else []
        kept += [self.file("_final")] if ended else []
        weights = run.weights() if kept else {}
        text = json.dumps(self.known(), indent=2, allow_nan=False) + "\n"
        best_epoch, best = run.best()
        run.later(lambda: self._write(text, result.epoch, kept, weights, best_epoch, best))

    def _write(
        self,
        text: str,
        epoch: int,
        kept: list[Path],
        weights: Mapping[str, Tensor],
        best_epoch: int,
        best: Mapping[str, Tensor],
    ) -> None:
        if best_epoch != self._best_written:
            self._run.write_checkpoint(self.best, best_epoch, best)
            self._best_written = best_epoch
        for folder in kept:
            self._run.write_checkpoint(folder, epoch, weights)
        write_text(self.progress, text)


def progress(name: str, run: Run) -> dict[str, Any]:
    """What `NAME_progress.json` holds: the original research's keys and more. Losses are nats per target; a number that
    there is not is null.
    """
    history, configuration = run.history, run.configuration
    best = min(history, key=lambda result: result.val_loss)
    return {
        "model_name": name,
        "current_epoch": history[-1].epoch,
        "total_epochs": configuration.training.epochs,
        "train_losses": [result.train_loss for result in history],
        "val_losses": [result.val_loss for result in history],
        "train_ppls": [_known(perplexity(result.train_loss)) for result in history],
        "val_ppls": [_known(result.val_ppl) for result in history],
        "best_val_loss": best.val_loss,
        "best_val_ppl": _known(best.val_ppl),
        "stopped_early": run.finished == "patience",
        "config": _config(configuration, run),
        "best_epoch": best.epoch,
        "finished": run.finished,
        "val_accs": [result.val_acc for result in history],
        "lrs": [result.lr for result in history],
        "clips": [result.clip for result in history],
        "seconds": [result.seconds for result in history],
        "steps": [result.step for result in history],
        "tokens": [result.tokens for result in history],
        "lr_stages": configuration.to_dict()["training"]["lr_stages"],
    }


def _config(configuration: Configuration, run: Run) -> dict[str, Any]:
    """The original's six keys, then what it did not write down."""
    model, training = configuration.model, configuration.training
    return {
        "vocab_size": run.vocab_size,
        "embed_dim": model.embed_dim,
        "hidden_dim": model.hidden_dim,
        "num_layers": model.num_layers,
        "batch_size": training.batch_size,
        "learning_rate": effective_lr(training, run.model_size),
        "family": model.family,
        "ctx_dim": model.ctx_dim,
        "init": model.init,
        "dropout": model.dropout,
        "parameters": run.model_size,
        "optimizer": training.optimizer,
        "lr_schedule": configuration.to_dict()["training"]["lr_schedule"],
        "clip": configuration.to_dict()["training"]["clip"],
        "precision": training.precision,
        "device": training.device,
        "corpus": configuration.corpus.name,
        "window": configuration.corpus.window,
        "seed": training.seed,
    }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
