"""Which tokenizer a corpus gets, and which one a folder holds."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.subwords import GPT2, SubwordTokenizer
from tune_newllm.data.tokenizer import FILE_NAME, Tokenizer, WordTokenizer
from tune_newllm.errors import CheckpointError, CorpusError

_log = logging.getLogger(__name__)


class Vocabulary(NamedTuple):
    """Where a corpus's tokenizer comes from.

    Args:
        given: the tokenizer where it is there before the corpus is read; else one is learned.
        pieces: what is learned: pieces of words, or words.
        new_words: most words of the corpus that a given tokenizer is extended by.
        note: what of the configuration could not be had; empty as a rule.
    """

    given: Tokenizer | None
    pieces: bool = False
    new_words: int = 0
    note: str = ""

    def learn(self, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """The tokenizer, learned from the texts as far as it is not there yet."""
        if isinstance(self.given, WordTokenizer) and self.new_words:
            return self.given.extended(texts, self.new_words)
        if self.given is not None:
            return self.given
        kind = SubwordTokenizer if self.pieces else WordTokenizer
        return kind.build(texts, vocab_size)


def vocabulary(config: CorpusConfig, given: Tokenizer | None = None, new_words: int = 0) -> Vocabulary:
    """The vocabulary that the configuration asks for, or the one that is given. Warns where GPT-2's pieces are out of
    reach and others take their place.

    Raises:
        CorpusError: new words are asked for, and the tokenizer given has none.
    """
    if given is not None:
        if new_words and not isinstance(given, WordTokenizer):
            raise CorpusError(
                f"training.new_words is for tokenizers of words, got {new_words}: one of pieces knows every word"
            )
        return Vocabulary(given, new_words=new_words)
    if config.tokenizer != "gpt2":
        return Vocabulary(None, pieces=config.tokenizer == "bpe")
    try:
        return Vocabulary(SubwordTokenizer.gpt2())
    except CorpusError as error:
        note = (
            f"corpus.tokenizer: GPT-2's pieces cannot be had: {error}. In their place {config.vocab_size} pieces are "
            "learned from the corpus, as with tokenizer: bpe: losses do not compare with those of GPT-2's pieces. To "
            f"have these, run once with a network (HF_HOME says where {GPT2} is kept)"
        )
        _log.warning(note)
        return Vocabulary(None, pieces=True, note=note)


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read the `tokenizer.json` of a folder, whatever kind it is.

    Raises:
        CheckpointError: the file is missing or is no tokenizer of this package.
    """
    path = folder / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
        if json.loads(text)["model"]["type"] == "BPE":
            return SubwordTokenizer.from_json(text)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read the tokenizer {path} ({error}): restore the file beside it") from error
    return WordTokenizer.load(folder)
