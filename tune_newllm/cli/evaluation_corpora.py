"""The corpora that `evaluate --corpus` names: a sweep file's, one by its name, or a file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tune_newllm.errors import CorpusError

if TYPE_CHECKING:
    from tune_newllm.artifacts.evaluation import Asked
    from tune_newllm.data.config import CorpusConfig

FIELDS = ("text", "dialog", "messages")
"""Fields that are looked for in files with rows, before those that the checkpoints' own corpora name."""


def asked_corpora(texts: Sequence[str], checkpoints: Sequence[Path]) -> "list[Asked]":
    """The corpora, each once, under labels as short as keeps them apart.

    Lists of turns are marked where any of the checkpoints has learnt marks, for all of them alike.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        CorpusError: there is no such corpus.
        SpecError: a sweep file breaks a rule.
    """
    from tune_newllm.artifacts.checkpoint import read_configuration
    from tune_newllm.artifacts.evaluation import shortest

    if not texts:
        return []
    trained = [read_configuration(folder).corpus for folder in checkpoints]
    parts = {(Path(text).resolve().parts if Path(text).is_file() else (text,)): text for text in texts}
    labels = [Path(text).stem if _is_spec(text) else path[-1] for path, text in parts.items()]
    if len(set(labels)) < len(labels):
        labels = shortest(list(parts))
    return [_asked(text, label, trained) for text, label in zip(parts.values(), labels, strict=True)]


def _is_spec(text: str) -> bool:
    return Path(text).suffix in (".yaml", ".yml")


def _asked(text: str, label: str, trained: "Sequence[CorpusConfig]") -> "Asked":
    from tune_newllm.artifacts.evaluation import Asked
    from tune_newllm.data.config import CorpusConfig

    if _is_spec(text):
        from tune_newllm.sweep.loading import load_spec

        config = load_spec(Path(text), []).unsearched.corpus
        return Asked(label, lambda _: config)
    name, file = ("text", text) if Path(text).is_file() else (text, None)
    try:
        whole = CorpusConfig(name=name, train=file, validation=file, test=file)
    except ValueError as error:
        raise CorpusError(f"--corpus {text}: {error}: give a sweep file, a file of texts or another name") from None
    whole = _as_its_rows_are(whole, trained)

    def cut(own: CorpusConfig) -> CorpusConfig:
        """Into windows as a checkpoint's own corpus, of which nothing else is taken but how much is read of train."""
        windowed = replace(whole, window=own.window, windowing=own.windowing, stride=own.stride)
        return replace(windowed, max_samples=own.max_samples)

    return Asked(label, lambda checkpoint: cut(checkpoint.configuration.corpus))


def _as_its_rows_are(corpus: "CorpusConfig", trained: "Sequence[CorpusConfig]") -> "CorpusConfig":
    """With the field and the turns that its first row has."""
    from tune_newllm.data import hub, text_files

    marked = any(config.turns == "marked" for config in trained)
    if corpus.name in hub.DIALOGUES:
        return replace(corpus, turns="marked" if marked else "plain")
    if corpus.name != "text":
        return corpus

    def candidates() -> "Iterator[CorpusConfig]":
        for field in dict.fromkeys([*FIELDS, *(config.field for config in trained)]):
            if marked:
                yield replace(corpus, field=field, turns="marked")
            yield replace(corpus, field=field)

    return next(filter(text_files.begins, candidates()), corpus)
