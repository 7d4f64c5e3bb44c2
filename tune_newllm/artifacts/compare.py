"""One protocol under which checkpoints are measured and compared."""

import contextlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tune_newllm.artifacts.checkpoint import Checkpoint
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import PreparedCorpus, open_prepared, prepare
from tune_newllm.data.tokenizer import PAD, SPECIAL, UNK, Tokenizer
from tune_newllm.errors import CheckpointError, CorpusError, UsageError
from tune_newllm.training.metrics import Evaluation, evaluate


@dataclass(frozen=True)
class Score:
    """A checkpoint's figures on one split. Exact: sums over all targets, in fp32, independent of any batch size."""

    loss: float
    """Nats per target."""
    ppl: float
    acc: float
    ppl_known: float
    """Perplexity of the targets other than `<UNK>`, or of those asked for."""
    known_share: float
    """Share of the targets that `ppl_known` counts."""
    targets: int
    tokens_per_s: float
    """Targets per second of evaluation."""
    unk_share: float
    """Share of the targets that are `<UNK>`: words that the model need not tell from each other."""
    nats_per_word: float | None
    """Sum of all losses over the words between white space, ends of texts among the losses. It does not depend on how
    words are divided, but on what of them must be told: `<UNK>` stands for any word, and words are lower-cased where
    pieces predict case and spaces. None where not every token of the texts is a target once."""
    bits_per_word: float | None
    """The same in bits."""


class OwnCorpus(NamedTuple):
    """The corpus that a checkpoint was trained on, in its own vocabulary."""

    prepared: PreparedCorpus
    same: bool
    """Whether these are still the texts of the training, as far as the fingerprint on record or else the words that
    they teach can tell."""


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    split: str = "test",
    corpus: PreparedCorpus | None = None,
    known: Tensor | None = None,
) -> Score:
    """Measure a checkpoint on a split of its corpus.

    Args:
        checkpoint: the model, on the device it was loaded to.
        split: `test` is what may be quoted; `validation` has been used to choose among trials.
        corpus: None stands for its `own_corpus`.
        known: [V], the entries that `ppl_known` counts; None stands for all but `<UNK>`.

    Raises:
        CorpusError: the corpus cannot be prepared.
        CheckpointError: the corpus given is numbered by another vocabulary than the checkpoint's.
        UsageError: the corpus has no such split.
    """
    measured = corpus or own_corpus(checkpoint).prepared
    if not _same_vocabulary(checkpoint, measured):
        raise CheckpointError(
            f"{checkpoint.folder} has another vocabulary than the corpus {measured.folder}: "
            "measure it on the corpus it was trained on"
        )
    windows = {"test": measured.test, "validation": measured.validation}[split]
    if windows is None:
        raise UsageError(f"the corpus {measured.folder} has no test split: evaluate its validation split")
    device = str(next(checkpoint.model.parameters()).device)
    began = time.perf_counter()
    figures = evaluate(checkpoint.model, windows, device=device, carries=measured.carries, known=known)
    seconds = time.perf_counter() - began
    targets = windows[:, 1:]
    counted = np.count_nonzero(targets > UNK if known is None else known.numpy()[targets])
    nats_per_word = _nats_per_word(measured, split, figures)
    return Score(
        loss=figures.loss,
        ppl=figures.ppl,
        acc=figures.acc,
        ppl_known=figures.ppl_known,
        known_share=float(counted / figures.targets),
        targets=figures.targets,
        tokens_per_s=figures.targets / seconds,
        unk_share=float(np.count_nonzero(targets == UNK) / figures.targets),
        nats_per_word=nats_per_word,
        bits_per_word=None if nats_per_word is None else nats_per_word / math.log(2),
    )


def _nats_per_word(corpus: PreparedCorpus, split: str, figures: Evaluation) -> float | None:
    stats, asked = corpus.stats[split], json.loads((corpus.folder / "meta.json").read_text(encoding="utf-8"))["corpus"]
    # All tokens but each text's first, or but the first of all, where texts follow each other as one stream.
    once = stats["tokens"] - (1 if corpus.carries else stats["texts"])
    if asked.get("max_tokens") is not None or figures.targets != once or not stats["words"]:
        return None
    return figures.loss * figures.targets / stats["words"]


