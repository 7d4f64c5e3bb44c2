import math

import pytest

from tune_newllm.training import rules


def test_batch_rules_give_the_rates_of_the_original_research():
    # Original research, learning-rate rules: from 1e-4 at batch 32.
    linear = {32: 1e-4, 64: 2e-4, 128: 4e-4}
    root = {256: 2.83e-4, 512: 4e-4, 1024: 5.66e-4, 2048: 8e-4, 4096: 1.131e-3, 8192: 1.6e-3}
    by_rule = {"linear": linear, "sqrt": root, "original": linear | root, "sqrt-sde": root, "none": {4096: 1e-4}}
    for rule, by_batch in by_rule.items():
        for batch_size, lr in by_batch.items():
            assert rules.BATCH_RULES[rule](1e-4, batch_size) == pytest.approx(lr, rel=2e-3), (rule, batch_size)
    # The bend: batch 255 gets 255 / 32 times the rate, batch 256 only sqrt(8) times.
    assert rules.original_rule(1.0, 255) == 255 / 32
    assert rules.original_rule(1.0, 256) == pytest.approx(math.sqrt(8))


def test_size_rule_gives_the_rates_of_the_original_research():
    assert rules.size_rule(1.0, 2_739_432) == 1.0
    assert rules.size_rule(1.0, 4_840_936) == pytest.approx(0.752, abs=5e-4)
    rates = {8e-4: 6.0e-4, 4e-4: 3.0e-4, 1.1e-3: 8.3e-4}
    for base, lr in rates.items():
        assert rules.size_rule(base, 4_840_936) == pytest.approx(lr, rel=5e-3)


def test_the_sde_rule_by_hand_and_its_largest_batch():
    # k = 4: 1 - beta times four, eps halved.
    assert rules.sde_adam(0.9, 0.999, 1e-8, 128) == pytest.approx((0.6, 0.996, 5e-9))
    assert rules.sde_adam(0.9, 0.999, 1e-8, 8) == pytest.approx((0.975, 0.99975, 2e-8))
    assert rules.sde_adam(0.9, 0.999, 1e-8, 319).beta1 == pytest.approx(1 - 31.9 / 32)
    with pytest.raises(ValueError, match=r"batch_size must be at most 320 .* got 321"):
        rules.sde_adam(0.9, 0.999, 1e-8, 321)
    assert rules.sde_adam(0.9, 0.999, 1e-8, 320).beta1 == pytest.approx(0, abs=1e-12)
    assert rules.sde_adam(0.0, 0.999, 1e-8, 32) == (0, pytest.approx(0.999), 1e-8)
    with pytest.raises(ValueError, match="at most 64 "):
        rules.sde_adam(0.9, 0.5, 1e-8, 65)
