import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tune_newllm.training import signals
from tune_newllm.training.config import ClipConfig, TrainingConfig
from tune_newllm.training.loop import fit
from tune_newllm.training.state import TrainState
from tune_newllm.training.step import compute_gradients

CONFIG = TrainingConfig(lr=0.1, batch_size=8, optimizer="sgd", beta1=0.0, precision="fp32", device="cpu")


def gradient(model, rows):
    """Of the mean loss of some rows, by plain autograd, as one vector."""
    tokens = torch.from_numpy(rows.astype(np.int64))
    logits, _ = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), ignore_index=0)
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(model.parameters()))])


def probed(state, rows):
    probe = signals.Probe(state.parameters, rows)
    state.micro_batch = 3
    compute_gradients(state, rows, probe)
    return probe


@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_a_probe_sees_the_gradients_of_the_two_halves(tiny, windows, scale):
    state, rows = TrainState.create(CONFIG, tiny()), windows(7)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale) if scale else None
    probe = probed(state, rows)
    g1, g2 = gradient(state.model, rows[:3]), gradient(state.model, rows[3:])
    assert probe.signal == pytest.approx((g1 @ g2).item(), rel=1e-4)
    assert probe.noise == pytest.approx(((g1 - g2).square().sum() / (1 / 3 + 1 / 4)).item(), rel=1e-4)
    whole = torch.cat([each.grad.flatten() for each in state.parameters])
    torch.testing.assert_close(whole, gradient(state.model, rows), rtol=1e-4, atol=1e-6)


def test_the_noise_scale_is_that_of_the_gradients_of_single_sequences(tiny, windows):
    # Windows of equal length, so that the mean over targets is the mean over sequences.
    corpus = np.random.default_rng(0).integers(4, 30, (16, 5))
    corpus[:, 2::2] = 7
    state = TrainState.create(CONFIG, tiny(width=6))
    singles = torch.stack([gradient(state.model, row[None]) for row in corpus])
    mean = singles.mean(0)
    covariance_trace = (singles - mean).square().sum(1).mean()
    draws = np.random.default_rng(1).integers(0, len(corpus), (300, 5))
    probes = [probed(state, corpus[draw]) for draw in draws]
    assert np.mean([probe.signal for probe in probes]) == pytest.approx(mean.square().sum().item(), rel=0.1)
    assert np.mean([probe.noise for probe in probes]) == pytest.approx(covariance_trace.item(), rel=0.05)
    scale = covariance_trace / mean.square().sum()
    assert signals.noise_scale(probes) == pytest.approx(scale.item(), rel=0.1)


def test_no_noise_scale_where_there_is_none_to_see(tiny, windows):
    state = TrainState.create(CONFIG, tiny())
    alone = probed(state, windows(1))
    assert (alone.noise, alone.signal, signals.noise_scale([alone])) == (None, None, None)
    opposed, agreed = probed(state, windows(8)), probed(state, windows(8))
    # Halves of 4: the squared distance is half the noise.
    opposed._estimates, agreed._estimates = torch.tensor([-3.0, 2.5]), torch.tensor([2.0, 0.5])
    assert signals.noise_scale([opposed, agreed]) is None
    opposed._estimates = torch.tensor([-0.5, 2.5])
    # The two are averaged separately: (5 + 1) / (2 - 0.5).
    assert signals.noise_scale([alone, opposed, agreed]) == 4.0


def test_one_step_in_25_is_probed_and_at_least_one():
    assert [signals.probed_steps(steps) for steps in (1, 13, 49, 100)] == [{0}, {6}, {24}, {12, 37, 62, 87}]
    assert all(max(signals.probed_steps(steps)) < steps for steps in range(1, 200))


def test_update_ratio_of_plain_gradient_descent_by_hand(tiny, windows):
    rows = windows(8)
    for limit, config in ((math.inf, ClipConfig("none")), (0.3, ClipConfig("constant", 0.3))):
        state = TrainState.create(CONFIG, tiny())
        size = torch.cat([each.detach().flatten() for each in state.parameters]).norm().item()
        result = next(fit(state, rows, rows, replace(CONFIG, clip=config)))
        assert result.update_ratio == pytest.approx(0.1 * min(result.grad_norm, limit) / size, rel=1e-3)


