"""What a corpus is asked to be: a name, perhaps files, a vocabulary size and a way of cutting texts into windows."""

from dataclasses import dataclass
from typing import ClassVar, Literal

Windowing = Literal["complete", "original", "stream"]
Turns = Literal["plain", "marked"]
TokenizerKind = Literal["words", "bpe", "gpt2"]
SMALLEST_SUBWORD_VOCABULARY = 260
"""Four special tokens and a piece for each byte, so that any text can be written in pieces."""


@dataclass(frozen=True)
class CorpusConfig:
    """One corpus as the sweep file's `corpus:` describes it.

    Args:
        name: `python-docs`, `text`, `toy`, or a dataset of the Hugging Face Hub: `wikitext-2`, `wikitext-103`,
            `dailydialog`, `ultrachat`, `hf:OWNER/NAME` or `hf:OWNER/NAME:CONFIG`.
        train, validation, test: with the corpus `text` a path or several, needed but for `test`; with a dataset of the
            hub one of its splits or a slice such as `train[:95%]`, by default those called train, validation and test.
        field: the column or key that holds the text, or the list of a dialogue's turns, in files with rows and in
            datasets of the hub.
        turns: how a list of turns becomes a text: `plain` or with `marked` speakers, see `tune_newllm.data.turns`.
        max_samples: the train split ends after this many texts, from which the vocabulary is learned too.
        max_tokens: each text is cut to so many tokens, BOS and EOS counted; one that is cut does not end with EOS. The
            vocabulary is learned from whole texts.
        tokenizer: `words`: lower-cased words between white space. `bpe`: pieces of words, learned by byte-pair encoding
            from the train split, case kept. `gpt2`: GPT-2's own pieces, or `bpe` where they cannot be had.
        vocab_size: most entries of the vocabulary, the four special tokens included; not read with GPT-2's own pieces.
        window: tokens per window; a window gives `window - 1` predictions.
        stride: tokens between the starts of two windows, only with `original`; None stands for half a window.
        windowing: the rule that cuts texts into windows, see `tune_newllm.data.windows`.

    Raises:
        ValueError: a value breaks a rule; names the field, the rule and the value.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    name: str = "python-docs"
    train: str | list[str] | None = None
    validation: str | list[str] | None = None
    test: str | list[str] | None = None
    field: str = "text"
    turns: Turns = "plain"
    max_samples: int | None = None
    max_tokens: int | None = None
    tokenizer: TokenizerKind = "words"
    vocab_size: int = 1000
    window: int = 64
    stride: int | None = None
    windowing: Windowing = "complete"

    def __post_init__(self) -> None:
        if self.vocab_size < 5:
            raise ValueError(f"vocab_size must be at least 5 (four special tokens and a word), got {self.vocab_size}")
        if self.window < 2:
            raise ValueError(f"window must be at least 2 (one token and its successor), got {self.window}")
        if self.windowing not in ("complete", "original", "stream"):
            raise ValueError(f"windowing must be complete, original or stream, got {self.windowing!r}")
        if self.turns not in ("plain", "marked"):
            raise ValueError(f"turns must be plain or marked, got {self.turns!r}")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"max_samples must be at least 1, got {self.max_samples}")
        if self.max_tokens is not None and self.max_tokens < 2:
            raise ValueError(f"max_tokens must be at least 2 (BOS and what follows it), got {self.max_tokens}")
        self._check_tokenizer()
        self._check_stride()
        self._check_splits()

    def _check_tokenizer(self) -> None:
        if self.tokenizer not in ("words", "bpe", "gpt2"):
            raise ValueError(f"tokenizer must be words, bpe or gpt2, got {self.tokenizer!r}")
        if self.tokenizer != "words" and self.vocab_size < SMALLEST_SUBWORD_VOCABULARY:
            raise ValueError(
                f"vocab_size must be at least {SMALLEST_SUBWORD_VOCABULARY} with tokenizer {self.tokenizer} "
                f"(four special tokens and a piece for each byte), got {self.vocab_size}"
            )

    def _check_stride(self) -> None:
        if self.stride is None:
            return
        if self.windowing != "original":
            raise ValueError(f"stride goes with windowing: original only, got {self.stride} with {self.windowing}")
        if not 1 <= self.stride <= self.window:
            raise ValueError(f"stride must lie between 1 and window ({self.window}), got {self.stride}")

    def _check_splits(self) -> None:
        given = [split for split in ("train", "validation", "test") if getattr(self, split)]
        if self.name == "text":
            missing = [split for split in ("train", "validation") if split not in given]
            if missing:
                raise ValueError(f"the corpus text needs train and validation files, got no {' and no '.join(missing)}")
        elif self.name in ("python-docs", "toy"):
            given += ["field"] * (self.field != "text") + ["turns"] * (self.turns != "plain")
            if given:
                raise ValueError(
                    f"{given[0]} goes with name: text or a dataset of the hub only, got {', '.join(given)} "
                    f"with name {self.name!r}"
                )
        else:
            for split in given:
                if isinstance(getattr(self, split), list):
                    raise ValueError(
                        f"{split} must be one split of the dataset, got the list {getattr(self, split)}: "
                        "join splits by +, as in train+validation"
                    )
