"""A sweep from beginning to end: prepare, resolve, run; or go on with one that stopped."""

import importlib
import logging
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tune_newllm.data.corpora import PreparedCorpus, as_prepared, open_prepared, prepare
from tune_newllm.data.vocabulary import load_tokenizer
from tune_newllm.errors import CheckpointError, CorpusError, FolderError, UsageError
from tune_newllm.records import CodeForced, SweepExtended, SweepStarted
from tune_newllm.sweep import provenance
from tune_newllm.sweep.cluster import cluster, lost_processes, watched
from tune_newllm.sweep.code import changes as code_changes
from tune_newllm.sweep.code import code_hashes
from tune_newllm.sweep.driver import Driver, Listener
from tune_newllm.sweep.extension import apply
from tune_newllm.sweep.folder import LARGEST_COPIED_CORPUS, START, SweepFolder, refuse_taken
from tune_newllm.sweep.history import History
from tune_newllm.sweep.lock import driver_lock
from tune_newllm.sweep.resolve import resolve, settle, threads
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.spending import Use
from tune_newllm.sweep.stopping import stop_signals
from tune_newllm.training.gpt2_embedding import as_had, gpt2_embedding

if TYPE_CHECKING:
    from tune_newllm.training.start import Start

Extend = Callable[[SweepSpec, History], SweepExtended]
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """How a driver ended: whether everything is done, and if not, what stopped it."""

    folder: Path
    finished: bool
    signal: int | None = None
    """SIGINT or SIGTERM."""
    spent: tuple[Use, ...] = ()
    """Limits of the budget that were reached."""
    idle: bool = False
    """They were reached before it began."""
    failing: str | None = None
    """The one reason for which its first trials all failed."""
    halted: str | None = None
    """Why the folder could not be written to."""


def search(
    spec: SweepSpec,
    corpus: PreparedCorpus,
    path: Path,
    command: list[str],
    listener: Listener,
    start: "Start | None" = None,
) -> Outcome:
    """Run a new sweep in the folder `path`, which appears once everything `auto` is resolved.

    Args:
        start: what every trial begins with, read from the checkpoint that the file names; the folder keeps a copy.

    Raises:
        FolderError: the folder exists or cannot be made.
        UsageError: the resources that a trial asks for are not there.
    """
    refuse_taken(path.parent, path.name)
    with cluster(spec.resources.address) as machines:
        _load_ahead()
        resolved, hardware = resolve(spec, machines, corpus)
        resolved = _as_kept(resolved, corpus, start)
        facts = provenance.collect(resolved, corpus, hardware, command)
        facts |= {"start": str(start.folder.resolve())} if start else {}
        folder = SweepFolder.create(path, resolved, facts, start)
        with driver_lock(folder.path):
            driver = Driver(folder, resolved, len(corpus.tokenizer), listener)
            return _run(driver, corpus, SweepStarted(time=time.time(), command=command))


def _as_kept(spec: SweepSpec, corpus: PreparedCorpus, start: "Start | None") -> SweepSpec:
    """The sweep as its folder has it: with the tokenizer that the corpus got, an embedding that can be had, and a start
    in the folder itself."""
    training = replace(spec.training, start=START) if start else spec.training
    searched = spec.parameters.get("model.embedding")
    if searched is not None and "gpt2" in (searched.choices or ()):
        gpt2_embedding(corpus.tokenizer)
    sections = {"corpus": as_prepared(spec.corpus, corpus), "model": as_had(spec.model, corpus.tokenizer)}
    return spec.model_copy(update=sections | {"training": training})


def resume(
    path: Path,
    command: list[str],
    listener: Listener,
    overrides: Iterable[str] = (),
    *,
    force: bool = False,
    extend: Extend | None = None,
) -> Outcome:
    """Go on with a sweep: unfinished trials from their last epoch, then new ones up to the cap.

    Args:
        overrides: `resources.KEY=VALUE` texts, for a machine other than the first one, and `budget.KEY=VALUE` texts.
            Those of the last driver stay in force; where both give a key, these win.
        force: go on although code that decides the numbers has changed.
        extend: says by how much the sweep is to be extended first.

    Raises:
        FolderError: no sweep, its data is gone or has changed, or a driver is at work on it.
        UsageError: the resources that a trial asks for are not there, or code has changed.
    """
    folder = SweepFolder.open(path)
    changes = folder.changes(overrides)
    corpus = _same_corpus(folder)
    with driver_lock(folder.path):
        spec, decided = folder.spec(changes), _accepted_code(folder, force)
        if extend is not None:
            extended = extend(spec, History(folder.read(), spec.seeds))
            spec, decided = apply(spec, extended), [*decided, extended]
        driver = Driver(folder, spec, len(corpus.tokenizer), listener, decided)
        if (spent := driver.over_budget()) and not driver.exhausted():
            return Outcome(folder.path, finished=False, spent=tuple(spent), idle=True)
        with cluster(driver.spec.resources.address) as machines:
            _load_ahead()
            resources = settle(driver.spec.resources, machines)
            driver.spec = driver.spec.model_copy(update={"resources": resources})
            started = SweepStarted(time=time.time(), command=command, resumed=True, overrides=changes)
            return _run(driver, corpus, started)


