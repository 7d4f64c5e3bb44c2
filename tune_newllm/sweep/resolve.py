"""Everything `auto` in a sweep, decided once before its first trial, so that all trials and resumes use the same."""

import math
import sys
from dataclasses import replace

from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.errors import TuneError, UsageError
from tune_newllm.sweep import measuring
from tune_newllm.sweep.measuring import Measured
from tune_newllm.sweep.memory_plan import MemoryPlan
from tune_newllm.sweep.provenance import Hardware
from tune_newllm.sweep.sharing import Machines, is_cuda, settle, share, threads, why_so_many
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.training.choosing import Choice

__all__ = ["resolve", "resolve_here", "settle", "threads"]


def resolve(spec: SweepSpec, machines: Machines, corpus: PreparedCorpus) -> tuple[SweepSpec, Hardware]:
    """The same sweep with nothing left `auto`.

    It is measured where the trials will run, with their resources: a cluster's driver may have no GPU.

    Raises:
        UsageError: a trial asks for more than any machine has, or for a device or precision that is not there.
        TuneError: Ray lost the process that measures.
    """
    import ray

    spec, gpus = _prepared(spec, machines)
    measure = ray.remote(num_cpus=spec.resources.cpus, num_gpus=gpus, max_retries=0)(measuring.measure)
    try:
        measured = ray.get(measure.remote(spec, machines, len(corpus.tokenizer)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TuneError(f"the process that measured this machine was lost ({why}): try again") from None
    spec, hardware, _ = _concluded(measured, machines)
    return spec, hardware


def resolve_here(spec: SweepSpec, machines: Machines, vocab_size: int) -> tuple[SweepSpec, Hardware, MemoryPlan]:
    """As `resolve`, in this process and without Ray.

    Raises:
        UsageError: as in `resolve`.
    """
    return _concluded(measuring.measure(_prepared(spec, machines)[0], machines, vocab_size), machines)


def _prepared(spec: SweepSpec, machines: Machines) -> tuple[SweepSpec, float]:
    """The sweep with the device as a worker shall see it, and GPUs for a process that measures there.

    Raises:
        UsageError: the device is not what trials can get, or not one trial fits.
    """
    device, gpus = spec.training.device, spec.resources.gpus_per_trial
    if gpus == "auto":
        wanted = device.startswith(("auto", "cuda")) and any(machine.get("GPU", 0) >= 1 for machine in machines)
        gpus = 1.0 if wanted else 0.0
    spec = spec.model_copy(update={"training": replace(spec.training, device=_device(device, gpus))})
    settle(spec.resources.model_copy(update={"gpus_per_trial": gpus}), machines)
    return spec, gpus


def _concluded(measured: Measured, machines: Machines) -> tuple[SweepSpec, Hardware, MemoryPlan]:
    """With the number of trials at once decided too."""
    asked = measured.spec.resources
    resources, plan = share(asked, machines, measured.memory)
    plan.warn()
    resources = settle(resources, machines, math.inf if is_cuda(plan) else plan.trials)
    concurrent = Choice(resources.max_concurrent, why_so_many(asked, resources, machines, plan))
    choices = measured.choices | {"resources.max_concurrent": concurrent}
    hardware = Hardware(measured.spec.training.device, measured.name, choices, plan.facts())
    return measured.spec.model_copy(update={"resources": resources}), hardware, plan


def _device(device: str, gpus: float) -> str:
    """The device as a worker shall see it. Ray shows every GPU to a worker that asked for none."""
    if device.startswith("cuda:"):
        raise UsageError(f"training.device: Ray deals out the GPUs of a sweep, got {device}; use cuda or auto")
    if device == "cuda" and not gpus:
        raise UsageError("training.device: cuda needs a GPU for each trial, got none; use resources.gpus_per_trial")
    return "cpu" if device == "auto" and not gpus and sys.platform != "darwin" else device
