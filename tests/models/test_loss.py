import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tune_newllm.models import loss
from tune_newllm.models.loss import cross_entropy, score

PAD = 0


def by_hand(features, weight, bias, targets):
    """Losses and hits, position by position, in NumPy's float64."""
    logits = features @ weight.T + bias
    losses = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    rows = np.arange(len(targets))
    return losses - logits[rows, targets], logits[rows, targets] == logits.max(1)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(loss, "CPU_LOGITS", 40)
    monkeypatch.setattr(loss, "FEWEST_ROWS", 3)


@settings(max_examples=60, deadline=None)
@given(
    positions=st.integers(1, 20), vocab=st.integers(2, 30), width=st.integers(1, 6), pads=st.integers(0, 20),
    size=st.sampled_from([1.0, 30.0]), seed=st.integers(0, 9),
)  # fmt: skip
def test_sum_and_scores_are_those_of_the_definition(positions, vocab, width, pads, size, seed):
    rng = np.random.default_rng(seed)
    features, weight, bias = (size * rng.normal(size=shape) for shape in ((positions, width), (vocab, width), (vocab,)))
    targets = rng.integers(1, vocab, positions)
    targets[rng.permutation(positions)[:pads]] = PAD
    losses, hits = by_hand(features, weight, bias, targets)
    tensors = [torch.from_numpy(each) for each in (features, weight, bias, targets)]
    total = cross_entropy(*tensors, PAD)
    assert total.item() == pytest.approx(losses[targets != PAD].sum(), rel=1e-12)
    scores = score(*tensors)
    np.testing.assert_allclose(scores.loss, losses, rtol=1e-12, atol=1e-12)
    assert (scores.hit.numpy() == hits).all()


@pytest.mark.parametrize("selecting", [True, False], ids=["padding left out", "padding masked"])
def test_gradients_agree_with_finite_differences(selecting, monkeypatch):
    if not selecting:
        # As on an accelerator, where the number of targets is not known to the host.
        monkeypatch.setattr(loss, "SELECTS_TARGETS", ())
    generator = torch.Generator().manual_seed(0)
    draw = [
        torch.randn(*n, generator=generator, dtype=torch.float64, requires_grad=True) for n in ((7, 3), (11, 3), (11,))
    ]
    targets = torch.tensor([4, PAD, 10, 1, PAD, 4, 2])

    def total(*tensors):
        return cross_entropy(*tensors, targets, PAD) * 0.3

    assert torch.autograd.gradcheck(total, draw)
    assert torch.autograd.gradcheck(
        lambda features, weight: cross_entropy(features, weight, None, targets, PAD), draw[:2]
    )
    total(*draw).backward()
    assert (draw[0].grad[targets == PAD] == 0).all()


def test_half_precision_sums_the_gradients_of_the_weights_in_float32(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(*shape, generator=generator) for shape in ((3000, 8), (5, 8)))
    targets, gradients = torch.randint(0, 5, (3000,), generator=generator), []
    for autocast in (True, False):
        weights = weight.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            cross_entropy(features, weights, None, targets, None).backward()
        gradients.append(weights.grad)
    # Summed in bf16 over a thousand pieces the error would be some 10 %.
    error = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert error < 0.01, error


def test_memory_does_not_grow_with_the_vocabulary(monkeypatch):
    monkeypatch.undo()
    features, weight = torch.randn(600, 4, requires_grad=True), torch.randn(50257, 4, requires_grad=True)
    with torch.profiler.profile(profile_memory=True) as seen:
        cross_entropy(features, weight, None, torch.randint(0, 50257, (600,)), PAD).backward()
    largest = max(each.nbytes() for each in seen.profiler.kineto_results.events() if each.name() == "[memory]")
    assert largest <= 64 * 50257 * 4 < 600 * 50257
