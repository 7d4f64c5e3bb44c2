"""Corpora by name, prepared once into a folder of memory-mapped windows.

A prepared folder holds `<split>.npy` (windows of ids), `train_ends.npy`, `tokenizer.json` and `meta.json`, and depends
on nothing outside it. In the cache it is named by a hash of all that it is made from: the sources' contents, how many
samples, the tokenizer, the vocabulary size and the windowing. It appears there in one rename, never half-written.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.progress import track
from tune_newllm.data.sources import source_of
from tune_newllm.data.tokenizer import FILE_NAME as TOKENIZER_FILE
from tune_newllm.data.tokenizer import PAD, UNK, Tokenizer
from tune_newllm.data.vocabulary import Vocabulary, load_tokenizer, vocabulary
from tune_newllm.data.windows import Windows, cut, pieces
from tune_newllm.errors import CorpusError, UsageError

FORMAT = 2
"""Of the prepared folder; to be raised whenever equal sources give other files."""

TRAIN_ENDS = "train_ends.npy"


@dataclass(frozen=True)
class PreparedCorpus:
    """A corpus ready for training.

    Args:
        folder: where it lies; self-contained, may be copied.
        fingerprint: hash of the folder's windows and tokenizer: equal fingerprints give equal training data.
        tokenizer: learned from the train split alone, or given.
        train, validation, test: memory-mapped windows; `test` is None where the corpus has none.
        stats: per split `texts`, `words` (between white space, in whole texts), `tokens` (BOS and EOS among them),
            `windows`, `targets` (non-padding tokens to be predicted), `unk_share` (of the targets) and, but for train,
            `unigram_ppl`: the perplexity of the train split's token frequencies, which a model that reads context must
            beat.
        train_ends: `[M]`, how many train windows the first text gives, the first two, ... all M texts.
        carries: whether each row of a split continues the row before, so that a model may carry its state over.
        notes: what of the configuration could not be had, a line each; none as a rule.
        text_hashes: per split a hash of its whole texts, whatever they are numbered by; none where an older version
            prepared the folder.
    """

    folder: Path
    fingerprint: str
    tokenizer: Tokenizer
    train: Windows
    validation: Windows
    test: Windows | None
    stats: dict[str, dict[str, float]]
    train_ends: NDArray[np.int64]
    carries: bool = False
    notes: tuple[str, ...] = ()
    text_hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    def first(self, texts: int | None) -> "PreparedCorpus":
        """The same corpus with the train windows of its first `texts` texts only; None stands for all of them.

        Raises:
            CorpusError: these texts give no window.
        """
        if texts is None or texts >= len(self.train_ends):
            return self
        train = self.train[: self.train_ends[texts - 1]]
        if not len(train):
            raise CorpusError(f"corpus.max_samples must reach a text that gives a window, got {texts}: raise it")
        return replace(self, train=train, train_ends=self.train_ends[:texts])


def prepare(
    config: CorpusConfig,
    cache: Path | None = None,
    progress: bool = False,
    tokenizer: Tokenizer | None = None,
    new_words: int = 0,
) -> PreparedCorpus:
    """Open the corpus from the cache, preparing it first if it is not there or damaged.

    Args:
        cache: folder of prepared corpora; None stands for `default_cache()`.
        progress: show a bar on stderr.
        tokenizer: number the texts by this one, which a model was trained with, instead of learning one from the train
            split; `config.tokenizer` and `config.vocab_size` are not read then.
        new_words: so many of the train split's most frequent words that this tokenizer does not know get the numbers
            after its own.

    Raises:
        CorpusError: the corpus is unknown, unreadable or empty, or the cache cannot be written.
    """
    source = source_of(config.name)
    words = vocabulary(config, tokenizer, new_words)
    key = _key(config, source.digest(config, progress), words)
    folder = (cache or default_cache()) / f"{re.sub(r'[^a-zA-Z0-9._-]+', '-', config.name)}-{key}"
    if found := _intact(folder):
        return found
    try:
        with _lock(folder):
            if not (found := _intact(folder)):
                _build(config, source.read(config, progress), folder, progress, words)
    except OSError as error:
        raise CorpusError(
            f"cannot write the corpus cache {folder.parent} ({error.strerror or error}): "
            "free it or set TUNE_NEWLLM_CACHE to another folder"
        ) from error
    return found or open_prepared(folder)


def as_prepared(config: CorpusConfig, corpus: PreparedCorpus) -> CorpusConfig:
    """The configuration with the tokenizer that the corpus has got, where it was given or GPT-2's was not to be had."""
    kind, entries = corpus.tokenizer.kind, len(corpus.tokenizer)
    if kind == config.tokenizer == "gpt2":
        return config
    return replace(config, tokenizer=kind, vocab_size=max(config.vocab_size, entries))


