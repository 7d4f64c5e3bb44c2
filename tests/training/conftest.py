import numpy as np
import pytest
import torch

from tune_newllm.models import ModelConfig, build

VOCAB = 30


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def tiny():
    """Makes a small model; equal seeds give equal weights."""

    def make(dropout=0.0, seed=0, width=16):
        sizes = {"embed_dim": width, "hidden_dim": width, "ctx_dim": width, "num_layers": 2}
        return build(ModelConfig(**sizes, dropout=dropout, init="he"), VOCAB, seed)

    return make


@pytest.fixture
def windows():
    """Makes rows whose next token mostly follows from the last one, of different lengths, padded on the right."""

    def make(count, seed=0, window=12):
        rng = np.random.default_rng(seed)
        rows = np.zeros((count, window), dtype=np.uint16)
        for row in rows:
            length = rng.integers(3, window + 1)
            row[0] = 2
            for place in range(1, length):
                row[place] = rng.choice([1, (row[place - 1] * 7 + 1) % (VOCAB - 4) + 4], p=[0.2, 0.8])
        return rows

    return make
