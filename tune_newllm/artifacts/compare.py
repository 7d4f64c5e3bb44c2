"""One protocol under which checkpoints are measured and compared."""

import time
from dataclasses import dataclass

from tune_newllm.artifacts.checkpoint import Checkpoint
from tune_newllm.data.corpora import PreparedCorpus, prepare
from tune_newllm.errors import CheckpointError, UsageError
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


def evaluate_checkpoint(checkpoint: Checkpoint, split: str = "test", corpus: PreparedCorpus | None = None) -> Score:
    """Measure a checkpoint on a split of its corpus.

    Args:
        checkpoint: the model, on the device it was loaded to.
        split: `test` is what may be quoted; `validation` has been used to choose among trials.
        corpus: None stands for the corpus that the checkpoint's configuration names, in the checkpoint's vocabulary.

    Raises:
        CorpusError: the corpus cannot be prepared.
        CheckpointError: the corpus given is numbered by another vocabulary than the checkpoint's.
        UsageError: the corpus has no such split.
    """
    corpus = corpus or _corpus(checkpoint)
    if not _same_vocabulary(checkpoint, corpus):
        raise CheckpointError(
            f"{checkpoint.folder} has another vocabulary than the corpus {corpus.folder}: "
            "measure it on the corpus it was trained on"
        )
    windows = {"test": corpus.test, "validation": corpus.validation}[split]
    if windows is None:
        raise UsageError(f"the corpus of {checkpoint.folder} has no test split: evaluate --split validation")
    device = str(next(checkpoint.model.parameters()).device)
    began = time.perf_counter()
    figures = evaluate(checkpoint.model, windows, device=device)
    seconds = time.perf_counter() - began
    return Score(
        loss=figures.loss,
        ppl=figures.ppl,
        acc=figures.acc,
        ppl_known=figures.ppl_known,
        targets=figures.targets,
        tokens_per_s=figures.targets / seconds,
    )


def _corpus(checkpoint: Checkpoint) -> PreparedCorpus:
    corpus = prepare(checkpoint.configuration.corpus)
    if _same_vocabulary(checkpoint, corpus):
        return corpus
    # The model began as another checkpoint and kept its words, or the corpus has changed since.
    return prepare(checkpoint.configuration.corpus, tokenizer=checkpoint.tokenizer)


def _same_vocabulary(checkpoint: Checkpoint, corpus: PreparedCorpus) -> bool:
    ours, theirs = (each.tokenizer.decode(range(len(each.tokenizer))) for each in (checkpoint, corpus))
    return ours == theirs
