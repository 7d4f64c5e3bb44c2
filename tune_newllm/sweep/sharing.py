"""How the trials of a sweep share processors, GPUs and memory."""

import itertools
import math

from tune_newllm.errors import UsageError
from tune_newllm.sweep.memory_plan import MemoryPlan
from tune_newllm.sweep.spec import Resources, SweepSpec

Machines = list[dict[str, float]]
"""What each machine of the cluster has to give: `CPU`, `GPU`."""
MOST_ON_A_GPU = 8
"""Trials that share a GPU at most. They take turns on it: a few fill the gaps in which small models leave it idle,
further ones only wait, and each brings a CUDA context of its own."""


def share(asked: Resources, machines: Machines, plan: MemoryPlan) -> tuple[Resources, MemoryPlan]:
    """With how many others a trial shares its device: as many as processors and memory allow.

    On a GPU a further trial must leave the largest configuration its micro-batch; in main memory one sequence is
    enough, for there more trials use more processors.

    Args:
        plan: for one trial on a device.
    """
    most = math.inf if asked.max_concurrent == "auto" else asked.max_concurrent
    if is_cuda(plan):
        if asked.gpus_per_trial != "auto":
            return asked, plan._replace(trials=int(min(most, max(1, 1 / asked.gpus_per_trial))))
        by_cpu = min(m.get("CPU", 0) / m["GPU"] / asked.cpus for m in machines if m.get("GPU", 0) >= 1)
        plan = plan.shared(int(min(most, by_cpu, MOST_ON_A_GPU)), plan.rows)
        # Ray counts in steps of 1/10000.
        return asked.model_copy(update={"gpus_per_trial": math.floor(10_000 / plan.trials) / 10_000}), plan
    # What Ray takes for a GPU this torch may not be able to use; reserving it would only keep trials apart.
    gpus = 0.0 if asked.gpus_per_trial == "auto" else asked.gpus_per_trial
    asked = asked.model_copy(update={"gpus_per_trial": gpus})
    fit = int(min(most, max(_fit(asked, machine) for machine in machines)))
    return asked, plan.shared(fit, 1) if asked.max_concurrent == "auto" else plan._replace(trials=max(1, fit))


def is_cuda(plan: MemoryPlan) -> bool:
    """Whether the trials share GPUs."""
    return plan.device.startswith("cuda")


def settle(asked: Resources, machines: Machines, most: float = math.inf) -> Resources:
    """The resources with `max_concurrent` decided: no more trials than fit, at `most` so many on each machine.

    Raises:
        UsageError: not one trial fits.
    """
    cpus, gpus = asked.cpus, asked.gpus_per_trial
    fits = int(sum(min(_fit(asked, machine), most) for machine in machines))
    if not fits:
        largest = ", ".join(f"{m.get('CPU', 0):g} CPU and {m.get('GPU', 0):g} GPU" for m in machines)
        raise UsageError(
            f"resources: a trial asks for {cpus:g} CPU and {gpus:g} GPU, but the machine has {largest}; "
            "lower resources.cpus_per_trial or resources.gpus_per_trial"
        )
    concurrent = fits if asked.max_concurrent == "auto" else min(asked.max_concurrent, fits)
    return asked.model_copy(update={"max_concurrent": concurrent})


def why_so_many(asked: Resources, settled: Resources, machines: Machines, plan: MemoryPlan) -> str:
    """The reason for a settled `max_concurrent`, in one sentence."""
    if asked.max_concurrent == settled.max_concurrent:
        return f"{asked.max_concurrent} at once was asked for"
    there = " and ".join(
        f"{amount:g} {'GPU' if kind == 'GPU' else 'processor'}{'s' * (amount != 1)} ({each:g} a trial)"
        for kind, each in (("CPU", settled.cpus), ("GPU", settled.gpus_per_trial))
        if each and (amount := sum(machine.get(kind, 0) for machine in machines))
    )
    if asked.max_concurrent != "auto":
        return f"{asked.max_concurrent} at once were asked for, but there are only {there}"
    if plan.trials < plan.wanted:
        return f"memory suffices for {plan.trials} of {plan.wanted} at once"
    return f"as many as {there} allow"


def _fit(asked: Resources, machine: dict[str, float]) -> float:
    """Trials side by side on one machine, by its processors and GPUs. A trial's share of a GPU lies on one GPU."""
    gpus = asked.gpus_per_trial
    assert gpus != "auto"
    by_cpu, there = int(machine.get("CPU", 0) / asked.cpus), machine.get("GPU", 0)
    if not gpus:
        return by_cpu
    return min(by_cpu, int(there / gpus) if gpus >= 1 else int(there) * int(1 / gpus))


def threads(spec: SweepSpec) -> int:
    """Threads of one trial: its share of the processors, so that trials side by side never oversubscribe them."""
    return max(1, int(spec.resources.cpus))


def trials_left(spec: SweepSpec, most: int) -> int:
    """Trials of a whole sweep, counted up to `most`."""
    from tune_newllm.sweep.study import grid

    count = spec.run_cap
    if count is None:
        if spec.method != "grid":
            return most
        count = sum(1 for _ in itertools.islice(grid(spec, spec.order, {}), most))
    return min(most, count * spec.seeds)
