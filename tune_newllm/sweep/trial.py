"""The Ray side of one trial: a training that reports one epoch a step and can be reused for the next trial."""

import dataclasses
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from ray import tune

from tune_newllm.errors import DivergedError
from tune_newllm.training.config import Configuration

LOG = "log.txt"


class TrialRunner(tune.Trainable):
    """Runs trials one after the other in one process, so that importing torch is paid once.

    A result is an `EpochResult` as a dict with `state` and `reason`, which are empty but for the trial's last result.
    Whatever goes wrong inside a trial is such a last result too; only a lost process is Ray's to notice.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Take a trial up; everything that may fail waits for the first step."""
        self._trial = config
        self._results: Iterator[dict[str, Any]] | None = None

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up the next trial in this process."""
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        """One epoch."""
        if self._results is None:
            self._results = _run(self._trial)
        return next(self._results)

    def cleanup(self) -> None:
        """Let go of the model."""
        self._results = None


def _run(trial: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the results of a trial; never raises."""
    folder = Path(trial["folder"]) / "trials" / trial["id"]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield from _epochs(trial, folder)
    except DivergedError as error:
        _log(folder, str(error))
        yield _last("diverged", str(error))
    except Exception as error:
        if _out_of_memory(error):
            _log(folder, f"out of memory: {error}")
            yield _last("infeasible", "out of memory")
        else:
            _log(folder, traceback.format_exc())
            yield _last("failed", f"{type(error).__name__}: {error}".splitlines()[0])


def _out_of_memory(error: Exception) -> bool:
    import torch

    # For main memory torch has no error class of its own, only its allocator's name in the message.
    allocator = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return allocator or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def _epochs(trial: dict[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    import torch

    from tune_newllm.data.corpora import open_prepared
    from tune_newllm.training.run import Run, log_line

    torch.set_num_threads(trial["threads"])
    configuration = TypeAdapter(Configuration).validate_python(trial["configuration"])
    run = Run(folder, configuration, open_prepared(Path(trial["corpus"])))
    # Epochs that were checkpointed but never reached the records.
    pending = [result for result in run.history if result.epoch > trial["recorded"]]
    for index, result in enumerate(pending):
        done = run.finished if index == len(pending) - 1 else None
        yield _report(result, done)
    if run.finished:
        if not pending:
            yield _last("completed", run.finished)
        return
    for result in run.epochs():
        _log(folder, log_line(result))
        yield _report(result, run.finished)


def _report(result: Any, finished: str | None) -> dict[str, Any]:
    ending = {"state": "completed" if finished else "", "reason": finished or "", "done": finished is not None}
    return dataclasses.asdict(result) | ending


def _last(state: str, reason: str) -> dict[str, Any]:
    return {"epoch": None, "state": state, "reason": reason, "done": True}


def _log(folder: Path, text: str) -> None:
    # Where no log can be written (full disk, missing rights) the trial's last result still says what happened.
    with suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as log:
        log.write(text.rstrip() + "\n")