def _load_ahead() -> None:
    """Load what the driver needs for its first trial while it waits for the process that measures."""

    def load() -> None:
        # One after the other: threads that load parts of one package in different orders can meet half of it.
        for module in ("tune_newllm.sweep.tuning", "scipy.stats"):
            importlib.import_module(module)

    threading.Thread(target=load, daemon=True).start()


def _same_corpus(folder: SweepFolder) -> PreparedCorpus:
    """The data that the sweep began with, byte for byte.

    Raises:
        FolderError: it is gone, damaged or has changed.
    """
    place, recorded = folder.corpus(), folder.provenance()["data"]["fingerprint"]
    try:
        corpus = open_prepared(place, verify=True) if place.is_dir() else _prepared_again(folder)
    except (CorpusError, CheckpointError) as error:
        raise FolderError(f"{folder.path}: the data of this sweep cannot be had: {error}") from None
    if corpus.fingerprint != recorded:
        raise FolderError(f"{corpus.folder} holds other data than this sweep began with; start a new sweep")
    return corpus


def _prepared_again(folder: SweepFolder) -> PreparedCorpus:
    spec = folder.spec()
    if spec.training.start is None:
        return prepare(spec.widest_corpus)
    tokenizer = load_tokenizer(folder.path / spec.training.start)
    return prepare(spec.widest_corpus, tokenizer=tokenizer, new_words=spec.training.new_words)


def _accepted_code(folder: SweepFolder, force: bool) -> list[SweepExtended | CodeForced]:
    """Refuse code that is not what the sweep was last worked on with, unless forced: then the record that says so."""
    forced = next((row.code for row in reversed(folder.read()) if isinstance(row, CodeForced)), None)
    before, now = forced or folder.provenance().get("code"), code_hashes()
    changed = ["all of it, as it was not on record yet"] if before is None else code_changes(before, now)
    if not changed:
        return []
    if not force:
        raise UsageError(
            f"{folder.path}: code that decides the numbers is not what this sweep was run with ({', '.join(changed)}): "
            "go back to that version, start a new sweep, or go on with --force, which goes on record"
        )
    return [CodeForced(time=time.time(), changed=changed, code=now)]


def _run(driver: Driver, corpus: PreparedCorpus, started: SweepStarted) -> Outcome:
    """Let Ray run what the driver suggests, until nothing is left or something says stop."""
    from tune_newllm.sweep.tuning import DriverSearcher, RecordingASHA, tuner

    scratch = tempfile.mkdtemp(prefix="tune_newllm-")
    path = driver.folder.path
    try:
        with stop_signals() as request, watched(f"`python -m tune_newllm resume {path}` goes on"):

            def stop() -> bool:
                request.renew()
                asked = request.signal or driver.halted or driver.failing() or lost_processes()
                return bool(asked) or bool(driver.over_budget())

            try:
                driver.start(_facts(driver, started))
                with driver.writing():
                    shared = _shared(driver, _kept(corpus, driver.folder, driver.spec))
                scheduler = RecordingASHA(driver, stop)
                searcher = DriverSearcher(driver, shared, stop)
                tuner(driver.spec, searcher, scheduler, stop, Path(scratch)).fit()
            except Exception:
                # What Ray makes of a full disk is not worth showing.
                if driver.halted is None:
                    raise
            return _end(driver, request.signal)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _facts(driver: Driver, started: SweepStarted) -> SweepStarted:
    """What this driver works with."""
    resources = driver.spec.resources
    assert resources.gpus_per_trial != "auto"
    devices = resources.gpus_per_trial or resources.cpus
    before = driver.folder.provenance().get("versions", {})
    changed = {name: text for name, text in provenance.versions().items() if before.get(name, text) != text}
    if changed:
        _logger.warning("other versions than this sweep began with: %s", changed)
    return started.model_copy(update={"devices": devices, "versions": changed, "host": socket.gethostname()})


def _shared(driver: Driver, corpus: Path) -> dict[str, Any]:
    """What all trials are told."""
    facts, memory = driver.folder.provenance(), None
    # Planned for so many trials on the machine that the sweep began on; elsewhere halving has to do.
    if facts.get("hardware", {}).get("max_concurrent") == driver.spec.resources.max_concurrent:
        memory = (facts.get("memory") or {}).get("per_trial")
    rule = driver.spec.early_terminate
    rungs = [] if rule is None else rule.rungs(driver.spec.training.epochs)
    resources = {"threads": threads(driver.spec), "gpus": driver.spec.resources.gpus_per_trial, "memory": memory}
    return {"folder": str(driver.folder.path), "corpus": str(corpus), "rungs": rungs, **resources}


def _end(driver: Driver, number: int | None) -> Outcome:
    """Record why Ray has stopped; a budget that was just enough for everything is none that stopped it."""
    path, spent = driver.folder.path, driver.over_budget()
    if driver.halted is not None:
        driver.finish("halted", driver.halted)
        return Outcome(path, finished=False, halted=driver.halted)
    if number is None and (reason := driver.failing()) is not None and not driver.exhausted():
        driver.finish("failing", reason)
        return Outcome(path, finished=False, failing=reason)
    if number is None and spent and not driver.exhausted():
        driver.finish("budget")
        return Outcome(path, finished=False, spent=tuple(spent))
    # Where Ray was lost between two trials nothing is unfinished, and yet more would follow.
    finished = number is None and driver.exhausted()
    driver.finish("finished" if finished else "interrupted")
    return Outcome(path, finished, number)


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
