"""Checkpoints on disk: the folder of a trial, of `train --to`, or of an export. All three share these files:

`configuration.json` (the resolved configuration and `vocab_size`), `tokenizer.json`, `model.safetensors`.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from tune_newllm.artifacts.quantize import Int8, insert_flattened, int8_of
from tune_newllm.data.tokenizer import Tokenizer
from tune_newllm.data.vocabulary import load_tokenizer
from tune_newllm.errors import CheckpointError
from tune_newllm.models import LanguageModel, build
from tune_newllm.training.checkpoints import WEIGHTS, saved_weights
from tune_newllm.training.config import Configuration
from tune_newllm.training.run import CONFIGURATION
from tune_newllm.training.weights import insert_weights, read_tensors

_CONFIGURATION: TypeAdapter[Configuration] = TypeAdapter(Configuration)


@dataclass(frozen=True)
class Checkpoint:
    """A trained model with what is needed to use it."""

    model: LanguageModel
    """In evaluation mode."""
    tokenizer: Tokenizer
    configuration: Configuration
    vocab_size: int
    folder: Path
    int8: Int8 | None = None
    """How its weights are quantised: such a model can be used, but not trained."""


def load_checkpoint(folder: Path, device: str = "cpu") -> Checkpoint:
    """Read a checkpoint folder of any kind. Weights that are missing or damaged are taken from the training state, with
    a warning, where that is of the best epoch.

    Raises:
        DamagedCheckpointError: the weights are damaged, and no state has them.
        CheckpointError: a file is missing or damaged, or the files do not belong together.
    """
    configuration, vocab_size = _read(folder)
    tokenizer = load_tokenizer(folder)
    if len(tokenizer) != vocab_size:
        raise CheckpointError(
            f"{folder} mixes two checkpoints: its tokenizer numbers {len(tokenizer)}, its configuration {vocab_size}"
        )
    model = build(configuration.model, vocab_size, seed=0)
    int8 = int8_of(_hugging_face_config(folder))
    if int8:
        insert_flattened(model, *read_tensors(folder / WEIGHTS))
    else:
        insert_weights(folder, saved_weights(folder), model)
    model.to(device).eval()
    return Checkpoint(model, tokenizer, configuration, vocab_size, folder, int8)


def _hugging_face_config(folder: Path) -> dict[str, Any]:
    """The `config.json` of an export; empty where there is none."""
    try:
        return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is damaged ({type(error).__name__}: {error})") from None


def read_configuration(folder: Path) -> Configuration:
    """The resolved configuration of a checkpoint folder, which may have no weights yet.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    return _read(folder)[0]


def provenance_of(folder: Path) -> dict[str, Any]:
    """What is on file of where a checkpoint comes from: in its own folder, that of the run which keeps it under a name,
    or its sweep's, with `sweep` and `trial`; empty where nothing is.

    Raises:
        CheckpointError: the file is damaged.
    """
    here = folder.resolve()
    places: list[tuple[Path, dict[str, Any]]] = [(here, {})]
    if here.parent.name == "trials":
        sweep = here.parent.parent
        places.append((sweep, {"sweep": sweep.name, "trial": here.name}))
    elif (here.parent / CONFIGURATION).is_file():
        places.append((here.parent, {}))
    for place, more in places:
        path = place / "provenance.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) | more
        except FileNotFoundError:
            continue
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is damaged ({error}): restore it from a copy or remove it") from None
    return {}


def weights_hash(checkpoint: Checkpoint) -> str:
    """Hash of the weights' names and values, which any folder with these weights has."""
    everything = hashlib.sha256()
    for name, tensor in sorted(checkpoint.model.state_dict().items()):
        everything.update(name.encode() + b"\0")
        everything.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy())
    return everything.hexdigest()


def _read(folder: Path) -> tuple[Configuration, int]:
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder: give the folder of an export, of a trial or of `train --to`")
    path = folder / CONFIGURATION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vocab_size = content.pop("vocab_size")
        if not isinstance(vocab_size, int):
            raise ValueError(f"vocab_size must be a whole number, got {vocab_size!r}")
        return _CONFIGURATION.validate_python(content), vocab_size
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} is no checkpoint: it has no {path.name}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{path} is damaged: {where}: {first['msg']}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({type(error).__name__}: {error})") from None
