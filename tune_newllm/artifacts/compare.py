"""One protocol under which checkpoints are measured and compared."""

import contextlib
import json
import time
from dataclasses import dataclass, replace
from typing import Any

from tune_newllm.artifacts.checkpoint import Checkpoint
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import PreparedCorpus, open_prepared, prepare
from tune_newllm.errors import CheckpointError, CorpusError, UsageError
from tune_newllm.training.loop import evaluate


@dataclass(frozen=True)
class Score:
    """A checkpoint's figures on one split. Exact: sums over all targets, in fp32, independent of any batch size."""

    loss: float
    """Nats per target."""
    ppl: float
    acc: float
    ppl_known: float
    """Perplexity of the targets other than `<UNK>`."""
    targets: int
    tokens_per_s: float
    """Targets per second of evaluation."""
    same_corpus: bool
    """Whether this is the corpus of the training, as far as the checkpoint's fingerprint or else its words can tell."""


def evaluate_checkpoint(checkpoint: Checkpoint, split: str = "test", corpus: PreparedCorpus | None = None) -> Score:
    """Measure a checkpoint on a split of its corpus.

    Args:
        checkpoint: the model, on the device it was loaded to.
        split: `test` is what may be quoted; `validation` has been used to choose among trials.
        corpus: None stands for `corpus_of(checkpoint)`, cut anew in the checkpoint's vocabulary where it has another.

    Raises:
        CorpusError: the corpus cannot be prepared.
        CheckpointError: the corpus given is numbered by another vocabulary than the checkpoint's.
        UsageError: the corpus has no such split.
    """
    measured = corpus or corpus_of(checkpoint)
    same_words = _same_vocabulary(checkpoint, measured)
    if corpus is not None and not same_words:
        raise CheckpointError(
            f"{checkpoint.folder} has another vocabulary than the corpus {corpus.folder}: "
            "measure it on the corpus it was trained on"
        )
    if not same_words:
        # The model began as another checkpoint and kept its words, or the corpus has changed since.
        measured = prepare(_as_prepared(checkpoint), tokenizer=checkpoint.tokenizer)
    windows = {"test": measured.test, "validation": measured.validation}[split]
    if windows is None:
        raise UsageError(f"the corpus of {checkpoint.folder} has no test split: evaluate --split validation")
    device = str(next(checkpoint.model.parameters()).device)
    began = time.perf_counter()
    figures = evaluate(checkpoint.model, windows, device=device)
    seconds = time.perf_counter() - began
    trained_on = _recorded(checkpoint).get("fingerprint")
    return Score(
        loss=figures.loss,
        ppl=figures.ppl,
        acc=figures.acc,
        ppl_known=figures.ppl_known,
        targets=figures.targets,
        tokens_per_s=figures.targets / seconds,
        same_corpus=measured.fingerprint == trained_on if trained_on else same_words,
    )


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
    return prepare(_as_prepared(checkpoint))


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
    ours, theirs = (each.tokenizer.decode(range(len(each.tokenizer))) for each in (checkpoint, corpus))
    return ours == theirs