def test_words_are_counted_in_chunks_without_padding_and_first_tokens(monkeypatch):
    monkeypatch.setattr(signals, "_CHUNK_ROWS", 2)
    rows = np.array([[2, 5, 6, 0], [2, 5, 0, 0], [9, 5, 8, 8], [2, 5, 0, 0]], dtype=np.uint16)
    # Targets: four times 5, once 6, twice 8.
    entropy = -(4 / 7 * math.log(4 / 7) + 1 / 7 * math.log(1 / 7) + 2 / 7 * math.log(2 / 7))
    assert signals.count_words(rows) == (7, pytest.approx(entropy))


def test_the_plateau_is_left_when_the_mean_of_1024_windows_is_a_tenth_below_the_entropy():
    plateau = signals.Plateau()
    # The mean over tokens, not over batches: three quarters of them are in the first batch.
    plateau.add(5.0, 3000, 512, 1, entropy=5.0)
    plateau.add(4.6 + 4e-9, 1000, 512, 2, entropy=5.0)
    assert plateau.left is None
    plateau.add(4.9, 1000, 511, 3, entropy=5.0)  # the first batch is still among the last 1024 windows
    assert (plateau.left, len(plateau.recent)) == (None, 3)
    plateau.add(5.1, 1000, 1, 4, entropy=5.0)  # (4.6 + 4.9 + 5.1) / 3 = 4.87
    assert (plateau.left, plateau.recent) == (4, [])
    plateau.add(9.0, 1000, 512, 5, entropy=5.0)
    assert (plateau.left, plateau.recent) == (4, [])


def test_long_windows_are_judged_by_their_targets():
    plateau = signals.Plateau()
    for step in range(1, 10):
        plateau.add(4.0, 16 * 512, 16, step, entropy=5.0)
        assert plateau.left == (None if step < 8 else 8), "128 windows of 512 targets"
    # Of 64 tokens it still are 1,024 windows.
    plateau = signals.Plateau()
    for step in range(1, 65):
        plateau.add(4.0, 16 * 63, 16, step, entropy=5.0)
        assert plateau.left == (None if step < 64 else 64)


def test_word_frequencies_alone_do_not_leave_the_plateau_by_chance():
    # Tokens of a window go together, so the mean loss of a window scatters widely whatever the model knows.
    losses = np.random.default_rng(0).normal(5.0, 0.6, (4000, 8)).mean(axis=1)
    plateau = signals.Plateau()
    for step, loss in enumerate(losses, 1):
        plateau.add(loss, 184, 8, step, entropy=5.0)
    assert plateau.left is None


@pytest.mark.parametrize("look", ["see_first_half", "see_batch", "see_weights", "see_update"])
def test_a_probe_without_memory_is_dropped_and_the_training_goes_on(look, tiny, windows, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(signals.Probe, look, full)
    state = TrainState.create(replace(CONFIG, epochs=1), tiny())
    (result,) = fit(state, windows(16), windows(4), replace(CONFIG, epochs=1))
    assert (result.noise_scale, result.update_ratio, result.micro_batch) == (None, None, 8)
    assert len(state.notes) == 1


def test_one_sequence_that_fits_without_a_probe_is_feasible(tiny, windows):
    rows, state = windows(2), TrainState.create(CONFIG, tiny())
    probe = signals.Probe(state.parameters, rows)

    def full(model, inputs):
        if not probe.dropped:
            raise torch.OutOfMemoryError("CUDA out of memory")

    state.model.register_forward_pre_hook(full)
    compute_gradients(state, rows, probe)
    whole = torch.cat([each.grad.flatten() for each in state.parameters])
    torch.testing.assert_close(whole, gradient(tiny(), rows), rtol=1e-4, atol=1e-6)
    assert state.micro_batch == 8
