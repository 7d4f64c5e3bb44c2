from bisect import insort

import numpy as np
import pytest
import torch

from tune_newllm.training.clip import ClipConfig, clip_limit
from tune_newllm.training.optim import clip_divisor, gradient_norm
from tune_newllm.training.schedules import Position


def at_epoch(epoch, share=0.0):
    return Position(round((epoch + share) * 4), 4, 40, round((epoch + share) * 100), 100)


def test_schedules_by_epoch():
    def limits(config, epochs):
        return [clip_limit(config, at_epoch(epoch, 0.75 * (epoch == 9)), []) for epoch in epochs]

    edges = [0, 9, 10, 29, 30, 1000]
    assert limits(ClipConfig("none"), edges) == [None] * 6
    assert limits(ClipConfig("constant", 0.7), edges) == [0.7] * 6
    assert limits(ClipConfig("original", 0.7, by="tokens"), edges) == [0.5, 0.5, 1.0, 1.0, 2.0, 2.0]
    table = ((0, 3.0), (1, 1.0), (10, 2.0))
    assert limits(ClipConfig("piecewise", table=table), [0, 1, 9, 10, 99]) == [3.0, 1.0, 1.0, 2.0, 2.0]
    linear = ClipConfig("linear", 1.0, final=3.0, until=20)
    assert limits(linear, [0, 5, 10, 20, 30]) == [1.0, 1.5, 2.0, 3.0, 3.0]
    assert limits(ClipConfig("linear", 4.0, final=2.0), [0, 10, 20, 40]) == [4.0, 3.5, 3.0, 2.0]


def test_by_step_and_by_tokens_the_same_moment_of_two_batch_sizes():
    # After 600 of 1000 tokens: step 6 of 10, or step 3 of 5.
    small, large = Position(6, 10, 1, 600, 1000), Position(3, 5, 1, 600, 1000)
    piecewise, linear = {"table": ((0, 1.0), (6, 2.0), (600, 3.0))}, {"norm": 1.0, "final": 2.0, "until": 1200}
    for by, limits in {"tokens": [3.0, 3.0], "step": [2.0, 1.0]}.items():
        config = ClipConfig("piecewise", by=by, **piecewise)
        assert [clip_limit(config, position, []) for position in (small, large)] == limits
    assert [clip_limit(ClipConfig("linear", by="tokens", **linear), each, []) for each in (small, large)] == [1.5, 1.5]
    assert clip_limit(ClipConfig("linear", by="step", norm=1.0, final=2.0), large, []) == 1.6


@pytest.mark.parametrize("percentile", [0.0, 10.0, 37.5, 100.0])
def test_percentile_is_that_of_all_norms_so_far(percentile):
    config, ascending = ClipConfig("percentile", percentile=percentile), []
    norms = np.random.default_rng(0).lognormal(size=60)
    for count, norm in enumerate(norms, 1):
        insort(ascending, norm)
        assert clip_limit(config, at_epoch(0), ascending) == pytest.approx(np.percentile(norms[:count], percentile))
    assert clip_limit(config, at_epoch(0), []) is None


@pytest.mark.parametrize("limit", [0.5, 2.5e-8, 7.0])
def test_the_norm_is_global_and_the_divisor_brings_it_to_the_limit(limit):
    first, second, unused = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    # The second limit is far below 1e-6, which torch adds to the norm.
    size = min(1.0, 2 * limit)
    first.grad, second.grad = torch.tensor([3.0 * size, 0.0]), torch.tensor([0.0, -4.0 * size])
    norm = gradient_norm([first, second, unused])
    assert norm.item() == pytest.approx(5 * size)
    assert clip_divisor(norm, limit).item() == pytest.approx(max(1, 5 * size / limit))
