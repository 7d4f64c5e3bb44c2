"""Presets for GPUs, chosen on a processor with a memory that is only said to be there."""

from dataclasses import replace

import pytest

from tune_newllm.data.config import CorpusConfig
from tune_newllm.errors import InfeasibleError, UsageError
from tune_newllm.models import ModelConfig
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.device import RESERVE
from tune_newllm.training.memory import measure_step
from tune_newllm.training.optim import effective_lr
from tune_newllm.training.presets import PRESETS, choose, from_base_point

SMALL = Configuration(
    CorpusConfig(window=16),
    ModelConfig(embed_dim=16, hidden_dim=32, ctx_dim=16, num_layers=2),
    TrainingConfig(lr=4e-4, batch_size=512, device="cpu"),
)


@pytest.mark.parametrize(
    ("name", "batch", "lr"),
    [
        ("t4", 512, 4e-4),
        ("rtx3060", 256, 2.83e-4),
        ("l4", 2048, 8e-4),
        ("a100", 4096, 1.131e-3),
        ("h200", 8192, 1.6e-3),
    ],
)
def test_a_small_model_gets_the_originals_batches_and_rates(name, batch, lr):
    original = from_base_point(replace(SMALL, model=replace(SMALL.model, init="original")))
    for configuration in (original, SMALL):
        chosen = choose(name, configuration, 100, ())
        assert chosen.settings()["training.batch_size"] == batch
        assert chosen.settings()["training.lr"] == pytest.approx(1e-4)
        assert effective_lr(chosen.training, 1) == pytest.approx(lr, rel=2e-3)
    assert not chosen.measured
    assert chosen.memory < (1 - RESERVE) * PRESETS[name].memory
    assert from_base_point(SMALL) == SMALL


def test_the_batch_is_the_largest_power_of_two_that_fits():
    training = replace(SMALL.training, precision="fp32", batch_size=2048, micro_batch=2048)
    step = measure_step(replace(SMALL, training=training), 100)
    for batch in (1, 64, 1024):
        for memory in (step.need(batch), step.need(2 * batch) - 1):
            chosen = choose("l4", SMALL, 100, {"training.precision"}, memory)
            assert (chosen.training.batch_size, chosen.measured) == (batch, True)
    with pytest.raises(InfeasibleError, match="take a smaller model"):
        choose("l4", SMALL, 100, (), step.need(1) // 2)


def test_what_was_asked_for_stays():
    asked = ("training.batch_size", "training.lr", "training.precision")
    chosen = choose("l4", SMALL, 100, asked, 10**9)
    assert chosen.training == SMALL.training
    ruled = replace(SMALL, training=replace(SMALL.training, lr=5e-4, lr_rule="linear"))
    assert choose("t4", ruled, 100, ()).settings() == {
        "training.batch_size": 512,
        "training.precision": "fp16",
        "training.lr": 5e-4,
        "training.lr_rule": "linear",
    }
    sde = replace(SMALL, training=replace(SMALL.training, batch_size=64, lr_rule="sqrt-sde"))
    with pytest.raises(UsageError, match="--preset l4: batch_size must be at most 320"):
        choose("l4", sde, 100, ())
