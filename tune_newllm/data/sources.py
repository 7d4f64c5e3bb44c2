"""Where a corpus's texts come from, by its name."""

from collections.abc import Callable
from typing import NamedTuple

from tune_newllm.data import hub, python_docs, text_files, toy
from tune_newllm.data.choices import among
from tune_newllm.data.config import CorpusConfig
from tune_newllm.errors import CorpusError


class Source(NamedTuple):
    """Two functions of a configuration and whether progress is shown.

    Args:
        digest: what the texts depend on, without the names of files.
        read: the texts of each split, at least of train and validation.
    """

    digest: Callable[[CorpusConfig, bool], str]
    read: Callable[[CorpusConfig, bool], dict[str, list[str]]]


_HUB = Source(hub.digest, hub.read)
_SOURCES = {
    "python-docs": Source(lambda _, __: python_docs.digest(), lambda _, progress: python_docs.read(progress)),
    "text": Source(lambda config, _: text_files.digest(config), text_files.read),
    "toy": Source(lambda _, __: toy.digest(), lambda _, __: toy.read()),
    **dict.fromkeys(hub.CORPORA, _HUB),
}


def source_of(name: str) -> Source:
    """The source of the corpus with this name.

    Raises:
        CorpusError: there is none.
    """
    if name.startswith(hub.PREFIX):
        return _HUB
    if name not in _SOURCES:
        known = [*_SOURCES, f"{hub.PREFIX}OWNER/NAME[:CONFIG] of the Hugging Face Hub"]
        hint = f"did you mean {hub.PREFIX}{name}? " if "/" in name else ""
        raise CorpusError(f"there is no corpus {name!r}: {hint}{among(name, known)}")
    return _SOURCES[name]
