"""The training curve on real text against the eager loop that the original research wrote."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.models import ModelConfig, build
from tune_newllm.training.batches import to_tokens
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.state import TrainState
from tune_newllm.training.step import train_step

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from rivals import LIMIT, EagerLoop, RivalStep


@pytest.mark.parametrize(("number", "difference"), [("fp32", 2e-3), ("bf16", 0.05)])
def test_learns_as_the_eager_loop_does(number, difference):
    corpus = prepare(CorpusConfig(name="python-docs", vocab_size=300, window=17))
    sizes = {"embed_dim": 16, "hidden_dim": 32, "ctx_dim": 16, "num_layers": 2}

    def model():
        return build(ModelConfig(**sizes), len(corpus.tokenizer), seed=0)

    config = TrainingConfig(lr=1e-2, batch_size=32, precision=number, device="cpu")
    state = TrainState.create(config, model())
    eager = RivalStep(EagerLoop(model()), number, "cpu", lr=1e-2)
    curves = []
    for rows in np.split(corpus.train[: 60 * 32], 60):
        curves.append((train_step(state, rows, LIMIT, micro_batch=12).loss, eager(to_tokens(rows, "cpu"))))
    ours, theirs = torch.tensor(curves).t()
    assert ours[-5:].mean() < ours[0] - 1
    assert (ours - theirs).abs().max() < difference
