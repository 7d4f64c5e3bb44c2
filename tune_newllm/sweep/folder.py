"""What lies where in a sweep folder, and the only code that writes there from the driver."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_newllm import records
from tune_newllm.data.files import sync, write_text
from tune_newllm.errors import FolderError, SpecError
from tune_newllm.records import Record, SweepExtended, SweepStarted
from tune_newllm.sweep.document import MOST_RESOLVED_CHARACTERS
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.overrides import override
from tune_newllm.sweep.source import read_yaml
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.tree import none_to_null

if TYPE_CHECKING:
    from tune_newllm.training.start import Start

_logger = logging.getLogger(__name__)

LONGEST_NAME = 200
LARGEST_COPIED_CORPUS = 100_000_000
"""Bytes of prepared tokens up to which a sweep folder carries its own copy."""
START = "start"
"""Folder of the checkpoint that all trials begin with, below the sweep's."""


class SweepFolder:
    """`<root>/<name>/`: sweep.yaml, provenance.json, records.jsonl, study.journal, start/, data/, trials/, best/ and
    the report."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.records = self.path / "records.jsonl"
        self.journal = self.path / "study.journal"

    @classmethod
    def create(
        cls, path: Path, spec: SweepSpec, provenance: dict[str, Any], start: "Start | None" = None
    ) -> "SweepFolder":
        """Make a folder at once, with everything a resume needs.

        Args:
            start: what all trials begin with, of which a copy is kept.

        Raises:
            FolderError: the name is taken or the place cannot be written to.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        except OSError as error:
            raise FolderError(
                f"cannot create a sweep in {path.parent}: {error.strerror}; choose another --root"
            ) from None
        try:
            draft.chmod(0o755)
            (draft / "trials").mkdir()
            texts = {"sweep.yaml": spec.to_yaml(), "provenance.json": json.dumps(provenance, indent=2) + "\n"}
            for name, text in {**texts, "records.jsonl": ""}.items():
                write_text(draft / name, text)
            if start is not None:
                start.save(draft / START)
            _take_name(draft, path)
        except OSError as error:
            raise FolderError(f"cannot write a sweep to {path.parent}: {error.strerror}; make room") from None
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """An existing sweep.

        Raises:
            FolderError: there is no sweep at this path, or it cannot be read.
        """
        folder = cls(path)
        for name in ("sweep.yaml", "records.jsonl", "provenance.json"):
            try:
                (folder.path / name).open("rb").close()
            except OSError as error:
                raise FolderError(
                    f"{path} is not a readable sweep folder: a sweep has a {name} ({error.strerror})"
                ) from None
        return folder

    def trial(self, trial_id: str) -> Path:
        """The folder of one trial: configuration, log, tokenizer, weights and training state.

        Raises:
            FolderError: the id, which a foreign sweep may have made up, is no name of a folder.
        """
        if Path(trial_id).name != trial_id or trial_id in ("", ".", ".."):
            raise FolderError(f"a trial's id is one folder name, got {trial_id!r}: the records were not written by us")
        return self.path / "trials" / trial_id

    def changes(self, overrides: Iterable[str] = ()) -> list[str]:
        """The overrides of the last driver followed by these, without those that a later one replaces."""
        earlier = next((row.overrides for row in reversed(self.read()) if isinstance(row, SweepStarted)), [])
        kept: list[str] = []
        for text in (*earlier, *overrides):
            key = text.partition("=")[0].strip()
            kept = [other for other in kept if not f"{other.partition('=')[0].strip()}.".startswith(f"{key}.")]
            kept.append(text)
        return kept

    def spec(self, overrides: Iterable[str] = ()) -> SweepSpec:
        """The resolved sweep file as the last extension left it, perhaps with other `resources` or another `budget`:
        `null` for it or one of its keys lifts the limit.

        Raises:
            SpecError: the file is damaged, or an override concerns what a sweep cannot change any more.
        """
        source = read_yaml(self.path / "sweep.yaml", MOST_RESOLVED_CHARACTERS)
        extension = next((row for row in reversed(self.read()) if isinstance(row, SweepExtended)), None)
        if extension is not None:
            override(source, f"training.epochs={extension.epochs}", {})
            override(source, f"run_cap={'null' if extension.run_cap is None else extension.run_cap}", {})
        for text in overrides:
            if not text.startswith(("resources.", "budget.", "budget=")):
                raise SpecError(f"--set {text}: a sweep that has begun can change its `resources` and `budget` only")
            override(source, text, {})
        limits = none_to_null(source.values.get("budget")) or {}
        if isinstance(limits, dict) and all(limit is None for limit in limits.values()):
            source.values.pop("budget", None)
        spec = parse_spec(source)
        for key in ("cpus_per_trial", "gpus_per_trial"):
            if getattr(spec.resources, key) == "auto":
                raise SpecError(f"resources.{key}: auto is decided when a sweep begins, give a number to a resume")
        return spec

    def provenance(self) -> dict[str, Any]:
        """Versions, hardware, data fingerprint and command line of the first start.

        Raises:
            FolderError: the file is damaged.
        """
        try:
            facts = dict(json.loads((self.path / "provenance.json").read_text(encoding="utf-8")))
            if not {"fingerprint", "folder"} <= facts["data"].keys():
                raise ValueError("it does not say which data")
            return facts
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FolderError(
                f"{self.path / 'provenance.json'} is damaged ({error!r}); restore it from a copy"
            ) from None

    def read(self, warnings: list[str] | None = None) -> list[Record]:
        """All records, damaged lines left out with a warning."""
        return list(records.read(self.records, warnings))

    def corpus(self) -> Path:
        """The prepared corpus: the copy inside the folder, else the place it was prepared at."""
        inside = self.path / "data"
        return inside if inside.is_dir() else Path(self.provenance()["data"]["folder"])