def open_prepared(folder: Path, verify: bool = False) -> PreparedCorpus:
    """Open a prepared folder wherever it lies. Reads little: the windows are mapped.

    Args:
        verify: read everything and compare it with the fingerprint.

    Raises:
        CorpusError: the folder is missing, of another format or damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["format"] != FORMAT:
            raise ValueError(f"format {meta['format']}, this version reads {FORMAT}")
        windows = {split: np.load(folder / f"{split}.npy", mmap_mode="r") for split in meta["stats"]}
        for split, stats in meta["stats"].items():
            if windows[split].shape != (stats["windows"], meta["corpus"]["window"]):
                raise ValueError(f"{split}.npy has shape {windows[split].shape}")
        if verify and _fingerprint(folder) != meta["fingerprint"]:
            raise ValueError("its bytes are not those of its fingerprint")
        train_ends = np.load(folder / TRAIN_ENDS, mmap_mode="r")
        if train_ends.shape != (meta["stats"]["train"]["texts"],) or train_ends[-1] != len(windows["train"]):
            raise ValueError(f"{TRAIN_ENDS} does not fit train.npy")
        return PreparedCorpus(
            folder=folder,
            fingerprint=meta["fingerprint"],
            tokenizer=load_tokenizer(folder),
            train=windows["train"],
            validation=windows["validation"],
            test=windows.get("test"),
            stats=meta["stats"],
            train_ends=train_ends,
            carries=meta["corpus"]["windowing"] == "stream",
            notes=tuple(meta.get("notes", ())),
            text_hashes=meta.get("text_hashes", {}),
        )
    except (OSError, ValueError, KeyError, TypeError, UsageError) as error:
        raise CorpusError(f"{folder} is no prepared corpus or is damaged ({error}): prepare it anew") from error


def default_cache() -> Path:
    """`$TUNE_NEWLLM_CACHE`, else `tune_newllm` in `$XDG_CACHE_HOME`, else in `~/.cache`."""
    if own := os.environ.get("TUNE_NEWLLM_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tune_newllm"


def _key(config: CorpusConfig, digest: str, words: Vocabulary) -> str:
    learned = [words.pieces, config.vocab_size] if words.given is None else [words.new_words, words.given.to_json()]
    windowing = [config.max_tokens, config.windowing, config.window, config.stride]
    asked = [FORMAT, digest, config.max_samples, learned, *windowing]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _intact(folder: Path) -> PreparedCorpus | None:
    with contextlib.suppress(CorpusError, OSError):
        return open_prepared(folder, verify=True)
    return None


def _fingerprint(folder: Path) -> str:
    everything = hashlib.sha256()
    for path in [*sorted(folder.glob("*.npy")), folder / TOKENIZER_FILE]:
        with path.open("rb") as file:
            everything.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return everything.hexdigest()


def _hash(texts: Iterable[str]) -> str:
    everything = hashlib.sha256()
    for text in texts:
        everything.update(text.encode(errors="surrogatepass") + b"\0")
    return everything.hexdigest()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process prepare while others wait. Where the disk knows no locks, all do it and the first rename wins."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f"{folder.name}.lock"))
    with contextlib.suppress(NotImplementedError, OSError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _build(config: CorpusConfig, texts: dict[str, list[str]], folder: Path, progress: bool, words: Vocabulary) -> None:
    """Write the prepared folder beside its place, then move it there."""
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    draft.chmod(0o755)  # mkdtemp shuts others out, yet a cache may be shared
    try:
        texts["train"] = texts["train"][: config.max_samples]
        tokenizer = words.learn(track(texts["train"], "learning the vocabulary", progress), config.vocab_size)
        tokenizer.save(draft)
        stats = _write_windows(config, texts, draft, progress, tokenizer)
        meta = {
            "format": FORMAT,
            "fingerprint": _fingerprint(draft),
            "corpus": asdict(config),
            "python": platform.python_version(),
            "stats": stats,
            "text_hashes": {split: _hash(split_texts) for split, split_texts in texts.items()},
            "notes": [words.note] if words.note else [],
        }
        (draft / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        if not _intact(folder):
            shutil.rmtree(folder, ignore_errors=True)
            draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write_windows(
    config: CorpusConfig, texts: dict[str, list[str]], folder: Path, progress: bool, tokenizer: Tokenizer
) -> dict[str, dict[str, float]]:
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.int32
    stats, frequencies = {}, np.ones(len(tokenizer))
    for split, split_texts in texts.items():
        numbered = track(split_texts, f"numbering {split}", progress)
        ids = [tokenizer.encode(text)[: config.max_tokens] for text in numbered]
        windows = cut(ids, config.windowing, config.window, config.stride, dtype)
        if not len(windows):
            raise CorpusError(f"corpus.{split}: no text is long enough for windowing: original, use complete")
        np.save(folder / f"{split}.npy", windows)
        if split == "train":
            np.save(folder / TRAIN_ENDS, np.cumsum(pieces(ids, config.windowing, config.window, config.stride)))
        counts = np.bincount(windows[:, 1:].ravel(), minlength=len(tokenizer))
        counts[PAD] = 0
        stats[split] = {
            "texts": len(ids),
            "words": sum(len(text.split()) for text in split_texts),
            "tokens": sum(map(len, ids)),
            "windows": len(windows),
            "targets": int(counts.sum()),
            "unk_share": float(counts[UNK] / counts.sum()),
        }
        if split == "train":
            frequencies += counts
            continue
        stats[split]["unigram_ppl"] = _unigram_ppl(frequencies, counts)
    return stats


def _unigram_ppl(frequencies: NDArray[Any], counts: NDArray[Any]) -> float:
    """Perplexity of targets seen `counts[V]` times under train `frequencies[V]`, to which one was added each."""
    loss = -(counts * np.log(frequencies / frequencies.sum())).sum() / counts.sum()
    return float(np.exp(loss))
