"""The corpus as a training reads it, by the words of the checkpoint that it begins with where it names one."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tune_newllm.data.config import CorpusConfig
    from tune_newllm.data.corpora import PreparedCorpus
    from tune_newllm.training.config import Configuration
    from tune_newllm.training.start import Start


def prepared(
    corpus: "CorpusConfig", configuration: "Configuration", base: Path, progress: bool
) -> tuple["PreparedCorpus", "Start | None"]:
    """The prepared corpus and the checkpoint to begin with; says how well the one's words fit the other.

    Args:
        corpus: as it is to be prepared.
        configuration: whose `training` may name a start.
        base: folder that a relative path of it begins at.
        progress: show a bar on stderr.

    Raises:
        CorpusError: the corpus cannot be prepared.
        CheckpointError: the checkpoint cannot be read.
        UsageError: the checkpoint is of another model.
    """
    from tune_newllm.data.corpora import prepare

    training = configuration.training
    if training.start is None:
        return prepare(corpus, progress=progress), None
    from tune_newllm.training.start import Start

    start = Start.read(base / Path(training.start).expanduser())
    start.require(configuration.model)
    found = prepare(corpus, progress=progress, tokenizer=start.tokenizer, new_words=training.new_words)
    click.echo(_fit(found, start), err=True)
    return found, start


def _fit(corpus: "PreparedCorpus", start: "Start") -> str:
    """How the checkpoint's tokenizer numbers the corpus, in one line."""
    known, unit = len(start.tokenizer), "words" if start.tokenizer.kind == "words" else "pieces"
    said = f"begins with {start.folder}, whose {known:,} {unit} number the corpus"
    if unit == "pieces":
        return said
    new = len(corpus.tokenizer) - known
    added = f"{new:,} more got rows of their own, " if new else ""
    shares = " and ".join(f"{corpus.stats[split]['unk_share']:.1%} of {split}" for split in ("train", "validation"))
    return f"{said}; {added}all others are <UNK>: {shares}" + (
        "" if new else " (--new-words N gives the commonest rows)"
    )