class RecordWriter:
    """Appends records, each on the disk before `append` returns.

    What a crash tore off the last line is cut away first; a whole record that lacks its line end alone gets it.
    """

    def __init__(self, folder: SweepFolder) -> None:
        self._file = folder.records.open("r+b", buffering=0)
        text = self._file.read()
        tail = text[text.rfind(b"\n") + 1 :]
        if tail and _whole(tail):
            self._file.write(b"\n")
        elif tail:
            _logger.warning("%s: the last line, torn by a crash, is dropped (%d bytes)", folder.records, len(tail))
            self._file.truncate(len(text) - len(tail))
        self._file.seek(0, os.SEEK_END)

    def append(self, record: Record) -> None:
        """Write one line, whole or not at all.

        Raises:
            OSError: the disk is full or failed; the file is as it was.
        """
        line, end = records.to_line(record).encode(), self._file.tell()
        try:
            # A disk that is nearly full takes the first part of a line without complaint.
            while line:
                line = line[self._file.write(line) :]
            sync(self._file)
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            self._file.seek(end)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole(line: bytes) -> bool:
    with suppress(ValueError):
        return isinstance(json.loads(line), dict)
    return False


def free_name(root: Path, stem: str) -> str:
    """The stem, or stem-2, stem-3 ... where it is taken."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 100_000))
    return next(name for name in names if not (root / name).exists())


def refuse_taken(root: Path, name: str) -> None:
    """Raise FolderError unless a sweep of this name can be made in root."""
    plain = name.isprintable() and len(name.encode(errors="replace")) <= LONGEST_NAME
    if not name or name != Path(name).name or name in (".", "..") or not plain:
        raise FolderError(
            f"a sweep's name is one folder name of printable characters, at most {LONGEST_NAME} bytes, "
            f"got {name[:300]!r}; the place is given by --root"
        )
    if (root / name).exists():
        raise FolderError(
            f"{root / name} exists already: choose another --name, or go on with "
            f"`python -m tune_newllm resume {root / name}`"
        )


def _take_name(draft: Path, path: Path) -> None:
    """Rename the draft to its final name, which must be free."""
    try:
        os.rename(draft, path)
    except OSError as error:
        raise FolderError(f"{path} cannot be made ({error.strerror}): choose another --name or --root") from None
