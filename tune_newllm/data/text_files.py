"""The corpus `text`: the user's own files.

A `.txt` file is one text per line; `.jsonl` and `.parquet` hold one text per row in the field `text`. Blank texts are
dropped. Relative paths start at the current directory.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.progress import track
from tune_newllm.errors import CorpusError

SPLITS = ("train", "validation", "test")


def digest(config: CorpusConfig) -> str:
    """Hash of all files' contents, without their names.

    Raises:
        CorpusError: a file is missing, unreadable or of an unknown kind.
    """
    everything = hashlib.sha256()
    for split, path in _files(config):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise CorpusError(
                f"corpus.{split}: there is no file {path}: check the path (relative ones start at {Path.cwd()})"
            ) from error
        except OSError as error:
            raise _unreadable(split, path, error.strerror) from error
        everything.update(f"{split} {path.suffix} {content}\n".encode())
    return everything.hexdigest()


def read(config: CorpusConfig, progress: bool) -> dict[str, list[str]]:
    """The texts of each split that has files.

    Raises:
        CorpusError: a file cannot be read as its ending says, or a split holds no text.
    """
    texts: dict[str, list[str]] = {}
    for split, path in _files(config):
        rows = (text.strip() for text in _READERS[path.suffix](split, path))
        texts.setdefault(split, []).extend(text for text in track(rows, f"reading {path.name}", progress) if text)
    for split, found in texts.items():
        if not found:
            raise CorpusError(f"corpus.{split}: {getattr(config, split)} holds no text: give a file with words in it")
    return texts


def _files(config: CorpusConfig) -> Iterator[tuple[str, Path]]:
    for split in SPLITS:
        given = getattr(config, split) or []
        for name in [given] if isinstance(given, str) else given:
            path = Path(name).expanduser()
            if path.suffix not in _READERS:
                known = ", ".join(_READERS)
                raise CorpusError(f"corpus.{split}: {name} must end in one of {known}: convert or rename it")
            yield split, path


def _lines(split: str, path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise _unreadable(split, path, f"{error.reason}, not UTF-8") from error
    except OSError as error:
        raise _unreadable(split, path, error.strerror) from error


def _json_rows(split: str, path: Path) -> Iterator[str]:
    for number, line in enumerate(_lines(split, path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise _unreadable(split, path, f"line {number} is not JSON") from error
        if not isinstance(row, dict):
            raise _unreadable(split, path, f"line {number} is not a JSON object")
        yield _text(split, path, number, row.get("text"))


def _parquet_rows(split: str, path: Path) -> Iterator[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            if "text" not in file.schema_arrow.names:
                raise _unreadable(split, path, f"no field text, only {', '.join(file.schema_arrow.names)}")
            batches = file.iter_batches(columns=["text"])
            values = (value for batch in batches for value in batch.column(0).to_pylist())
            for number, value in enumerate(values, 1):
                yield _text(split, path, number, value)
    except (ArrowException, OSError) as error:
        raise _unreadable(split, path, str(error).splitlines()[0]) from error


def _text(split: str, path: Path, number: int, value: Any) -> str:
    if not isinstance(value, str):
        raise _unreadable(split, path, f"row {number} needs a string in the field text, got {value!r:.40}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _unreadable(split, path, f"row {number} holds half a surrogate pair") from error
    return value


def _unreadable(split: str, path: Path, why: str | None) -> CorpusError:
    return CorpusError(f"corpus.{split}: cannot read {path} ({why}): correct the file or name another")


_READERS = {".txt": _lines, ".jsonl": _json_rows, ".parquet": _parquet_rows}
