"""What every tokenizer offers, and the word-level one: lower-cased words between white space, numbered by frequency."""

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tune_newllm.data.config import TokenizerKind
from tune_newllm.data.files import write_text
from tune_newllm.errors import CheckpointError

PAD, UNK, BOS, EOS = range(4)
SPECIAL = ("<PAD>", "<UNK>", "<BOS>", "<EOS>")
FILE_NAME = "tokenizer.json"

# The characters at which str.split() splits. Unicode's White_Space, which other languages use, lacks 1c to 1f.
_WHITE_SPACE = (
    r"[\x{09}-\x{0d}\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)

# str.lower() turns a capital sigma that ends a word into the final form; a character-wise lower-casing does not.
_FINAL_SIGMA = r"\p{Cased}\p{Case_Ignorable}*\KΣ(?!\p{Case_Ignorable}*\p{Cased})"


class Tokenizer(ABC):
    """Maps texts to ids; ids 0 to 3 are `SPECIAL`, and no text encodes to PAD, to BOS but at its begin, or to EOS but
    at its end.

    Two that write the same `tokenizer.json` are equal.
    """

    kind: TokenizerKind

    @abstractmethod
    def __len__(self) -> int:
        """Entries, special tokens included."""

    @abstractmethod
    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text that is to be continued: BOS and the text's own, no EOS."""

    @abstractmethod
    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of ids, all together: pieces of words make sense only beside each other.

        Args:
            ids: of any part of a text.
            skip_special: leave special tokens out; else they are printed as such.
        """

    @abstractmethod
    def to_json(self) -> str:
        """The content of `tokenizer.json`, in the format of Hugging Face `tokenizers`."""

    def encode(self, text: str) -> list[int]:
        """Ids of a whole text: BOS, its own, EOS."""
        return [*self.encode_prompt(text), EOS]

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, unless it is there already.

        `PreTrainedTokenizerFast(tokenizer_file=...)` gives the ids of `encode`. Where special tokens are registered
        with it, as in a checkpoint, a text that spells `<BOS>` literally needs `split_special_tokens=True`. With words,
        letters newer than one side's Unicode tables may be lower-cased by the other alone.
        """
        write_text(folder / FILE_NAME, self.to_json())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())


def added_marks() -> dict[str, Any]:
    """How Hugging Face `tokenizers` is told to begin a text with BOS and to end it with EOS."""
    bos, eos = ({"SpecialToken": {"id": SPECIAL[number], "type_id": 0}} for number in (BOS, EOS))
    return {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}, eos],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, eos, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            SPECIAL[number]: {"id": SPECIAL[number], "ids": [number], "tokens": [SPECIAL[number]]}
            for number in (BOS, EOS)
        },
    }


class WordTokenizer(Tokenizer):
    """Maps words to ids (original research, tokenizer).

    Ids 0 to 3 are `SPECIAL`; words follow by falling count in the training texts, ties in order of first appearance.

    Args:
        words: the ordinary words in order of id, from 4 on.
    """

    kind = "words"

    def __init__(self, words: Iterable[str]) -> None:
        self._words = [*SPECIAL, *words]
        self._ids = {word: number for number, word in enumerate(self._words)}

    @classmethod
    def build(cls, texts: Iterable[str], vocab_size: int) -> "WordTokenizer":
        """Learn a vocabulary of at most `vocab_size` entries, special tokens included."""
        counts = _counts(texts)
        by_count = sorted(counts, key=counts.__getitem__, reverse=True)
        return cls(by_count[: vocab_size - len(SPECIAL)])

    def extended(self, texts: Iterable[str], most: int) -> "WordTokenizer":
        """The same words under the same ids, then at most `most` of the texts' most frequent other words."""
        counts = _counts(texts)
        unknown = sorted((word for word in counts if word not in self._ids), key=counts.__getitem__, reverse=True)
        return WordTokenizer([*self._words[len(SPECIAL) :], *unknown[:most]])

    def __len__(self) -> int:
        """Entries, special tokens included."""
        return len(self._words)

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text that is to be continued: BOS and one per word, no EOS."""
        return [BOS, *(self._ids.get(word.lower(), UNK) for word in text.split())]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Words joined by one space; special tokens are printed as such unless they are skipped."""
        return " ".join(self._words[number] for number in ids if not skip_special or number >= len(SPECIAL))

    def to_json(self) -> str:
        """The content of `tokenizer.json`, in the format of Hugging Face `tokenizers`."""
        return json.dumps(self._as_hugging_face(), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def load(cls, folder: Path) -> "WordTokenizer":
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or is not a word-level tokenizer of this package.
        """
        path = folder / FILE_NAME
        try:
            ids: dict[str, int] = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
            words = sorted(ids, key=ids.__getitem__)
            if tuple(words[:4]) != SPECIAL or [ids[word] for word in words] != list(range(len(words))):
                raise ValueError("its vocabulary is not numbered from the special tokens on")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"cannot read the tokenizer {path} ({error}): restore the file beside it") from error
        return cls(words[len(SPECIAL) :])

    def _as_hugging_face(self) -> dict[str, Any]:
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Replace", "pattern": {"Regex": _FINAL_SIGMA}, "content": "ς"},
                    {"type": "Lowercase"},
                ],
            },
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"Regex": _WHITE_SPACE},
                "behavior": "Removed",
                "invert": False,
            },
            "post_processor": added_marks(),
            "decoder": None,
            "model": {"type": "WordLevel", "vocab": self._ids, "unk_token": SPECIAL[UNK]},
        }


def _counts(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs, in order of first appearance."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text.lower().split())
    return counts
