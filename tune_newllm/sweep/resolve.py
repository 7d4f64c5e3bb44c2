"""Everything `auto` in a sweep, decided once before its first trial, so that all trials and resumes use the same."""

import math
import sys
from dataclasses import replace
from typing import Any

from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.errors import UsageError
from tune_newllm.sweep.provenance import Hardware, processor
from tune_newllm.sweep.spec import Resources, SweepSpec
from tune_newllm.training.config import TrainingConfig

Machines = list[dict[str, float]]
"""What each machine of the cluster has to give: `CPU`, `GPU`."""


def resolve(spec: SweepSpec, machines: Machines, corpus: PreparedCorpus) -> tuple[SweepSpec, Hardware]:
    """The same sweep with nothing left `auto`.

    Precision is measured where the trials will run, with their resources: a cluster's driver may have no GPU.

    Raises:
        UsageError: a trial asks for more than any machine has, or for a device or precision that is not there.
    """
    import ray

    asked = spec.resources.gpus_per_trial
    gpus = _gpus(spec.training.device, machines) if asked == "auto" else asked
    spec = spec.model_copy(update={"training": replace(spec.training, device=_device(spec.training.device, gpus))})
    settled = settle(spec.resources.model_copy(update={"gpus_per_trial": gpus}), machines)
    measure = ray.remote(num_cpus=settled.cpus_per_trial, num_gpus=gpus, max_retries=0)(_measure)
    try:
        training, hardware = ray.get(measure.remote(spec, len(corpus.tokenizer), threads(spec)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    if asked == "auto" and training.device == "cpu" and gpus:
        # Ray sees a GPU that this torch cannot use: reserving it would only keep trials apart.
        settled = settle(spec.resources.model_copy(update={"gpus_per_trial": 0.0}), machines)
    return spec.model_copy(update={"training": training, "resources": settled}), hardware


def settle(asked: Resources, machines: Machines) -> Resources:
    """The resources with `max_concurrent` decided: no more trials than fit, counted machine by machine.

    Raises:
        UsageError: not one trial fits.
    """
    cpus, gpus = asked.cpus_per_trial, asked.gpus_per_trial
    assert gpus != "auto"
    fits = 0
    for machine in machines:
        by_gpu = int(machine.get("GPU", 0) / gpus) if gpus else math.inf
        fits += int(min(int(machine.get("CPU", 0) / cpus), by_gpu))
    if not fits:
        largest = ", ".join(f"{m.get('CPU', 0):g} CPU and {m.get('GPU', 0):g} GPU" for m in machines)
        raise UsageError(
            f"resources: a trial asks for {cpus:g} CPU and {gpus:g} GPU, but the machine has {largest}; "
            "lower resources.cpus_per_trial or resources.gpus_per_trial"
        )
    concurrent = fits if asked.max_concurrent == "auto" else min(asked.max_concurrent, fits)
    return asked.model_copy(update={"max_concurrent": concurrent})


def _gpus(device: str, machines: Machines) -> float:
    wanted = device.startswith(("auto", "cuda")) and any(machine.get("GPU", 0) >= 1 for machine in machines)
    return 1.0 if wanted else 0.0


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


def _measure(spec: SweepSpec, vocab_size: int, thread_count: int) -> tuple[TrainingConfig, Hardware]:
    """Runs as a Ray task, on the kind of machine the trials will get."""
    import torch

    from tune_newllm.models import build
    from tune_newllm.training.device import require_number
    from tune_newllm.training.precision import resolve as resolve_training

    torch.set_num_threads(thread_count)
    base = spec.configuration()
    # The largest batch decides: there the arithmetic counts, in which the precisions differ.
    batch = spec.parameters.get("training.batch_size")
    largest = max(batch.extremes()) if batch else base.training.batch_size
    # Not every scaling rule allows the base configuration such a batch, and none changes how long a step takes.
    asked = replace(base.training, batch_size=largest, lr_rule="none")

    def model() -> Any:
        return build(base.model, vocab_size, base.training.seed)

    measured, reason = resolve_training(asked, model, vocab_size, base.corpus.window)
    searched = spec.searched.get("training.precision")
    for precision in (searched.choices if searched else None) or ():
        require_number(precision, measured.device)
    training = replace(spec.training, device=measured.device, precision=measured.precision)
    training = replace(training, micro_batch=measured.micro_batch)
    on_gpu = training.device.startswith("cuda")
    name = torch.cuda.get_device_name() if on_gpu else processor()
    return training, Hardware(training.device, name, f"{reason} (measured at batch {largest})")
