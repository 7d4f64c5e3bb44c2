import math

import pytest
import torch

from tune_newllm.training.config import LRScheduleConfig, TrainingConfig
from tune_newllm.training.optim import build_optimizer, effective_lr, lr_at


def test_scaling_rules_give_the_rates_of_the_original_research():
    # Original research, learning-rate rules: from 1e-4 at batch 32, linear below batch 256, sqrt from there on.
    rates = {"linear": {32: 1e-4, 64: 2e-4, 128: 4e-4}, "sqrt": {32: 1e-4, 512: 4e-4, 2048: 8e-4, 8192: 1.6e-3}}
    for rule, by_batch in rates.items():
        for batch_size, lr in by_batch.items():
            assert effective_lr(TrainingConfig(lr=1e-4, batch_size=batch_size, lr_rule=rule)) == pytest.approx(lr)
    assert effective_lr(TrainingConfig(lr=1e-4, batch_size=4096)) == 1e-4


def test_constant_schedule_with_and_without_warmup():
    plain = LRScheduleConfig()
    assert [lr_at(step, 10, 0.5, plain) for step in range(10)] == [0.5] * 10
    warm = LRScheduleConfig(warmup=0.4)
    assert [lr_at(step, 10, 1.0, warm) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_schedule_by_hand():
    schedule = LRScheduleConfig("cosine", warmup=0.2, final=0.1)
    got = [lr_at(step, 10, 2.0, schedule) for step in range(11)]
    half, root = 0.5, math.sqrt(0.5)
    shape = [0.5, 1.0, 1.0, None, (1 + root) * half, None, half, None, (1 - root) * half, None, 0.0]
    for step, share in enumerate(shape):
        if share is not None:
            floor = 0.1 + 0.9 * share if step >= 2 else share
            assert got[step] == pytest.approx(2.0 * floor), step
    assert got[2:] == sorted(got[2:], reverse=True)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_two_steps_agree_with_the_formulas(kind):
    weight, lr, decay, m, v = 0.7, 0.01, 0.3, 0.0, 0.0
    parameter = torch.nn.Parameter(torch.tensor([weight]))
    optimizer = build_optimizer(TrainingConfig(lr=lr, optimizer=kind, weight_decay=decay), [parameter])
    for step, gradient in enumerate([0.5, -0.2], 1):
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
        if kind == "adam":
            gradient += decay * weight
        else:
            weight -= lr * decay * weight
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        weight -= lr * (m / (1 - 0.9**step)) / (math.sqrt(v / (1 - 0.999**step)) + 1e-8)
        assert parameter.item() == pytest.approx(weight, rel=1e-5)
