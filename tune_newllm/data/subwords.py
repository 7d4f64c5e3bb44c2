"""Tokenizers of subwords: pieces by byte-level byte-pair encoding, learned from a corpus or GPT-2's own."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_newllm.data.config import TokenizerKind
from tune_newllm.data.reach import first_line, silence
from tune_newllm.data.tokenizer import BOS, SPECIAL, Tokenizer, added_marks
from tune_newllm.errors import CorpusError

if TYPE_CHECKING:
    import tokenizers

GPT2 = "openai-community/gpt2"
"""GPT-2's repository on the Hugging Face Hub."""
_GPT2_FILE = "tokenizer.json"
_LAST_OF_GPT2 = "<|endoftext|>"
"""GPT-2's last piece, which its rule of cutting a text (letters apart from signs) lets no corpus teach."""


class SubwordTokenizer(Tokenizer):
    """Maps a text to the pieces of its bytes; no text has an unknown piece, and case and white space are kept.

    Args:
        inner: whose vocabulary begins with `SPECIAL`, which no merge makes.

    Raises:
        ValueError: its vocabulary does not begin so.
    """

    def __init__(self, inner: "tokenizers.Tokenizer") -> None:
        if tuple(map(inner.id_to_token, range(len(SPECIAL)))) != SPECIAL:
            raise ValueError("its vocabulary is not numbered from the special tokens on")
        self._inner = inner
        self._size = inner.get_vocab_size()
        self.kind: TokenizerKind = "gpt2" if inner.id_to_token(self._size - 1) == _LAST_OF_GPT2 else "bpe"

    @classmethod
    def build(cls, texts: Iterable[str], vocab_size: int) -> "SubwordTokenizer":
        """Learn the most frequent pieces: at most `vocab_size` entries, special tokens and the 256 bytes included."""
        from tokenizers import Tokenizer as Inner
        from tokenizers.models import BPE
        from tokenizers.pre_tokenizers import ByteLevel
        from tokenizers.trainers import BpeTrainer

        learner = Inner(BPE())
        learner.pre_tokenizer = ByteLevel(add_prefix_space=False)
        trainer = BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        )
        learner.train_from_iterator(texts, trainer)
        model = json.loads(learner.to_str())["model"]
        return cls._of(model["vocab"], model["merges"])

    @classmethod
    def _of(cls, ids: Mapping[str, int], merges: list[Any]) -> "SubwordTokenizer":
        """The tokenizer of these pieces. Special tokens are entries like any other, so that a text that spells one is
        cut into the pieces of its letters."""
        from tokenizers import Tokenizer as Inner

        cut = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        content: dict[str, Any] = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": None,
            "pre_tokenizer": cut,
            "post_processor": added_marks(),
            "decoder": cut,
            "model": {"type": "BPE", "unk_token": SPECIAL[1], "vocab": dict(ids), "merges": merges},
        }
        return cls(Inner.from_str(json.dumps(content)))

    @classmethod
    def gpt2(cls) -> "SubwordTokenizer":
        """GPT-2's own 50,257 pieces in their order after the special tokens, from the hub's cache or from the hub.

        Raises:
            CorpusError: they are not in the cache and the hub is out of reach.
        """
        try:
            model = json.loads(gpt2_file(_GPT2_FILE).read_text(encoding="utf-8"))["model"]
            pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
            return cls._of({piece: number for number, piece in enumerate([*SPECIAL, *pieces])}, model["merges"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise CorpusError(f"{GPT2} has no {_GPT2_FILE} that can be read ({first_line(error)})") from error

    @classmethod
    def from_json(cls, text: str) -> "SubwordTokenizer":
        """Read what `to_json` wrote.

        Raises:
            ValueError: it is none of this package's.
        """
        from tokenizers import Tokenizer as Inner

        try:
            inner = Inner.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(first_line(error)) from error
        return cls(inner)

    def __len__(self) -> int:
        """Entries, special tokens included."""
        return self._size

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text that is to be continued: BOS and its pieces, no EOS."""
        return [BOS, *self._inner.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """The text of the pieces together, spaces as they were; bytes that make no character become U+FFFD."""
        kept = [int(number) for number in ids if not skip_special or number >= len(SPECIAL)]
        return str(self._inner.decode(kept, skip_special_tokens=False))

    def to_json(self) -> str:
        """The content of `tokenizer.json`, in the format of Hugging Face `tokenizers`."""
        return str(self._inner.to_str()) + "\n"


def gpt2_file(name: str) -> Path:
    """A file of GPT-2's repository on this disk; asked for on the hub only where a quick question finds it there.

    Raises:
        CorpusError: it is not in the cache, and the hub is out of reach.
    """
    from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
    from huggingface_hub.constants import ENDPOINT

    cached = try_to_load_from_cache(GPT2, name)
    if isinstance(cached, str | os.PathLike):
        return Path(cached)
    offline = "offline mode is set" if is_offline_mode() else None
    if why := offline or silence(f"{ENDPOINT}/{GPT2}/resolve/main/{name}"):
        raise CorpusError(f"{name} of {GPT2} is not in the cache and {ENDPOINT} is out of reach ({why})")
    try:
        return Path(hf_hub_download(GPT2, name))
    except Exception as error:  # the library raises errors of a dozen kinds
        raise CorpusError(f"{name} of {GPT2} cannot be fetched ({first_line(error)})") from error
