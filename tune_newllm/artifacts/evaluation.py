"""Several checkpoints under one protocol: scores on the same texts, texts from the same prompts, speed and memory.

What comes out is plain rows of JSON types, which the terminal, a page and other programs read alike.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tune_newllm.artifacts.checkpoint import Checkpoint, load_checkpoint
from tune_newllm.artifacts.compare import corpus_of, evaluate_checkpoint, vocabulary_of
from tune_newllm.artifacts.generate import Sampling, generate
from tune_newllm.artifacts.sizes import stored_bytes
from tune_newllm.artifacts.speed import passes, readings
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import PreparedCorpus, prepare
from tune_newllm.data.tokenizer import BOS, UNK

OWN = "its own corpus"
"""Stands for the corpus that each checkpoint was trained on."""
PROMPTS, PROMPT_TOKENS = 3, 4
"""Beginnings of texts that are continued where no prompts are given, and the tokens of each, without BOS."""


class Asked(NamedTuple):
    """A corpus to measure on."""

    label: str
    config: Callable[[Checkpoint], CorpusConfig]
    """Its configuration; what that leaves open is as in the checkpoint's training."""


def evaluate_all(
    folders: Sequence[Path],
    *,
    corpora: Sequence[Asked],
    split: str,
    prompts: Sequence[str],
    sampling: Sampling,
    speed: bool,
    device: str,
) -> dict[str, Any]:
    """Measure checkpoints one after the other, so that only one is in memory.

    Args:
        folders: of checkpoints.
        corpora: on which each is measured, in its own vocabulary; none stands for the one of its training.
        split: `test` or `validation`.
        prompts: to be continued by each; none stands for beginnings of texts of the first checkpoint's first corpus.
        sampling: how they are continued.
        speed: whether speed is measured, which takes longer than all else.
        device: as `resolve_device` gives it.

    Returns:
        `split`, `device`, `threads`, `corpora` (labels), `prompts`, and rows: `checkpoints` (`name`, `path`, `family`,
        `int8`, `parameters`, `weight_bytes`, `vocab_size`, `tokenizer`), `scores` (`checkpoint`, `corpus`, `window`,
        `windowing` and the fields of `Score`), `texts` (`checkpoint`, `prompt`, `text`), `passes` and `readings`
        (`checkpoint` and the fields of those in `speed`); and whether the checkpoints have the `same_vocabulary`, and
        were measured on the `same_texts`.

    Raises:
        CheckpointError: a folder holds no checkpoint that can be used.
        CorpusError: a corpus cannot be prepared.
        UsageError: a corpus has no such split.
    """
    found: dict[str, Any] = {"split": split, "device": device, "threads": torch.get_num_threads()}
    found |= {
        "corpora": [each.label for each in corpora] or [OWN],
        "prompts": list(prompts),
        "same_vocabulary": True,
        "same_texts": True,
    }
    rows: dict[str, list[dict[str, Any]]] = {
        key: [] for key in ("checkpoints", "scores", "texts", "passes", "readings")
    }
    vocabulary, texts = None, None
    for name, folder in zip(_names(folders), folders, strict=True):
        checkpoint = load_checkpoint(folder, device)
        vocabulary = vocabulary or vocabulary_of(checkpoint.tokenizer)
        found["same_vocabulary"] &= vocabulary == vocabulary_of(checkpoint.tokenizer)
        rows["checkpoints"].append({"name": name} | _facts(checkpoint))
        for label, corpus, config in _prepared(checkpoint, corpora):
            score = evaluate_checkpoint(checkpoint, split, corpus)
            texts = texts if corpora or texts else _texts(config)
            found["same_texts"] &= bool(corpora) or texts == _texts(config)
            cut = {"window": config.window, "windowing": config.windowing}
            rows["scores"].append({"checkpoint": name, "corpus": label} | cut | asdict(score))
            found["prompts"] = found["prompts"] or _beginnings(corpus or corpus_of(checkpoint), split)
        for prompt in found["prompts"]:
            text = generate(checkpoint.model, checkpoint.tokenizer, prompt, sampling)
            rows["texts"].append({"checkpoint": name, "prompt": prompt, "text": text})
        if speed:
            rows["passes"] += [{"checkpoint": name} | asdict(row) for row in passes(checkpoint.model)]
            rows["readings"] += [{"checkpoint": name} | asdict(row) for row in readings(checkpoint.model)]
    return found | rows


def _names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, as short as keeps them apart."""
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while length < max(map(len, parts)) and len({each[-length:] for each in parts}) < len(set(parts)):
        length += 1
    return [str(Path(*each[-length:])) for each in parts]


def _facts(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "path": str(checkpoint.folder),
        "family": checkpoint.configuration.model.family,
        "int8": checkpoint.int8,
        "parameters": sum(parameter.numel() for parameter in checkpoint.model.parameters()),
        "weight_bytes": stored_bytes(checkpoint.model),
        "vocab_size": checkpoint.vocab_size,
        "tokenizer": checkpoint.tokenizer.kind,
    }


def _prepared(
    checkpoint: Checkpoint, corpora: Sequence[Asked]
) -> Iterator[tuple[str, PreparedCorpus | None, CorpusConfig]]:
    """Each corpus with its label and configuration; None for the one of the training."""
    if not corpora:
        yield OWN, None, checkpoint.configuration.corpus
    for asked in corpora:
        config = asked.config(checkpoint)
        yield asked.label, prepare(config, progress=True, tokenizer=checkpoint.tokenizer), config


def _texts(config: CorpusConfig) -> tuple[Any, ...]:
    """What decides which texts a corpus has for validation and test."""
    return config.name, config.validation, config.test, config.field, config.turns, config.max_tokens


def _beginnings(corpus: PreparedCorpus, split: str) -> list[str]:
    """How the first texts of a split begin, where possible without an unknown word."""
    windows = corpus.test if split == "test" and corpus.test is not None else corpus.validation
    starts = [row[1 : PROMPT_TOKENS + 1].tolist() for row in windows[:1000] if row[0] == BOS]
    starts = [start for start in starts if UNK not in start] or starts
    texts = (corpus.tokenizer.decode(start, skip_special=True) for start in starts)
    return list(dict.fromkeys(text for text in texts if text.strip()))[:PROMPTS]
