"""The memory benchmark in small: contexts on disk, and logits in pieces, keep a training far below what both take."""

import fixed_point_memory as benchmark
import numpy as np
import pytest
import torch

from tune_newllm.models import ModelConfig, context_scan
from tune_newllm.training import context_cache, metrics
from tune_newllm.training import fixed_point as phases
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.context_cache import CachePlan
from tune_newllm.training.device import return_freed_memory
from tune_newllm.training.fixed_point_config import FixedPointConfig

VOCAB, TRAIN, VALIDATION, WIDTH, LAYERS = 8_000, 30_000, 8_000, 64, 24


@pytest.mark.slow
def test_contexts_and_logits_are_never_all_held_at_once(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    made = []

    def room(*asked):
        rooms, plan = context_cache.room(*asked)
        made.append(sum(each.nbytes for each in rooms))
        return rooms, plan

    monkeypatch.setattr(phases, "plan_contexts", lambda size, device, folder: [CachePlan("disk", size, size)])
    monkeypatch.setattr(phases, "room", room)
    # What is read at a time is scaled down like the rest.
    monkeypatch.setattr(context_scan, "SEGMENTS", {"cpu": 8})
    monkeypatch.setattr(metrics, "EVALUATION_TOKENS", {"cpu": 1024})
    phase_one = FixedPointConfig(max_iterations=2, batch_tokens=500, validation_passes=3)
    config = TrainingConfig(batch_size=8, epochs=1, precision="fp32", device="cpu", fixed_point=phase_one)
    model = ModelConfig(family="fixed_point", embed_dim=WIDTH, ctx_dim=WIDTH, num_layers=LAYERS)
    ids = np.random.default_rng(0).integers(4, VOCAB, TRAIN + VALIDATION)
    return_freed_memory()
    before = benchmark.own_bytes()
    found = benchmark.train(model, config, ids, VALIDATION, tmp_path, vocab_size=VOCAB, window=64)
    logits = 4 * VALIDATION * VOCAB
    # The last row of each split is padded.
    assert 0 <= made[-1] - found["context_bytes"] < 2 * 63 * WIDTH * LAYERS * 4
    assert found["peak_own_bytes"] - before < (found["context_bytes"] + logits) / 2
    assert found["tokens"] == [TRAIN, VALIDATION]
    assert len(found["phase_one"]["iterations"]) == 2


def test_a_stream_is_cut_so_that_every_token_but_the_first_is_a_target_once():
    rows = benchmark.rows(np.arange(1, 12), window=5)
    assert rows.tolist() == [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [9, 10, 11, 0, 0]]
