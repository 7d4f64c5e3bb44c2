import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from tune_newllm.errors import InfeasibleError
from tune_newllm.training import metrics
from tune_newllm.training.metrics import evaluate, perplexity

LOGITS = np.random.default_rng(0).normal(size=(8, 8))


class Bigram(nn.Module):
    """Logits are a row of a fixed table, chosen by the input token."""

    def forward(self, tokens_BT, state=None):
        assert not self.training
        return torch.tensor(LOGITS, dtype=torch.float32)[tokens_BT], state


def reference(rows, legacy_batch):
    """All figures, token by token, as the definitions say them."""
    log_probabilities = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    losses, known, hits, batches = [], [], 0, []
    for start in range(0, len(rows), legacy_batch):
        batch = []
        for row in rows[start : start + legacy_batch]:
            for token, target in pairwise(row):
                if target != 0:
                    loss = -log_probabilities[token, target]
                    batch.append(loss)
                    hits += LOGITS[token].argmax() == target
                    if target != 1:
                        known.append(loss)
        losses += batch
        batches.append(np.mean(batch))
    return np.mean(losses), np.mean(batches), hits / len(losses), np.mean(known), len(losses)


def test_every_figure_agrees_with_its_definition():
    rng = np.random.default_rng(1)
    rows = rng.integers(1, 8, (700, 9)).astype(np.uint16)
    for row in rows:
        row[rng.integers(2, 10) :] = 0
    model = Bigram().train()
    for legacy_batch in (7, 256, 1000):
        loss, legacy, acc, known, targets = reference(rows, legacy_batch)
        got = evaluate(model, rows, device="cpu", legacy_batch=legacy_batch)
        assert got.loss == pytest.approx(loss, rel=1e-6)
        assert got.loss_legacy == pytest.approx(legacy, rel=1e-6)
        assert got.loss_legacy != pytest.approx(loss, rel=1e-6) or legacy_batch == 1000
        assert (got.acc, got.targets) == (pytest.approx(acc), targets)
        assert got.ppl == pytest.approx(math.exp(loss), rel=1e-6)
        assert got.ppl_known == pytest.approx(math.exp(known), rel=1e-6)
    assert model.training
    assert evaluate(model, rows, device="cpu").loss_legacy is None


def test_edges_of_perplexity():
    assert perplexity(800.0) == math.inf
    only_unknown = np.array([[2, 1, 0]], dtype=np.uint16)
    assert math.isnan(evaluate(Bigram(), only_unknown, device="cpu").ppl_known)


def test_an_evaluation_without_memory_reads_fewer_rows_and_finds_the_same():
    rows = np.random.default_rng(1).integers(1, 8, (310, 9)).astype(np.uint16)
    whole = evaluate(Bigram(), rows, device="cpu", legacy_batch=7)
    model = Bigram()
    model.register_forward_pre_hook(partial(out_of_memory_above, 100))
    assert evaluate(model, rows, device="cpu", legacy_batch=7) == whole
    model.train().register_forward_pre_hook(partial(out_of_memory_above, 0))
    with pytest.raises(InfeasibleError, match="one sequence at a time"):
        evaluate(model, rows[:2], device="cpu")
    assert model.training


def out_of_memory_above(most, model, inputs):
    if len(inputs[0]) > most:
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_pass_has_no_more_logits_than_main_memory_bears(monkeypatch):
    rows = np.random.default_rng(1).integers(1, 8, (40, 9)).astype(np.uint16)
    whole, model = evaluate(Bigram(), rows, device="cpu"), Bigram()
    monkeypatch.setattr(metrics, "EVALUATION_LOGITS", 10 * 8 * 8)
    model.register_forward_pre_hook(partial(out_of_memory_above, 10))
    seen = []
    model.register_forward_pre_hook(lambda model, inputs: seen.append(len(inputs[0])))
    assert evaluate(model, rows, device="cpu") == whole
    assert seen == [1, 10, 10, 10, 9]
