"""A sweep from beginning to end: prepare, resolve, run; or go on with one that stopped."""

import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from tune_newllm.data.corpora import PreparedCorpus, open_prepared, prepare
from tune_newllm.errors import FolderError
from tune_newllm.records import SweepStarted
from tune_newllm.sweep import provenance
from tune_newllm.sweep.cluster import cluster
from tune_newllm.sweep.driver import Driver, Listener
from tune_newllm.sweep.folder import LARGEST_COPIED_CORPUS, SweepFolder, refuse_taken
from tune_newllm.sweep.resolve import resolve, settle, threads
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.spending import Use


@dataclass(frozen=True)
class Outcome:
    """How a driver ended: whether everything is done, and if not, by the number of which signal or by which limits of
    the budget it was stopped; `idle` where these were reached before it began."""

    folder: Path
    finished: bool
    signal: int | None = None
    spent: tuple[Use, ...] = ()
    idle: bool = False


def search(spec: SweepSpec, corpus: PreparedCorpus, path: Path, command: list[str], listener: Listener) -> Outcome:
    """Run a new sweep in the folder `path`, which appears once everything `auto` is resolved.

    Raises:
        FolderError: the folder exists or cannot be made.
        UsageError: the resources that a trial asks for are not there.
    """
    refuse_taken(path.parent, path.name)
    with cluster(spec.resources.address) as machines:
        resolved, hardware = resolve(spec, machines, corpus)
        facts = provenance.collect(resolved, corpus, hardware, command)
        folder = SweepFolder.create(path, resolved, facts)
        with folder.lock():
            driver = Driver(folder, resolved, len(corpus.tokenizer), listener)
            started = SweepStarted(time=time.time(), command=command)
            return _run(driver, _kept(corpus, folder, resolved), started)


def resume(path: Path, command: list[str], listener: Listener, overrides: Iterable[str] = ()) -> Outcome:
    """Go on with a sweep: unfinished trials from their last epoch, then new ones up to the cap.

    Args:
        overrides: `resources.KEY=VALUE` texts, for a machine other than the first one, and `budget.KEY=VALUE` texts.
            Those of the last driver stay in force; where both give a key, these win.

    Raises:
        FolderError: no sweep, its data is gone or has changed, or a driver is at work on it.
        UsageError: the resources that a trial asks for are not there.
    """
    folder = SweepFolder.open(path)
    changes = folder.changes(overrides)
    spec = folder.spec(changes)
    recorded = folder.provenance()["data"]["fingerprint"]
    place = folder.corpus()
    corpus = open_prepared(place) if place.is_dir() else prepare(spec.widest_corpus)
    if corpus.fingerprint != recorded:
        raise FolderError(f"{corpus.folder} holds other data than this sweep began with; start a new sweep")
    with folder.lock():
        driver = Driver(folder, spec, len(corpus.tokenizer), listener)
        if (spent := driver.over_budget()) and not driver.exhausted():
            return Outcome(folder.path, finished=False, spent=tuple(spent), idle=True)
        with cluster(spec.resources.address) as machines:
            driver.spec = spec.model_copy(update={"resources": settle(spec.resources, machines)})
            started = SweepStarted(time=time.time(), command=command, resumed=True, overrides=changes)
            return _run(driver, _kept(corpus, folder, driver.spec), started)


def _run(driver: Driver, corpus: Path, started: SweepStarted) -> Outcome:
    """Let Ray run what the driver suggests, until nothing is left or a signal or the budget says stop."""
    from tune_newllm.sweep.tuning import DriverSearcher, RecordingASHA, tuner

    scratch = tempfile.mkdtemp(prefix="tune_newllm-")
    try:
        with _signals() as request:

            def stop() -> bool:
                return request.signal is not None or bool(driver.over_budget())

            driver.start(started)
            scheduler = RecordingASHA(driver)
            shared = {"folder": str(driver.folder.path), "corpus": str(corpus), "threads": threads(driver.spec)}
            searcher = DriverSearcher(driver, shared, stop)
            tuner(driver.spec, searcher, scheduler, stop, Path(scratch)).fit()
            return _end(driver, request.signal)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _end(driver: Driver, number: int | None) -> Outcome:
    """Record why Ray has stopped; a budget that was just enough for everything is none that stopped it."""
    path, spent = driver.folder.path, driver.over_budget()
    if number is None and spent and not driver.exhausted():
        driver.finish("budget")
        return Outcome(path, finished=False, spent=tuple(spent))
    finished = number is None and not driver.history.unfinished()
    driver.finish("finished" if finished else "interrupted")
    return Outcome(path, finished, number)


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


def _kept(corpus: PreparedCorpus, folder: SweepFolder, spec: SweepSpec) -> Path:
    """Where the trials read the corpus: a copy in the sweep folder, made whole or not at all, unless it is large.

    The machines of a cluster share the sweep folder but not this one's cache, so for them it is always copied.
    """
    inside = folder.path / "data"
    if inside.is_dir():
        return inside
    if corpus.nbytes > LARGEST_COPIED_CORPUS and spec.resources.address == "local":
        return corpus.folder
    draft = folder.path / ".data"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(corpus.folder, draft)
    draft.rename(inside)
    return inside
