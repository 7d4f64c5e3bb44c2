"""GPT-2's own embedding as the first one of a fixed-point model."""

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tune_newllm.data.tokenizer import SPECIAL
from tune_newllm.errors import CorpusError, UsageError
from tune_newllm.models.config import GPT2_EMBED_DIM, ModelConfig

if TYPE_CHECKING:
    from tune_newllm.data.tokenizer import Tokenizer

_log = logging.getLogger(__name__)
_FILE, _NAMES = "model.safetensors", ("wte.weight", "transformer.wte.weight")


def as_had(config: ModelConfig, tokenizer: "Tokenizer", begun: ModelConfig | None = None) -> ModelConfig:
    """The same model, with a random embedding where it asks for GPT-2's and that cannot be had, which is warned of.

    Args:
        tokenizer: of the corpus.
        begun: the model of a training that is to go on, for which this was decided when it began.
    """
    if config.embedding != "gpt2" or config.family != "fixed_point":
        return config
    if begun is not None:
        return replace(config, embedding=begun.embedding)
    try:
        gpt2_embedding(tokenizer)
    except UsageError as error:
        _log.warning("model.embedding: GPT-2's embedding cannot be had: %s. A RANDOM one takes its place", error)
        return replace(config, embedding="random")
    return config


def gpt2_embedding(tokenizer: "Tokenizer") -> Tensor:
    """A row for each of the tokenizer's ids, [V, 768]: GPT-2's for its pieces, that of its end of text for the special
    tokens.

    Raises:
        UsageError: the tokenizer is not GPT-2's, or the weights are neither in the cache nor within reach.
    """
    from tune_newllm.data.subwords import gpt2_file

    if tokenizer.kind != "gpt2":
        raise CorpusError(f"it goes with corpus.tokenizer gpt2, got {tokenizer.kind}")
    from safetensors import SafetensorError, safe_open

    path = gpt2_file(_FILE)
    try:
        with safe_open(path, framework="pt") as file:
            name = next(name for name in _NAMES if name in file.keys())  # noqa: SIM118
            pieces_PE: Tensor = file.get_tensor(name).float()
    except (OSError, StopIteration, SafetensorError) as error:
        raise CorpusError(
            f"{path} does not hold GPT-2's embedding ({error}): remove it, so that it is fetched"
        ) from None
    if pieces_PE.shape != (len(tokenizer) - len(SPECIAL), GPT2_EMBED_DIM):
        raise CorpusError(f"{path} holds an embedding of {list(pieces_PE.shape)}, not one row for each piece")
    # The end of a text is GPT-2's last piece.
    return torch.cat([pieces_PE[-1:].expand(len(SPECIAL), -1), pieces_PE])
