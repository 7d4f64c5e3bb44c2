"""The measurement that decides what is `auto`, made on the kind of machine the trials will get."""

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from tune_newllm.errors import DivergedError, InfeasibleError
from tune_newllm.models import build
from tune_newllm.sweep.memory_plan import MemoryPlan, measure_largest, within
from tune_newllm.sweep.provenance import processor
from tune_newllm.sweep.sharing import Machines, is_cuda, share, threads, trials_left
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.timings import remembered
from tune_newllm.training.choosing import (
    MICRO_BATCHES,
    Choice,
    choose_micro_batch,
    choose_precision,
    most_at_once,
    thread_counts,
    windows_per_second,
)
from tune_newllm.training.config import Configuration
from tune_newllm.training.device import Number, require_number, resolve_device, resolve_micro_batch
from tune_newllm.training.timing import Bench, Case


class Measured(NamedTuple):
    """What a process found where the trials will run."""

    spec: SweepSpec
    """Only `gpus_per_trial` and `max_concurrent` may still be `auto` in it."""
    name: str
    """Of the processor or GPU."""
    choices: dict[str, Choice[Any]]
    """By path."""
    memory: MemoryPlan
    """For one trial on a device."""


def measure(spec: SweepSpec, machines: Machines, vocab_size: int) -> Measured:
    """Decide threads, precision and micro-batch, in this order: each is measured with those before it.

    Args:
        spec: its device is as this process shall see it.

    Raises:
        UsageError: the device is not there, or cannot compute in the precision asked for.
    """
    torch.set_num_threads(threads(spec))
    device, asked = resolve_device(spec.training.device), spec.training
    number: Number = "fp32" if asked.precision == "auto" else asked.precision
    searched = spec.searched.get("training.precision")
    for each in (number, *((searched.choices if searched else None) or ())):
        require_number(each, device)
    spec = _trained(spec, device=device, precision=number, micro_batch=resolve_micro_batch(asked.micro_batch, device))
    plan = measure_largest(spec, vocab_size, device)
    times, sizes, most = _Times(spec.configuration(), vocab_size, plan.available), _batches(spec), plan.micro_batch or 1

    cpus = times.choose(1.0, partial(_choose_threads, spec, machines, plan, times))
    spec = spec.model_copy(update={"resources": spec.resources.model_copy(update={"cpus_per_trial": cpus.value})})
    wanted, count = replace(asked, device=device), threads(spec)
    precision = times.choose(number, partial(choose_precision, wanted, min(sizes[-1], most), count, times.of_shortened))
    alone = share(spec.resources, machines, plan)[1]
    fit = min(sizes[-1], alone.step.largest(alone.share, MICRO_BATCHES[-1]))
    case = Case(precision.value, count, 0)
    micro_batch = times.choose(MICRO_BATCHES[0], partial(choose_micro_batch, wanted, fit, case, times.of_whole))

    spec = _trained(spec, precision=precision.value, micro_batch=micro_batch.value)
    if (precision.value, min(sizes[-1], micro_batch.value)) != (number, plan.rows):
        plan = measure_largest(spec, vocab_size, device)
    name = torch.cuda.get_device_name() if is_cuda(plan) else processor()
    return Measured(spec, name, dict(zip(CHOSEN, (cpus, precision, micro_batch), strict=True)), plan)


CHOSEN = ("resources.cpus_per_trial", "training.precision", "training.micro_batch")


def _trained(spec: SweepSpec, **changes: Any) -> SweepSpec:
    return spec.model_copy(update={"training": replace(spec.training, **changes)})


def _batches(spec: SweepSpec) -> list[int]:
    """The smallest and the largest batch of the search space."""
    batch = spec.parameters.get("training.batch_size")
    return sorted({min(batch.extremes()), max(batch.extremes())} if batch else {spec.training.batch_size})


def _choose_threads(spec: SweepSpec, machines: Machines, plan: MemoryPlan, times: "_Times") -> Choice[float]:
    """As asked for, else so many that all trials together train fastest."""
    asked = spec.resources
    if asked.cpus_per_trial != "auto":
        return Choice(asked.cpus_per_trial, f"{asked.cpus_per_trial:g} was asked for")
    if plan.device != "cpu":
        return Choice(1.0, f"one thread keeps {plan.device} busy")
    if asked.address != "local":
        return Choice(1.0, "one thread: other work on a cluster would disturb a measurement of more")
    processors = int(machines[0]["CPU"])
    most = min(trials_left(spec, processors), share(asked, machines, plan)[1].trials)

    def at_once(count: int) -> int:
        return max(1, min(processors // count, most))

    counts = thread_counts(processors, at_once)
    if len(counts) == 1:
        return Choice(1.0, f"{at_once(1)} at once with one thread each leave none of {processors} processors idle")
    rows = sorted({min(size, plan.micro_batch or 1) for size in _batches(spec)})
    number = spec.training.precision
    assert number != "auto"
    seconds = times.of_shortened([Case(number, count, size) for size in rows for count in counts])
    chosen = most_at_once(windows_per_second(seconds), at_once)
    return Choice(float(chosen.value), chosen.reason)


class _Times:
    """Times of steps of the base configuration, from the cache or measured as far as memory allows."""

    def __init__(self, base: Configuration, vocab_size: int, available: int) -> None:
        # Not every scaling rule allows the base configuration any batch, and none changes how long a step takes.
        self._base = replace(base, training=replace(base.training, lr_rule="none"))
        self._vocab_size, self._available = vocab_size, available
        self._when = ""

    def choose(self, otherwise: Any, work: Callable[[], Choice[Any]]) -> Choice[Any]:
        """What `work` chooses, with a word on when it was measured; `otherwise` where that is impossible."""
        self._when = ""
        try:
            choice = work()
        except (InfeasibleError, DivergedError) as error:
            return Choice(otherwise, f"nothing else could be measured: {error}")
        return choice._replace(reason=choice.reason + self._when)

    def of_shortened(self, cases: list[Case]) -> dict[Case, float]:
        """With fewer rows where steps would take too long."""
        return self._ask("shortened", cases, lambda bench: bench.seconds(bench.shortened(cases)))

    def of_whole(self, cases: list[Case]) -> dict[Case, float]:
        """Without the cases whose steps would take too long."""
        return self._ask("whole", cases, lambda bench: bench.seconds(cases))

    def _ask(self, kind: str, cases: list[Case], work: Callable[[Bench], dict[Case, float]]) -> dict[Case, float]:
        base = self._base
        question = {"kind": kind, "cases": cases, "model": dataclasses.asdict(base.model), "words": self._vocab_size}
        question |= {"window": base.corpus.window, "optimizer": base.training.optimizer, "device": base.training.device}

        def model() -> Any:
            return build(base.model, self._vocab_size, base.training.seed)

        def timed() -> dict[Case, float]:
            return work(Bench(base.training, model, self._vocab_size, base.corpus.window))

        found = remembered(
            question, lambda: within(self._available, base, self._vocab_size, timed), base.training.device
        )
        self._when = f", {found.when}"
        return found.seconds
