import math

import pytest
import torch

from tune_newllm.training.clip import clip_gradients, clip_limit, gradient_norm
from tune_newllm.training.config import ClipConfig


def test_schedules_by_epoch():
    def limits(config, epochs):
        return [clip_limit(config, epoch) for epoch in epochs]

    edges = [0, 9, 10, 29, 30, 1000]
    assert limits(ClipConfig("none"), edges) == [None] * 6
    assert limits(ClipConfig("constant", 0.7), edges) == [0.7] * 6
    assert limits(ClipConfig("original", 0.7), edges) == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]
    table = ((0, 3.0), (1, 1.0), (10, 2.0))
    assert limits(ClipConfig("piecewise", table=table), [0, 1, 9, 10, 99]) == [3.0, 1.0, 1.0, 2.0, 2.0]


def test_the_norm_is_global_and_clipping_keeps_the_direction():
    first, second, unused = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    first.grad, second.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, -4.0])
    parameters = [first, second, unused]
    norm = gradient_norm(parameters)
    assert norm.item() == 5.0
    clip_gradients(parameters, norm, 0.5)
    assert first.grad.tolist() == pytest.approx([0.3, 0.0], abs=1e-6)
    assert math.isclose(gradient_norm(parameters).item(), 0.5, rel_tol=1e-5)
