"""Everything `auto` in a sweep, decided once before its first trial, so that all trials and resumes use the same."""

from dataclasses import dataclass
from typing import Any

from tune_newllm.data.corpora import PreparedCorpus
from tune_newllm.errors import UsageError
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.training.config import TrainingConfig


@dataclass(frozen=True)
class Hardware:
    """What a trial runs on, as the process that tried it saw it."""

    device: str
    name: str
    cpus: int
    precision_reason: str


def resolve(spec: SweepSpec, resources: dict[str, float], corpus: PreparedCorpus) -> tuple[SweepSpec, Hardware]:
    """The same sweep with nothing left `auto`.

    Precision is measured where the trials will run, with their resources: a cluster's driver may have no GPU.

    Raises:
        UsageError: a trial asks for more than the cluster has, or for a device that is not there.
    """
    import ray

    asked = spec.resources
    on_gpu = spec.training.device.startswith(("auto", "cuda")) and resources.get("GPU", 0) > 0
    gpus = (1.0 if on_gpu else 0.0) if asked.gpus_per_trial == "auto" else asked.gpus_per_trial
    for kind, wanted in (("CPU", asked.cpus_per_trial), ("GPU", gpus)):
        if wanted > resources.get(kind, 0):
            raise UsageError(
                f"resources: a trial asks for {wanted:g} {kind}, but there are {resources.get(kind, 0):g}; lower "
                f"resources.{kind.lower()}s_per_trial"
            )
    fits = min(int(resources["CPU"] / asked.cpus_per_trial), int(resources.get("GPU", 0) / gpus) if gpus else 10**6)
    concurrent = fits if asked.max_concurrent == "auto" else min(asked.max_concurrent, fits)
    measure = ray.remote(num_cpus=asked.cpus_per_trial, num_gpus=gpus, max_retries=0)(_measure)
    try:
        training, hardware = ray.get(measure.remote(spec, len(corpus.tokenizer), threads(spec)))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    settled = asked.model_copy(update={"gpus_per_trial": gpus, "max_concurrent": max(1, concurrent)})
    return spec.model_copy(update={"training": training, "resources": settled}), hardware


def threads(spec: SweepSpec) -> int:
    """Threads of one trial: its share of the processors, so that trials side by side never oversubscribe them."""
    return max(1, int(spec.resources.cpus_per_trial))


def _measure(spec: SweepSpec, vocab_size: int, thread_count: int) -> tuple[TrainingConfig, Hardware]:
    """Runs as a Ray task, on the kind of machine the trials will get."""
    import torch

    from tune_newllm.models import build
    from tune_newllm.sweep.provenance import processor
    from tune_newllm.training.precision import resolve as resolve_training

    torch.set_num_threads(thread_count)
    base = spec.configuration()

    def model() -> Any:
        return build(base.model, vocab_size, base.training.seed)

    training, reason = resolve_training(base.training, model, vocab_size, base.corpus.window)
    on_gpu = training.device.startswith("cuda")
    name = torch.cuda.get_device_name(training.device) if on_gpu else processor()
    cpus = int(torch.get_num_threads()) if on_gpu else thread_count
    return training, Hardware(training.device, name, cpus, reason)