def own_corpus(checkpoint: Checkpoint) -> OwnCorpus:
    """The corpus of `corpus_of`, cut anew in the checkpoint's vocabulary where it has changed since the training.

    Raises:
        CorpusError: the corpus cannot be prepared.
    """
    corpus = corpus_of(checkpoint)
    same_words = _same_vocabulary(checkpoint, corpus)
    if not same_words:
        corpus = prepare(_as_prepared(checkpoint), tokenizer=checkpoint.tokenizer)
    trained_on = _recorded(checkpoint).get("fingerprint")
    return OwnCorpus(corpus, corpus.fingerprint == trained_on if trained_on else same_words)


def measurable_corpus(checkpoint: Checkpoint) -> PreparedCorpus:
    """The prepared corpus of `own_corpus`.

    Raises:
        CorpusError: the corpus cannot be prepared.
    """
    return own_corpus(checkpoint).prepared


def corpus_of(checkpoint: Checkpoint) -> PreparedCorpus:
    """The corpus that a checkpoint was trained on: its sweep's own copy, else the one its configuration names.

    Raises:
        CorpusError: there is no copy, and the corpus cannot be prepared.
    """
    # In a sweep's folder, checkpoints are `best` and `trials/<id>`, and the copy is `data`.
    for place in list(checkpoint.folder.resolve().parents)[:2]:
        with contextlib.suppress(CorpusError):
            copy = open_prepared(place / "data")
            if _same_vocabulary(checkpoint, copy):
                return copy
    # What began as another checkpoint numbers by that one's words, which its own corpus does not teach.
    given = checkpoint.tokenizer if checkpoint.configuration.training.start else None
    return prepare(_as_prepared(checkpoint), tokenizer=given)


def _as_prepared(checkpoint: Checkpoint) -> CorpusConfig:
    """A sweep over `max_samples` learns its vocabulary from the largest number of texts, whatever a trial reads."""
    corpus = checkpoint.configuration.corpus
    texts = _recorded(checkpoint).get("stats", {}).get("train", {}).get("texts")
    return corpus if None in (corpus.max_samples, texts) else replace(corpus, max_samples=int(texts))


def _recorded(checkpoint: Checkpoint) -> dict[str, Any]:
    """The corpus it was trained on, its `fingerprint` and `stats`, where the export or the sweep around it says it."""
    here = checkpoint.folder.resolve()
    for place in (here, *list(here.parents)[:2]):
        with contextlib.suppress(OSError, ValueError):
            facts = json.loads((place / "provenance.json").read_text(encoding="utf-8"))
            alone = {"fingerprint": facts["corpus_fingerprint"]} if "corpus_fingerprint" in facts else {}
            return dict(facts.get("data", {}) | alone)
    return {}


def _same_vocabulary(checkpoint: Checkpoint, corpus: PreparedCorpus) -> bool:
    return vocabulary_of(checkpoint.tokenizer) == vocabulary_of(corpus.tokenizer)


def vocabulary_of(tokenizer: Tokenizer) -> Any:
    """All that decides which ids a text gets; equal where two models' losses per token may be compared."""
    return json.loads(tokenizer.to_json())["model"]


def known_to_all(tokenizers: Sequence[Tokenizer]) -> list[Tensor] | None:
    """For each tokenizer which of its entries all the others have too, `<PAD>` and `<UNK>` left out; None where one
    numbers pieces of words."""
    if any(tokenizer.kind != "words" for tokenizer in tokenizers):
        return None
    vocabularies = [vocabulary_of(tokenizer)["vocab"] for tokenizer in tokenizers]
    common = set.intersection(*map(set, vocabularies)) - {SPECIAL[PAD], SPECIAL[UNK]}
    return [torch.tensor([word in common for word in sorted(words, key=words.get)]) for words in vocabularies]
