"""The corpus `text`: the user's own files.

A `.txt` file is one text per line. `.jsonl`, `.json` (one list, or a row per line), `.parquet` and `.arrow` hold one
text per row, in the field that the configuration names, or the list of a dialogue's turns (`tune_newllm.data.turns`);
so does a folder written by `Dataset.save_to_disk`. Text and JSON may be compressed (`.txt.gz`). Blank texts, nulls
among them, are dropped. Relative paths start at the current directory.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tune_newllm.data.config import CorpusConfig, Turns
from tune_newllm.data.progress import track
from tune_newllm.data.turns import text_of
from tune_newllm.errors import CorpusError

if TYPE_CHECKING:
    from pyarrow import RecordBatch

SPLITS = ("train", "validation", "test")


class _File(NamedTuple):
    split: str
    path: Path
    field: str
    turns: Turns

    @property
    def kind(self) -> str:
        """The ending that tells how to read the file, `.gz` left out where it may be."""
        inner = Path(self.path.stem).suffix
        return inner if self.path.suffix == ".gz" and inner in _COMPRESSIBLE else self.path.suffix

    def unreadable(self, why: str | None) -> CorpusError:
        return CorpusError(f"corpus.{self.split}: cannot read {self.path} ({why}): correct the file or name another")


def digest(config: CorpusConfig) -> str:
    """Hash of the field, the way of joining turns and all files' contents, without their names.

    Raises:
        CorpusError: a file is missing, unreadable or of an unknown kind.
    """
    everything = hashlib.sha256(f"{config.field} {config.turns}".encode())
    for file in _files(config):
        try:
            with file.path.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError as error:
            raise CorpusError(
                f"corpus.{file.split}: there is no file {file.path}: "
                f"check the path (relative ones start at {Path.cwd()})"
            ) from error
        except OSError as error:
            raise file.unreadable(error.strerror) from error
        everything.update(f"{file.split} {file.kind} {content}\n".encode())
    return everything.hexdigest()


def read(config: CorpusConfig, progress: bool) -> dict[str, list[str]]:
    """The texts of each split that has files, of train no more than `config.max_samples`.

    Raises:
        CorpusError: a file cannot be read as its ending says, or a split holds no text.
    """
    texts: dict[str, list[str]] = {}
    for split, files in groupby(_files(config), key=attrgetter("split")):
        rows = (
            text.strip()
            for file in files
            for text in track(_READERS[file.kind](file), f"reading {file.path.name}", progress)
        )
        texts[split] = list(islice(filter(None, rows), config.max_samples if split == "train" else None))
        if not texts[split]:
            raise CorpusError(f"corpus.{split}: {getattr(config, split)} holds no text: give a file with words in it")
    return texts


def begins(config: CorpusConfig) -> bool:
    """Whether the first row of the train split's first file can be read as the configuration says."""
    try:
        file = next(_files(config))
        next(_READERS[file.kind](file), None)
    except CorpusError:
        return False
    return True


def _files(config: CorpusConfig) -> Iterator[_File]:
    for split in SPLITS:
        given = getattr(config, split) or []
        for name in [given] if isinstance(given, str) else given:
            file = _File(split, Path(name).expanduser(), config.field, config.turns)
            if file.path.is_dir():
                yield from _saved_parts(file)
            elif file.kind == ".txt" and config.turns == "marked":
                raise CorpusError(
                    f"corpus.turns: marked needs rows with a list of turns, and {name} has lines of text: "
                    f"give one of {', '.join(kind for kind in _READERS if kind != '.txt')}"
                )
            elif file.kind in _READERS:
                yield file
            else:
                known = ", ".join(_READERS)
                raise CorpusError(f"corpus.{split}: {name} must end in one of {known}: convert or rename it")


