"""What a training costs: its sizes, and the seconds it takes."""

import dataclasses
import statistics
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tune_newllm.data.corpora import PreparedCorpus
    from tune_newllm.training.config import Configuration


def sizes(configuration: "Configuration", corpus: "PreparedCorpus") -> dict[str, int]:
    """Sizes of a training: parameters, windows, steps."""
    from tune_newllm.models import parameter_count
    from tune_newllm.training.loop import steps_per_epoch

    vocab_size = len(corpus.tokenizer)
    steps = steps_per_epoch(len(corpus.train), configuration.training.batch_size)
    return {
        "parameters": parameter_count(configuration.model, vocab_size),
        "vocabulary": vocab_size,
        "train_windows": len(corpus.train),
        "validation_windows": len(corpus.validation),
        "test_windows": 0 if corpus.test is None else len(corpus.test),
        "steps_per_epoch": steps,
        "steps": steps * configuration.training.epochs,
    }


def settings(configuration: "Configuration", vocab_size: int) -> dict[str, int | float | str]:
    """What a preset may have changed, with the learning rate after its rules."""
    from tune_newllm.models import parameter_count
    from tune_newllm.training.optim import effective_lr

    training = configuration.training
    rate = effective_lr(training, parameter_count(configuration.model, vocab_size))
    return {"batch_size": training.batch_size, "learning_rate": rate, "precision": training.precision}


def trial_seconds(configuration: "Configuration", corpus: "PreparedCorpus", threads: int) -> float:
    """Estimated seconds of all epochs: the median of a few real steps, times their number; with a fixed-point model's
    phase one, should it take all its iterations, and the reading of its contexts.

    Args:
        configuration: nothing in it is `auto`.
    """
    import torch

    from tune_newllm.models import build
    from tune_newllm.training.context_cache import as_trained
    from tune_newllm.training.device import resolve_micro_batch
    from tune_newllm.training.fixed_point import preparation_seconds
    from tune_newllm.training.loop import train_step
    from tune_newllm.training.state import TrainState

    torch.set_num_threads(threads)
    # Next to no learning rate: the steps shall take their time, not diverge.
    training = dataclasses.replace(configuration.training, lr=1e-9, lr_rule="none", lr_size_rule="none")
    state = TrainState.create(training, build(configuration.model, len(corpus.tokenizer), training.seed))
    micro_batch = resolve_micro_batch(training.micro_batch, state.device)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        train_step(state, as_trained(state.model, corpus.train[: training.batch_size]), None, micro_batch)
        if state.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    before = preparation_seconds(state, corpus.train, len(corpus.validation), training, corpus.carries)
    return before + statistics.median(seconds[1:]) * sizes(configuration, corpus)["steps"]
