"""Several checkpoints under one protocol: scores on the same texts, texts from the same prompts, speed and memory.

What comes out is plain rows of JSON types, which the terminal, a page and other programs read alike.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tune_newllm.artifacts.checkpoint import Checkpoint, load_checkpoint, read_configuration, weights_hash
from tune_newllm.artifacts.compare import OwnCorpus, evaluate_checkpoint, known_to_all, own_corpus, vocabulary_of
from tune_newllm.artifacts.generate import Sampling, generate
from tune_newllm.artifacts.quantize import verdict
from tune_newllm.artifacts.sizes import stored_bytes
from tune_newllm.artifacts.speed import left_out, passes, readings
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import PreparedCorpus, prepare
from tune_newllm.data.tokenizer import BOS, UNK, Tokenizer
from tune_newllm.data.vocabulary import load_tokenizer
from tune_newllm.errors import UsageError

OWN = "its own corpus"
"""Stands for the corpus that each checkpoint was trained on."""
PROMPTS, PROMPT_TOKENS = 3, 4
"""Beginnings of texts that are continued where no prompts are given, and the tokens of each, without BOS."""


class Asked(NamedTuple):
    """A corpus to measure on."""

    label: str
    config: Callable[[Checkpoint], CorpusConfig]
    """Its configuration; what that leaves open is as in the checkpoint's training."""


class _Texts(NamedTuple):
    """What tells whether two checkpoints were measured on the same texts, however these are numbered."""

    split: str
    hashed: str | None
    """None where an older version prepared them."""
    texts: float
    words: float
    max_tokens: int | None

    def same(self, other: "_Texts") -> bool:
        """As far as can be told."""
        hashes = {self.hashed, other.hashed}
        return self[2:] == other[2:] and self.split == other.split and (None in hashes or len(hashes) == 1)


def evaluate_all(
    folders: Sequence[Path],
    *,
    corpora: Sequence[Asked],
    split: str | None,
    prompts: Sequence[str],
    sampling: Sampling,
    speed: bool,
    device: str,
) -> dict[str, Any]:
    """Measure checkpoints one after the other, so that only one is in memory.

    Args:
        folders: of checkpoints.
        corpora: on which each is measured, in its own vocabulary; none stands for the one of its training.
        split: `test` or `validation`; None stands for test where a corpus has it, else validation.
        prompts: to be continued by each; none stands for beginnings of texts of the first checkpoint's first corpus.
        sampling: how they are continued.
        speed: whether speed is measured, which takes longer than all else.
        device: as `resolve_device` gives it.

    Returns:
        `device`, `threads`, `corpora` (labels), `prompts`, and rows: `checkpoints` (`name`, `path`, `family`, `int8`,
        `parameters`, `weight_bytes`, `fp32_weights`, `vocab_size`, `tokenizer`), `scores` (`checkpoint`, `corpus`,
        `split`, `same_corpus`, `window`, `windowing` and the fields of `Score`), `texts` (`checkpoint`, `prompt`,
        `text`), `passes` and `readings` (`checkpoint` and the fields of those in `speed`), `left_out` (`checkpoint`,
        `batch` and `context` of readings for which there was no time), `int8` (`checkpoint`, `made_from`, `change` of
        perplexity on the first corpus, `verdict`); and whether the checkpoints have the `same_vocabulary`, or
        `ppl_known` counts the `words_known_to_all` of them, and whether they were measured on the `same_texts`.

    Raises:
        CheckpointError: a folder holds no checkpoint that can be used.
        CorpusError: a corpus cannot be prepared.
        UsageError: a corpus has no such split.
    """
    tokenizers = [_tokenizer(folder) for folder in folders]
    same_vocabulary = all(vocabulary_of(each) == vocabulary_of(tokenizers[0]) for each in tokenizers[1:])
    known = None if same_vocabulary else known_to_all(tokenizers)
    measuring = _Measuring(corpora, split, sampling, speed, device, list(prompts))
    for at, (name, folder) in enumerate(zip(_names(folders), folders, strict=True)):
        measuring.add(name, folder, known[at] if known else None)
    texts, rows = measuring.compared, measuring.rows
    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "corpora": [each.label for each in corpora] or [OWN],
        "prompts": measuring.prompts,
        "same_vocabulary": same_vocabulary,
        "words_known_to_all": known is not None,
        # A corpus that is asked for is the same for all.
        "same_texts": bool(corpora) or all(each.same(texts[0]) for each in texts),
        **rows,
        "int8": _int8(rows),
    }


