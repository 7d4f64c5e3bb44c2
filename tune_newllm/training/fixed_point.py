"""The fixed-point family's training around its epochs: phase one before them, and the contexts that they read.

In phase one the context blocks learn contexts that stay as they are and spread out; then they are frozen, and phase
two, the training of `loop.fit`, reads their contexts from a cache. What phase one saw is kept in the run's folder.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch

from tune_newllm.data.files import write_text
from tune_newllm.errors import DegenerateError, InfeasibleError
from tune_newllm.models.fixed_point import FixedPointModel
from tune_newllm.training import fixed_point_checks as checks
from tune_newllm.training.batches import ContextRows, Windows
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.context_cache import context_bytes, context_rows, fill, plan_contexts, room
from tune_newllm.training.fixed_point_teaching import Iteration, Teacher
from tune_newllm.training.memory import unless_out_of_memory
from tune_newllm.training.state import TrainState

RECORD = "fixed_point.json"
"""What phase one saw: `settings`, a row for each of its `iterations`, and what the checks found."""
_log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """What phase two trains on."""

    train: ContextRows
    validation: ContextRows
    iterations: int | None
    """Of phase one; None where the context blocks came taught."""
    converged: float | None
    """Share of converged contexts in its last iteration; None also where that only read."""


def prepared(
    state: TrainState,
    train: Windows,
    validation: Windows,
    config: TrainingConfig,
    carries: bool = False,
    folder: Path | None = None,
) -> Prepared:
    """Teach the context blocks, unless that is done, and read all contexts.

    Args:
        state: of a fixed-point model; its `notes` get what the user should know.
        train: token ids [N, window].
        validation: likewise.
        config: of the training.
        carries: whether each row goes on where the one before ends.
        folder: of the run, for the record of phase one and for contexts that only a disk has room for; None keeps no
            record.

    Raises:
        DegenerateError: a loss of phase one is not finite, or by the original's rule there is nothing to go on with.
        InfeasibleError: memory does not suffice.
    """
    task = _Task(cast(FixedPointModel, state.model), state, (train, validation), config, carries, folder)
    learnt: tuple[int | None, float | None] = (None, None)
    if state.history:
        learnt = state.history[-1].fixed_point_iterations, state.history[-1].fixed_point_converged
    elif task.model.settled:
        _log.info("the context blocks came with the weights that the training begins with: no phase one")
    else:
        found = unless_out_of_memory(partial(_phase_one, task), state.device)
        if found is None:
            raise InfeasibleError("out of memory in phase one: lower training.fixed_point.batch_tokens")
        learnt = found
    rows, began = task.rows(sum(task.model.context_widths)), time.perf_counter()
    for each in rows:
        if not unless_out_of_memory(partial(_filled, task, each), state.device):
            raise InfeasibleError("out of memory in reading contexts: take a smaller model")
    _log.info("phase two: all contexts read in %.1f s", time.perf_counter() - began)
    return Prepared(*rows, *learnt)


def preparation_seconds(
    state: TrainState, train: Windows, validation_rows: int, config: TrainingConfig, carries: bool
) -> float:
    """Estimated seconds of `prepared`, should phase one take all its iterations: from two of them over a few rows. Of
    a fixed-point model this spoils the context blocks; for another it is 0.
    """
    model, settings = state.model, config.fixed_point
    if not isinstance(model, FixedPointModel):
        return 0.0
    part = train[: max(1, settings.batch_tokens // (train.shape[1] - 1))]
    contexts = torch.empty(len(part), part.shape[1] - 1, model.ctx_dim, device=state.device)
    short = replace(settings, max_iterations=2, min_iterations=1)
    teacher = Teacher(model, context_rows(part, contexts, model, carries), short, config.seed, state.device)
    reading, teaching = (each.seconds / len(part) for each in teacher.iterations())
    readings = 2 * len(train) + (settings.validation_passes + 3) * validation_rows
    return reading * readings + teaching * (settings.max_iterations - 1) * len(train)


@dataclass(frozen=True)
class _Task:
    """What phase one and the reading of contexts share."""

    model: FixedPointModel
    state: TrainState
    windows: tuple[Windows, Windows]
    """For training and for validation."""
    config: TrainingConfig
    carries: bool
    folder: Path | None
    """Of the run, if it has one."""

    def rows(self, width: int) -> tuple[ContextRows, ContextRows]:
        """Both splits, with room for so many numbers after each token; where it is is said."""
        shapes = [(len(each), each.shape[1] - 1, width) for each in self.windows]
        nbytes = sum(context_bytes(rows * steps, width) for rows, steps, _ in shapes)
        rooms, plan = room(shapes, plan_contexts(nbytes, self.device, self.folder), self.device, self.folder)
        _log.info("%s", plan)
        if plan.place == "disk":
            self.state.notes.append(str(plan))
        train, validation = (
            context_rows(each, there, self.model, self.carries) for each, there in zip(self.windows, rooms, strict=True)
        )
        return train, validation

    @property
    def device(self) -> str:
        """Of the training."""
        return self.state.device


def _filled(task: _Task, rows: ContextRows) -> bool:
    fill(task.model, rows, task.device)
    return True


def _phase_one(task: _Task) -> tuple[int, float | None]:
    """Teach, check, say and keep what was found; returns iterations and the share of converged contexts."""
    settings, device, seed = task.config.fixed_point, task.device, task.config.seed
    record = task.folder and task.folder / RECORD
    facts: dict[str, Any] = {"settings": dataclasses.asdict(settings), "iterations": []}
    train, validation = task.rows(task.model.ctx_dim)
    for row in Teacher(task.model, train, settings, seed, device).iterations():
        if row.iteration == 1:
            facts["untrained_rank"] = checks.rank_share(checks.sample(train, checks.RANKED, seed, device))
        facts["iterations"].append(row._asdict())
        _keep(record, facts)
        _log.info("%s", _told(row))
    contexts_MD = checks.sample(train, checks.RANKED, seed, device)
    facts |= {"rank": checks.rank_share(contexts_MD), "degenerate": checks.degeneracy(contexts_MD)}
    facts["identity"] = checks.identity(task.model, seed, device)
    fill(task.model, validation, device)
    facts["validation_rank"] = checks.rank_share(checks.sample(validation, checks.RANKED, seed, device))
    facts["reach"] = checks.reach(task.model, validation, device)
    if settings.validation_passes:
        facts["validation_changes"] = checks.changes(task.model, validation, settings.validation_passes, device)
        facts["validation_verdict"] = checks.verdict(facts["validation_changes"])
    _keep(record, facts)
    _log.info("%s", _found(facts, task.model.ctx_dim))
    faults = list(_faults(facts))
    task.state.notes += faults
    if settings.procedure == "original" and facts["identity"] > checks.IDENTITY:
        raise DegenerateError(f"phase two is left out, as the original does: {faults[-1]}")
    task.model.settled.fill_(True)
    return row.iteration, row.converged


def _keep(record: Path | None, facts: dict[str, Any]) -> None:
    if record is not None:
        write_text(record, json.dumps(facts, indent=1) + "\n")


def _told(row: Iteration) -> str:
    """An iteration in one line."""
    if row.converged is None:
        return f"phase one: all contexts read in {row.seconds:.1f} s"
    return (
        f"phase one, iteration {row.iteration}: error {row.error:.5f}, spread {row.spread:.4f}, "
        f"{row.converged:.1%} converged, {row.seconds:.1f} s"
    )


def _found(facts: dict[str, Any], ctx_dim: int) -> str:
    """What phase one came to, in one line."""
    last = facts["iterations"][-1]
    rank = f"effective rank {facts['rank']:.1%} of {ctx_dim} ({facts['untrained_rank']:.1%} before it learnt anything)"
    reach = "" if facts["reach"] is None else f"; two starts make no difference after {facts['reach']} tokens"
    if last["converged"] is None:
        return f"phase one only read the contexts; {rank}{reach}"
    share = f"{last['converged']:.1%} of contexts stay"
    return f"phase one ended after iteration {last['iteration']}: {share}; {rank}{reach}"


def _faults(facts: dict[str, Any]) -> Iterator[str]:
    """What the user should know is wrong; by what the original leaves phase two out comes last."""
    last, rule = facts["iterations"][-1], facts["settings"]
    if last["converged"] is not None and last["converged"] < rule["stop_share"]:
        share = f"{last['converged']:.1%} of contexts stay, {rule['stop_share']:.0%} should"
        yield f"phase one has not converged in {last['iteration']} iterations: {share}"
    if facts.get("validation_verdict") in ("diverging", "unstable"):
        yield f"contexts of the validation rows are {facts['validation_verdict']} from one reading to the next"
    if facts["degenerate"]:
        yield f"the contexts are degenerate ({facts['degenerate']}): they all are about the same, and tell nothing"
    if facts["identity"] > checks.IDENTITY:
        yield (
            f"the context blocks only pass on what they are given (mean cosine {facts['identity']:.3f}): raise "
            "training.fixed_point.diversity"
        )
