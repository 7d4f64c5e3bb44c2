"""What lies where in a sweep folder, and the only code that writes there from the driver."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from tune_newllm import records
from tune_newllm.errors import FolderError, SpecError
from tune_newllm.records import Record, SweepStarted
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.overrides import override
from tune_newllm.sweep.source import read_yaml
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.tree import none_to_null
from tune_newllm.training.weights import sync

LARGEST_COPIED_CORPUS = 100_000_000
"""Bytes of prepared tokens up to which a sweep folder carries its own copy."""


class SweepFolder:
    """`<root>/<name>/`: sweep.yaml, provenance.json, records.jsonl, study.journal, data/, trials/, report, best/."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.records = self.path / "records.jsonl"
        self.journal = self.path / "study.journal"

    @classmethod
    def create(cls, path: Path, spec: SweepSpec, provenance: dict[str, Any]) -> "SweepFolder":
        """Make a folder at once, with everything a resume needs.

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
            (draft / "sweep.yaml").write_text(spec.to_yaml(), encoding="utf-8")
            (draft / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
            (draft / "records.jsonl").touch()
            _take_name(draft, path)
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

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held by the one driver that may work on the sweep; the system lets go of it when the process ends.

        Raises:
            FolderError: another driver holds it.
        """
        lock = FileLock(self.path / ".lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            raise FolderError(f"{self.path} is being worked on by another process: wait for it or stop it") from None
        except (NotImplementedError, OSError):
            # A drive without locks: the user has to see to it that one process works on the sweep.
            pass
        try:
            yield
        finally:
            lock.release()

    def trial(self, trial_id: str) -> Path:
        """The folder of one trial: configuration, log, tokenizer, weights and training state."""
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
        """The resolved sweep file, perhaps with other `resources` or another `budget`: `null` for it or one of its
        keys lifts the limit.

        Raises:
            SpecError: the file is damaged, or an override concerns what a sweep cannot change any more.
        """
        source = read_yaml(self.path / "sweep.yaml")
        for text in overrides:
            if not text.startswith(("resources.", "budget.", "budget=")):
                raise SpecError(f"--set {text}: a sweep that has begun can change its `resources` and `budget` only")
            override(source, text, {})
        limits = none_to_null(source.values.get("budget")) or {}
        if isinstance(limits, dict) and all(limit is None for limit in limits.values()):
            source.values.pop("budget", None)
        spec = parse_spec(source)
        if spec.resources.gpus_per_trial == "auto":
            raise SpecError("resources.gpus_per_trial: auto is decided when a sweep begins, give a number to a resume")
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
    """Appends records, each flushed to the operating system before `append` returns.

    A torn last line, left by a crash, is closed first so that the next record starts on a line of its own.
    """

    def __init__(self, folder: SweepFolder) -> None:
        text = folder.records.read_bytes()
        self._file = folder.records.open("ab", buffering=0)
        if text and not text.endswith(b"\n"):
            self._file.write(b"\n")

    def append(self, record: Record) -> None:
        """Write one line."""
        self._file.write(records.to_line(record).encode())
        sync(self._file)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def free_name(root: Path, stem: str) -> str:
    """The stem, or stem-2, stem-3 ... where it is taken."""
    names = (stem if number == 1 else f"{stem}-{number}" for number in range(1, 100_000))
    return next(name for name in names if not (root / name).exists())


def refuse_taken(root: Path, name: str) -> None:
    """Raise FolderError unless a sweep of this name can be made in root."""
    if not name or name != Path(name).name or name in (".", ".."):
        raise FolderError(f"a sweep's name is one folder name, got {name!r}; the place is given by --root")
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
