"""The Ray side of one trial: a training that reports one epoch a step and can be reused for the next trial."""

import dataclasses
import errno
import gc
import os
import traceback
from collections.abc import Collection, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from ray import tune

from tune_newllm.errors import CheckpointError, DamagedCheckpointError, DivergedError, InfeasibleError
from tune_newllm.sweep.lock import FolderTaken, trial_lock
from tune_newllm.sweep.trial_log import log, logged
from tune_newllm.training.config import Configuration

if TYPE_CHECKING:
    from tune_newllm.data.corpora import PreparedCorpus
    from tune_newllm.models import LanguageModel
    from tune_newllm.training.loop import EpochResult
    from tune_newllm.training.run import Run

Results = Generator[dict[str, Any], None, None]
LOCK_SECONDS = 60.0
"""How long a trial waits for a process that outlived its driver to let go of the trial's folder."""
_CONFIGURATION = TypeAdapter(Configuration)
_DRIVE_FAULTS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "EREMOTEIO", "ENXIO", "ENODEV"),
        *("ENOTCONN", "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
}
"""What a drive that is full, protected, broken or away answers; not every system knows all of them."""


class TrialRunner(tune.Trainable):
    """Runs trials one after the other in one process, so that importing torch is paid once.

    A result is an `EpochResult` as a dict with `state`, `reason`, `done` and `notes`: lines that the user should see.
    State and reason are empty but for the trial's last result. Whatever goes wrong inside a trial is such a last
    result too, except that a drive which fails or is full is none of the trial's doing: `halt` then says so and what
    to do, state and reason stay empty, and the trial is unfinished. Only a lost process is Ray's to notice.

    While a result is on its way the next epoch is trained already, unless ASHA may stop the trial at this one. A trial
    that is stopped elsewhere saves the epochs that were not reported, and reports them when it goes on.
    """

    _thread: ThreadPoolExecutor | None = None
    _results: Results | None = None
    _next: Future[dict[str, Any]] | None = None

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial up; everything that may fail waits for the first step."""
        self.cleanup()
        self._trial = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up the next trial in this process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "trial")
        if self._results is None:
            self._results = _run(self._trial)
        ahead, self._next = self._next, None
        result = (ahead or self._thread.submit(next, self._results)).result()
        if result["done"]:
            self.cleanup()
        elif result["epoch"] not in self._trial["rungs"]:
            self._next = self._thread.submit(next, self._results)
        return result

    def cleanup(self) -> None:
        """Let go of the trial, so that the next one in this process finds all memory free and its folder unlocked."""
        if self._thread is not None and self._results is not None:
            from tune_newllm.training.memory import free_memory

            # By the thread that holds the lock, after the epoch that it is at.
            self._thread.submit(self._results.close).result()
            self._results = self._next = None
            # Where there is no such device, nothing happens.
            free_memory("cuda")


def _run(trial: dict[str, Any]) -> Results:
    """Yield the results of a trial; never raises."""
    folder = Path(trial["folder"]) / "trials" / trial["id"]
    notes: list[str] = []
    ending = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with trial_lock(folder, LOCK_SECONDS), logged(folder):
            run = _open(trial, folder)
            notes = run.notes
            results = _epochs(run, trial["recorded"], folder)
            try:
                for result in results:
                    yield result | {"notes": _passed_on(notes, folder)}
            finally:
                # A trial that is stopped saves where it stands; on a full disk it loses what its checkpoint lacks.
                with suppress(OSError):
                    results.close()
    except Exception as error:
        ending = _ending(error, folder)
    if ending is not None:
        yield ending | {"notes": _passed_on(notes, folder)}


def _open(trial: dict[str, Any], folder: Path) -> "Run":
    """The trial's run as its newest state left it, or from its beginning.

    Raises:
        InfeasibleError: it needs more memory than the trial may use, however few sequences it reads at once.
    """
    import torch

    from tune_newllm.training.checkpoints import PREVIOUS, STATE, WEIGHTS, has_begun
    from tune_newllm.training.device import limit_memory
    from tune_newllm.training.memory import measure_step
    from tune_newllm.training.run import Run

    torch.set_num_threads(trial["threads"])
    _freeze()
    configuration = _CONFIGURATION.validate_python(trial["configuration"])
    limit_memory(configuration.training.device, trial["gpus"])
    corpus = _corpus(Path(trial["corpus"]))
    begun = has_begun(folder)
    # Before the run puts its model on the device. One that has begun knows its micro-batch.
    planned = trial["memory"] is not None and not begun
    memory = measure_step(configuration, len(corpus.tokenizer)) if planned else None
    try:
        start = None if begun else _start(trial, configuration, corpus)
        run = Run(folder, configuration, corpus, start, trial["rungs"])
    except DamagedCheckpointError:
        for name in (STATE, PREVIOUS, WEIGHTS):
            with suppress(FileNotFoundError):
                (folder / name).replace(folder / f"{name}.damaged")
        run = Run(folder, configuration, corpus, _start(trial, configuration, corpus), trial["rungs"])
    if (begun or any(epoch in trial["recorded"] for epoch in trial["rungs"])) and not run.history:
        # Its seeds make it the same training again.
        run.notes.append(f"{folder} has no whole training state any more: trained anew from the first epoch")
    if memory is not None:
        run.micro_batch = memory.largest(trial["memory"], run.micro_batch)
        if not run.micro_batch:
            raise InfeasibleError(
                f"needs {memory.need(1):,} bytes with one sequence at a time and may use {trial['memory']:,}: "
                "take a smaller model or a shorter window"
            )
    return run


def _start(trial: dict[str, Any], configuration: Configuration, corpus: "PreparedCorpus") -> "LanguageModel | None":
    """The model that the sweep's checkpoint makes of this configuration; None where trials begin with fresh weights."""
    from tune_newllm.training.start import Start

    if configuration.training.start is None:
        return None
    start = Start.read(Path(trial["folder"]) / configuration.training.start)
    return start.begin(configuration, len(corpus.tokenizer))