@dataclass
class _Measuring:
    """What was asked for, and the rows so far."""

    corpora: Sequence[Asked]
    split: str | None
    sampling: Sampling
    speed: bool
    device: str
    prompts: list[str]
    compared: list[_Texts] = field(default_factory=list)
    rows: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {
            key: [] for key in ("checkpoints", "scores", "texts", "passes", "readings", "left_out")
        }
    )

    def add(self, name: str, folder: Path, known: Tensor | None) -> None:
        """Measure a checkpoint; nothing of it stays in memory."""
        checkpoint, rows, named = load_checkpoint(folder, self.device), self.rows, {"checkpoint": name}
        rows["checkpoints"].append({"name": name} | _facts(checkpoint))
        for label, own, config in _prepared(checkpoint, self.corpora):
            corpus, split = own.prepared, self.split or ("validation" if own.prepared.test is None else "test")
            if split == "test" and corpus.test is None:
                whose = label if self.corpora else f"the corpus of {folder}"
                raise UsageError(f"{whose} has no test split: leave --split out, or give --split validation")
            stats, hashed = corpus.stats[split], corpus.text_hashes.get(split)
            self.compared.append(_Texts(split, hashed, stats["texts"], stats["words"], config.max_tokens))
            cut = {"split": split, "same_corpus": own.same, "window": config.window, "windowing": config.windowing}
            score = evaluate_checkpoint(checkpoint, split, corpus, known)
            rows["scores"].append(named | {"corpus": label} | cut | asdict(score))
            self.prompts = self.prompts or _beginnings(corpus, split)
        for prompt in self.prompts:
            text = generate(checkpoint.model, checkpoint.tokenizer, prompt, self.sampling)
            rows["texts"].append(named | {"prompt": prompt, "text": text})
        if self.speed:
            measured = list(readings(checkpoint.model))
            rows["passes"] += [named | asdict(row) for row in passes(checkpoint.model)]
            rows["readings"] += [named | asdict(row) for row in measured]
            missing = left_out(checkpoint.model, measured)
            rows["left_out"] += [named | {"batch": batch, "context": context} for batch, context in missing]


def _tokenizer(folder: Path) -> Tokenizer:
    read_configuration(folder)  # which says best what is wrong with a folder that holds no checkpoint
    return load_tokenizer(folder)


def _names(folders: Sequence[Path]) -> list[str]:
    return shortest([folder.resolve().parts for folder in folders])


def shortest(parts: Sequence[tuple[str, ...]]) -> list[str]:
    """The ends of paths, as short as keeps them apart."""
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
        "fp32_weights": _made_from(checkpoint) if checkpoint.int8 else weights_hash(checkpoint),
        "vocab_size": checkpoint.vocab_size,
        "tokenizer": checkpoint.tokenizer.kind,
    }


def _made_from(checkpoint: Checkpoint) -> str | None:
    """Hash of the weights that were quantised, where the export says it."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        summary = json.loads((checkpoint.folder / "summary.json").read_text(encoding="utf-8"))
        return str(summary["int8"]["fp32_weights"])
    return None


def _int8(rows: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What quantising has changed, where the checkpoint that was quantised is there too."""
    ppl: dict[str, float] = {}
    for row in rows["scores"]:
        ppl.setdefault(row["checkpoint"], row["ppl"])
    full = {row["fp32_weights"]: row["name"] for row in rows["checkpoints"] if not row["int8"]}
    found = []
    for row in rows["checkpoints"]:
        if row["int8"] and (other := full.get(row["fp32_weights"])):
            before, after = ppl[other], ppl[row["name"]]
            change = {"change": after / before - 1, "verdict": verdict(before, after)}
            found.append({"checkpoint": row["name"], "made_from": other} | change)
    return found


def _prepared(checkpoint: Checkpoint, corpora: Sequence[Asked]) -> Iterator[tuple[str, OwnCorpus, CorpusConfig]]:
    """Each corpus in the checkpoint's vocabulary, with its label and configuration."""
    if not corpora:
        yield OWN, own_corpus(checkpoint), checkpoint.configuration.corpus
    for asked in corpora:
        config = asked.config(checkpoint)
        prepared = prepare(config, progress=True, tokenizer=checkpoint.tokenizer)
        yield asked.label, OwnCorpus(prepared, same=True), config


def _beginnings(corpus: PreparedCorpus, split: str) -> list[str]:
    """How the first texts of a split begin, where possible without an unknown word."""
    windows = corpus.test if split == "test" and corpus.test is not None else corpus.validation
    starts = [row[1 : PROMPT_TOKENS + 1].tolist() for row in windows[:1000] if row[0] == BOS]
    starts = [start for start in starts if UNK not in start] or starts
    texts = (corpus.tokenizer.decode(start, skip_special=True) for start in starts)
    return list(dict.fromkeys(text for text in texts if text.strip()))[:PROMPTS]
