"""Everything `auto` in a sweep, decided once before its first trial, so that all trials and resumes use the same."""

import math
import sys
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.errors import InfeasibleError, TuneError, UsageError
from tune_newllm.sweep.memory_plan import MemoryPlan, measure_largest, within
from tune_newllm.sweep.provenance import Hardware, processor
from tune_newllm.sweep.spec import Resources, SweepSpec
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import Number

Machines = list[dict[str, float]]
"""What each machine of the cluster has to give: `CPU`, `GPU`."""
MOST_ON_A_GPU = 8
"""Trials that share a GPU at most. They take turns on it: a few fill the gaps in which small models leave it idle,
further ones only wait, and each brings a CUDA context of its own."""


def resolve(spec: SweepSpec, machines: Machines, corpus: PreparedCorpus) -> tuple[SweepSpec, Hardware]:
    """The same sweep with nothing left `auto`.

    Precision is measured where the trials will run, with their resources: a cluster's driver may have no GPU.

    Raises:
        UsageError: a trial asks for more than any machine has, or for a device or precision that is not there.
        TuneError: Ray lost the process that measures.
    """
    import ray

    spec, gpus = with_device(spec, machines)
    asked = spec.resources
    settle(asked.model_copy(update={"gpus_per_trial": gpus}), machines)
    measure = ray.remote(num_cpus=asked.cpus_per_trial, num_gpus=gpus, max_retries=0)(_measure)
    try:
        measured = ray.get(measure.remote(spec, len(corpus.tokenizer), threads(spec)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TuneError(f"the process that measured this machine was lost ({why}): try again") from None
    resources, plan = share(asked, machines, measured.memory)
    plan.warn()
    resources = settle(resources, machines, math.inf if _is_cuda(plan) else plan.trials)
    hardware = Hardware(measured.training.device, measured.name, measured.reason, plan.facts())
    return spec.model_copy(update={"training": measured.training, "resources": resources}), hardware


def with_device(spec: SweepSpec, machines: Machines) -> tuple[SweepSpec, float]:
    """The sweep with the device as a worker shall see it, and GPUs for a process that measures there.

    Raises:
        UsageError: the device is not what trials can get.
    """
    device, gpus = spec.training.device, spec.resources.gpus_per_trial
    if gpus == "auto":
        wanted = device.startswith(("auto", "cuda")) and any(machine.get("GPU", 0) >= 1 for machine in machines)
        gpus = 1.0 if wanted else 0.0
    return spec.model_copy(update={"training": replace(spec.training, device=_device(device, gpus))}), gpus


def share(asked: Resources, machines: Machines, plan: MemoryPlan) -> tuple[Resources, MemoryPlan]:
    """With how many others a trial shares its device: as many as processors and memory allow.

    On a GPU a further trial must leave the largest configuration its micro-batch; in main memory one sequence is
    enough, for there more trials use more processors.

    Args:
        plan: for one trial on a device.
    """
    most = math.inf if asked.max_concurrent == "auto" else asked.max_concurrent
    if _is_cuda(plan):
        if asked.gpus_per_trial != "auto":
            return asked, plan._replace(trials=int(min(most, max(1, 1 / asked.gpus_per_trial))))
        by_cpu = min(m.get("CPU", 0) / m["GPU"] / asked.cpus_per_trial for m in machines if m.get("GPU", 0) >= 1)
        plan = plan.shared(int(min(most, by_cpu, MOST_ON_A_GPU)), plan.rows)
        # Ray counts in steps of 1/10000.
        return asked.model_copy(update={"gpus_per_trial": math.floor(10_000 / plan.trials) / 10_000}), plan
    # What Ray takes for a GPU this torch may not be able to use; reserving it would only keep trials apart.
    gpus = 0.0 if asked.gpus_per_trial == "auto" else asked.gpus_per_trial
    asked = asked.model_copy(update={"gpus_per_trial": gpus})
    fit = int(min(most, max(_fit(asked, machine) for machine in machines)))
    return asked, plan.shared(fit, 1) if asked.max_concurrent == "auto" else plan._replace(trials=max(1, fit))


def _is_cuda(plan: MemoryPlan) -> bool:
    return plan.device.startswith("cuda")


def settle(asked: Resources, machines: Machines, most: float = math.inf) -> Resources:
    """The resources with `max_concurrent` decided: no more trials than fit, at `most` so many on each machine.

    Raises:
        UsageError: not one trial fits.
    """
    cpus, gpus = asked.cpus_per_trial, asked.gpus_per_trial
    fits = int(sum(min(_fit(asked, machine), most) for machine in machines))
    if not fits:
        largest = ", ".join(f"{m.get('CPU', 0):g} CPU and {m.get('GPU', 0):g} GPU" for m in machines)
        raise UsageError(
            f"resources: a trial asks for {cpus:g} CPU and {gpus:g} GPU, but the machine has {largest}; "
            "lower resources.cpus_per_trial or resources.gpus_per_trial"
        )
    concurrent = fits if asked.max_concurrent == "auto" else min(asked.max_concurrent, fits)
    return asked.model_copy(update={"max_concurrent": concurrent})


def _fit(asked: Resources, machine: dict[str, float]) -> float:
    """Trials side by side on one machine, by its processors and GPUs. A trial's share of a GPU lies on one GPU."""
    cpus, gpus = asked.cpus_per_trial, asked.gpus_per_trial
    assert gpus != "auto"
    by_cpu, there = int(machine.get("CPU", 0) / cpus), machine.get("GPU", 0)
    if not gpus:
        return by_cpu
    return min(by_cpu, int(there / gpus) if gpus >= 1 else int(there) * int(1 / gpus))


def _device(device: str, gpus: float) -> str:
    """The device as a worker shall see it. Ray shows every GPU to a worker that asked for none."""
    if device.startswith("cuda:"):
        raise UsageError(f"training.device: Ray deals out the GPUs of a sweep, got {device}; use cuda or auto")
    if device == "cuda" and not gpus:
        raise UsageError("training.device: cuda needs a GPU for each trial, got none; use resources.gpus_per_trial")
    return "cpu" if device == "auto" and not gpus and sys.platform != "darwin" else device


def threads(spec: SweepSpec) -> int:
    """Threads of one trial: its share of the processors, so that trials side by side never oversubscribe them."""
    return max(1, int(spec.resources.cpus_per_trial))


class Measured(NamedTuple):
    """What a Ray task found where the trials will run."""

    training: TrainingConfig
    """Nothing in it is `auto`."""
    name: str
    reason: str
    """For its precision."""
    memory: MemoryPlan


def _measure(spec: SweepSpec, vocab_size: int, thread_count: int) -> Measured:
    """Runs as a Ray task, on the kind of machine the trials will get."""
    import torch

    from tune_newllm.training.device import require_number, resolve_device, resolve_micro_batch

    torch.set_num_threads(thread_count)
    device = resolve_device(spec.training.device)
    micro_batch = resolve_micro_batch(spec.training.micro_batch, device)
    spec = spec.model_copy(update={"training": replace(spec.training, device=device, micro_batch=micro_batch)})
    number = "fp32" if spec.training.precision == "auto" else spec.training.precision
    require_number(number, device)
    searched = spec.searched.get("training.precision")
    for precision in (searched.choices if searched else None) or ():
        require_number(precision, device)
    plan = measure_largest(_with_precision(spec, number), vocab_size, device)
    choice, reason = _choose_precision(spec, vocab_size, plan)
    if choice != number:
        plan = measure_largest(_with_precision(spec, choice), vocab_size, device)
    name = torch.cuda.get_device_name() if device.startswith("cuda") else processor()
    return Measured(_with_precision(spec, choice).training, name, reason, plan)


def _with_precision(spec: SweepSpec, precision: Number) -> SweepSpec:
    return spec.model_copy(update={"training": replace(spec.training, precision=precision)})


def _choose_precision(spec: SweepSpec, vocab_size: int, plan: MemoryPlan) -> tuple[Number, str]:
    """By a measurement with the largest batch that memory allows, and why."""
    from tune_newllm.models import build
    from tune_newllm.training.precision import resolve as resolve_training

    if spec.training.precision != "auto":
        return spec.training.precision, f"{spec.training.precision} was asked for"
    base = spec.configuration()
    # The largest batch decides: there the arithmetic counts, in which the precisions differ.
    batch = spec.parameters.get("training.batch_size")
    largest = max(batch.extremes()) if batch else base.training.batch_size
    rows = min(largest, plan.micro_batch or 1)
    # Not every scaling rule allows the base configuration such a batch, and none changes how long a step takes.
    asked = replace(base.training, batch_size=rows, lr_rule="none")

    def model() -> Any:
        return build(base.model, vocab_size, base.training.seed)

    work = partial(resolve_training, asked, model, vocab_size, base.corpus.window)
    try:
        measured, reason = within(plan.available, replace(base, training=asked), vocab_size, work)
    except InfeasibleError as error:
        return "fp32", f"no other could be measured: {error}"
    assert measured.precision != "auto"
    return measured.precision, f"{reason} (measured at batch {rows})"