@cache
def _freeze() -> None:
    """Keep what the imports have left behind out of all later collections: each would look through it for 0.1 s."""
    gc.collect()
    gc.freeze()


@lru_cache(maxsize=1)
def _corpus(folder: Path) -> "PreparedCorpus":
    """The sweep's corpus, mapped once in this process."""
    from tune_newllm.data.corpora import open_prepared

    return open_prepared(folder)


def _epochs(run: "Run", recorded: Collection[int], folder: Path) -> Results:
    """Report the epochs that are not on record; those since the checkpoint that the trial goes on from come again."""
    pending = [result for result in run.history if result.epoch not in recorded]
    for result in pending:
        yield _report(result, run.finished if result is pending[-1] else None)
    if run.finished:
        if not pending:
            yield _last("completed", run.finished)
        return
    from tune_newllm.training.run import log_line

    with closing(run.epochs()) as results:
        for result in results:
            log(folder, log_line(result))
            yield _report(result, run.finished)


def _ending(error: Exception, folder: Path) -> dict[str, Any]:
    """The last result of a trial that an error ends, or of a driver that cannot go on."""
    from tune_newllm.training.memory import is_out_of_memory

    for each in (error, error.__cause__):
        if isinstance(each, OSError) and each.errno is not None and each.errno in _DRIVE_FAULTS:
            fault = f"{folder} cannot be worked on ({os.strerror(each.errno)})"
            return _last("", "") | {"halt": f"{fault}: make room, or mend the drive or the rights to it"}
    # A checkpoint of another version or configuration says nothing against the trial, which must not end by it.
    if isinstance(error, FolderTaken | CheckpointError):
        return _last("", "") | {"halt": str(error)}
    if isinstance(error, DivergedError | InfeasibleError):
        log(folder, str(error))
        return _last("diverged" if isinstance(error, DivergedError) else "infeasible", str(error))
    log(folder, traceback.format_exc())
    if is_out_of_memory(error):
        return _last("infeasible", "out of memory")
    return _last("failed", f"{type(error).__name__}: {error}".splitlines()[0])


def _report(result: "EpochResult", finished: str | None) -> dict[str, Any]:
    ending = {"state": "completed" if finished else "", "reason": finished or "", "done": finished is not None}
    return dataclasses.asdict(result) | ending


def _last(state: str, reason: str) -> dict[str, Any]:
    return {"epoch": None, "state": state, "reason": reason, "done": True}


def _passed_on(notes: list[str], folder: Path) -> list[str]:
    """Take the notes out of their list; they go to the trial's log as well."""
    taken = notes.copy()
    notes.clear()
    for note in taken:
        log(folder, note)
    return taken
