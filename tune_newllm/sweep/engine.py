"""A sweep from beginning to end: prepare, resolve, run; or go on with one that stopped."""

import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tune_newllm.data.corpora import PreparedCorpus, open_prepared
from tune_newllm.errors import FolderError
from tune_newllm.sweep import provenance
from tune_newllm.sweep.cluster import cluster
from tune_newllm.sweep.driver import Driver, Listener
from tune_newllm.sweep.folder import LARGEST_COPIED_CORPUS, SweepFolder, refuse_taken
from tune_newllm.sweep.resolve import resolve, threads
from tune_newllm.sweep.spec import SweepSpec


@dataclass(frozen=True)
class Outcome:
    """How a driver ended: `signal` is the number of the signal that stopped it, None when it ran to the end."""

    folder: Path
    signal: int | None


def search(spec: SweepSpec, corpus: PreparedCorpus, path: Path, command: list[str], listener: Listener) -> Outcome:
    """Run a new sweep in the folder `path`, which appears once everything `auto` is resolved.

    Raises:
        FolderError: the folder exists or cannot be made.
        UsageError: the resources that a trial asks for are not there.
    """
    refuse_taken(path.parent, path.name)
    with cluster(spec.resources.address) as resources:
        resolved, hardware = resolve(spec, resources, corpus)
        facts = provenance.collect(resolved, corpus, hardware, command)
        folder = SweepFolder.create(path, resolved, facts)
        if corpus.nbytes <= LARGEST_COPIED_CORPUS:
            _copy(corpus, folder)
        return _run(folder, resolved, command, listener, resumed=False)


def resume(path: Path, command: list[str], listener: Listener, max_concurrent: int | None = None) -> Outcome:
    """Go on with a sweep: unfinished trials from their last epoch, then new ones up to the cap.

    Raises:
        FolderError: no sweep, or its data is gone or has changed.
    """
    folder = SweepFolder.open(path)
    spec = folder.spec()
    recorded = folder.provenance()["data"]["fingerprint"]
    corpus = open_prepared(folder.corpus())
    if corpus.fingerprint != recorded:
        raise FolderError(f"{folder.corpus()} holds other data than this sweep began with; start a new sweep")
    if max_concurrent is not None:
        changed = spec.resources.model_copy(update={"max_concurrent": max_concurrent})
        spec = spec.model_copy(update={"resources": changed})
    with cluster(spec.resources.address):
        return _run(folder, spec, command, listener, resumed=True)


def _run(folder: SweepFolder, spec: SweepSpec, command: list[str], listener: Listener, resumed: bool) -> Outcome:
    from tune_newllm.sweep.tuning import DriverSearcher, RecordingASHA, tuner

    driver = Driver(folder, spec, listener)
    driver.start(command, resumed)
    scheduler = RecordingASHA(driver)
    shared = {"folder": str(folder.path), "corpus": str(folder.corpus()), "threads": threads(spec)}
    searcher = DriverSearcher(driver, shared)
    scratch = tempfile.mkdtemp(prefix="tune_newllm-")
    try:
        with _signals() as stop:
            tuner(spec, searcher, scheduler, stop, Path(scratch)).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    driver.finish("interrupted" if driver.history.unfinished() else "finished")
    return Outcome(folder.path, stop.signal)


@dataclass
class StopRequest:
    """Set by the first signal; Ray asks it between events whether to stop."""

    signal: int | None = None


@contextmanager
def _signals() -> Iterator[StopRequest]:
    """SIGINT and SIGTERM ask for a clean stop; the same signal again ends the process at once."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        request.signal = number
        signal.signal(number, before[number])

    for one in (signal.SIGINT, signal.SIGTERM):
        before[one] = signal.signal(one, stop)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _copy(corpus: PreparedCorpus, folder: SweepFolder) -> None:
    """The prepared corpus into the sweep folder: whole or not at all."""
    draft = folder.path / ".data"
    shutil.copytree(corpus.folder, draft)
    draft.rename(folder.path / "data")