def _saved_parts(folder: _File) -> list[_File]:
    """The Arrow files of a folder that `Dataset.save_to_disk` wrote, in the order of its rows."""
    try:
        state = json.loads((folder.path / "state.json").read_text(encoding="utf-8"))
        parts = [folder._replace(path=folder.path / part["filename"]) for part in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        saved = sorted(path.parent.name for path in folder.path.glob("*/state.json"))
        raise folder.unreadable(f"a folder of {', '.join(saved)}" if saved else "a folder without a dataset") from error
    if not parts:
        raise folder.unreadable("a dataset without rows")
    return parts


def _lines(file: _File) -> Iterator[str]:
    opener = gzip.open if file.path.suffix == ".gz" else open
    try:
        with opener(file.path, "rt", encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise file.unreadable(f"{error.reason}, not UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:
        raise file.unreadable(getattr(error, "strerror", None) or str(error)) from error


def _json_lines(file: _File) -> Iterator[str]:
    for number, line in enumerate(_lines(file), 1):
        if line.strip():
            yield _text(file, number, _parsed(file, f"line {number}", line))


def _json(file: _File) -> Iterator[str]:
    """One list of objects where the first character opens a list, else a row per line."""
    lines = _lines(file)
    start = next((line for line in lines if line.strip()), "")
    if not start.lstrip().startswith("["):
        yield from _json_lines(file)
        return
    for number, row in enumerate(_parsed(file, "the list", start + "".join(lines)), 1):
        yield _text(file, number, row)


def _parsed(file: _File, what: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise file.unreadable(f"{what} is not JSON") from error
    except RecursionError as error:
        raise file.unreadable(f"{what} is nested too deeply") from error


def _parquet(file: _File) -> Iterator[str]:
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(file.path) as rows:
            _check_field(file, rows.schema_arrow.names)
            yield from _column(file, rows.iter_batches(columns=[file.field]))
    except (ArrowException, OSError) as error:
        raise file.unreadable(str(error).partition("\n")[0]) from error


def _arrow(file: _File) -> Iterator[str]:
    """Both formats of Arrow: the file, and the stream that `datasets` writes."""
    from pyarrow import ArrowException, ArrowInvalid, ipc, memory_map

    try:
        with memory_map(str(file.path)) as source:
            try:
                rows = ipc.open_file(source)
                batches = map(rows.get_batch, range(rows.num_record_batches))
            except ArrowInvalid:
                source.seek(0)
                batches = rows = ipc.open_stream(source)
            _check_field(file, rows.schema.names)
            yield from _column(file, batches)
    except (ArrowException, OSError) as error:
        raise file.unreadable(str(error).partition("\n")[0]) from error


def _check_field(file: _File, names: list[str]) -> None:
    if file.field not in names:
        raise file.unreadable(f"no field {file.field}, only {', '.join(names)}")
    if names.count(file.field) > 1:
        raise file.unreadable(f"{names.count(file.field)} fields are called {file.field}")


def _column(file: _File, batches: "Iterable[RecordBatch]") -> Iterator[str]:
    values = (value for batch in batches for value in batch.column(file.field).to_pylist())
    for number, value in enumerate(values, 1):
        yield _text(file, number, {file.field: value})


def _text(file: _File, number: int, row: Any) -> str:
    if not isinstance(row, dict):
        raise file.unreadable(f"row {number} is not a JSON object")
    if file.field not in row:
        raise file.unreadable(f"row {number} has no field {file.field}, only {', '.join(row)}"[:200])
    try:
        text = text_of(row[file.field], file.turns)
        text.encode()
    except UnicodeEncodeError as error:
        raise file.unreadable(f"row {number} holds half a surrogate pair") from error
    except ValueError as error:
        raise file.unreadable(f"row {number} needs in the field {file.field} {error}") from error
    return text


_COMPRESSIBLE = {".txt": _lines, ".jsonl": _json_lines, ".json": _json}
_READERS = _COMPRESSIBLE | {".parquet": _parquet, ".arrow": _arrow}
