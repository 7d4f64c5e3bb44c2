"""A sweep replayed on a table: the project's own searcher, driver, study and ASHA, with Ray's part played by a clock.

Workers take the trials that the searcher hands out; an epoch takes the seconds it took when it was recorded, so results
arrive in the order in which they would. Nothing is trained.
"""

import heapq
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import TrialScheduler
from tabulated import Table

from tune_newllm.records import SweepStarted
from tune_newllm.sweep.driver import Driver
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History, TrialHistory
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.tuning import DriverSearcher, RecordingASHA

VOCAB_SIZE = 500
_UNUSED = ("train_loss", "val_loss_legacy", "val_ppl", "val_acc", "val_ppl_known", "grad_norm", "clipped_share")
_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class Outcome:
    """What a sweep found.

    Args:
        best: after each epoch spent, the lowest loss of the trials that trained all their epochs; `inf` before the
            first has.
        trials: begun.
        completed: of these.
        missed: whether ASHA stopped a trial that would have become better than the best one.
    """

    best: list[float]
    trials: int
    completed: int
    missed: bool


def replay(spec: SweepSpec, table: Table, workers: int) -> Outcome:
    """Run a sweep until its budget of epochs is spent."""
    # The driver has the system write every line through, which a disk would take longer for than all the rest.
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as scratch:
        driver = Driver(SweepFolder.create(Path(scratch) / "sweep", spec, {}), spec, VOCAB_SIZE, lambda record: None)
        driver.start(SweepStarted(time=0.0, command=[]))
        best = _run(driver, table, workers)
        driver.finish("budget")
    stopped = (trial for trial in driver.history.trials.values() if trial.state == "stopped")
    missed = any(table.curve(trial.parameters).min() < best[-1] for trial in stopped)
    return Outcome(best, len(driver.history.trials), driver.history.count("completed"), missed)


def _run(driver: Driver, table: Table, workers: int) -> list[float]:
    searcher, asha = DriverSearcher(driver, {}, lambda: False), RecordingASHA(driver)
    running: list[tuple[float, str, Any]] = []
    clock, begun, best = 0.0, 0, [math.inf]
    while not driver.over_budget():
        while len(running) < workers:
            name = f"{begun:06d}"
            worker = SimpleNamespace(trial_id=name, config=searcher.suggest(name))
            asha.on_trial_add(None, worker)
            heapq.heappush(running, (clock + _seconds(driver.history, worker, table), name, worker))
            begun += 1
        clock, name, worker = heapq.heappop(running)
        trial = driver.history.trials[worker.config["id"]]
        if _epoch(asha, worker, trial, table):
            heapq.heappush(running, (clock + _seconds(driver.history, worker, table), name, worker))
        else:
            searcher.on_trial_complete(name)
        found = trial.value if trial.state == "completed" else None
        lowest = min(best[-1], math.inf if found is None else found)
        # A training that diverges leaves no epoch on record.
        best += [lowest] * (len(driver.history.epochs) + 1 - len(best))
    return best[1:]


def _seconds(history: History, worker: Any, table: Table) -> float:
    return table.seconds_per_epoch(history.trials[worker.config["id"]].parameters)


def _epoch(asha: RecordingASHA, worker: Any, trial: TrialHistory, table: Table) -> bool:
    """Report a trial's next epoch, which a worker has just trained; returns whether the trial goes on."""
    curve, epoch = table.curve(trial.parameters), len(trial.epochs) + 1
    loss = float(curve[epoch - 1])
    if not math.isfinite(loss):
        asha.on_trial_complete(None, worker, {"epoch": None, "state": "diverged", "reason": "the loss is not finite"})
        return False
    result: dict[str, Any] = dict.fromkeys(_UNUSED, loss) | {
        "epoch": epoch,
        "val_loss": loss,
        "step": epoch,
        "tokens": epoch,
    }
    result |= {"seconds": 1.0, "tokens_per_s": 1.0, "peak_memory_bytes": 0, "lr": 1.0, "clip": None}
    if epoch == len(curve):
        asha.on_trial_complete(None, worker, result | {"state": "completed", "reason": "epochs"})
        return False
    return asha.on_trial_result(None, worker, result) == TrialScheduler.CONTINUE
