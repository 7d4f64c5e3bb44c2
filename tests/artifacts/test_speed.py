import itertools

import pytest
import torch

from tune_newllm.artifacts import speed
from tune_newllm.artifacts.sizes import stored_bytes
from tune_newllm.models import ModelConfig, build

FAMILIES = {
    "context_vector": ModelConfig(embed_dim=8, hidden_dim=16, ctx_dim=8, num_layers=2),
    "gpt2": ModelConfig(family="gpt2", embed_dim=8, hidden_dim=16, num_layers=2, num_heads=2, num_positions=32),
    "fixed_point": ModelConfig(family="fixed_point", embed_dim=8, ctx_dim=8, num_layers=2, num_input_tokens=2),
}


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(speed, "BATCHES", (1, 3))
    monkeypatch.setattr(speed, "LENGTHS", (16, 32, 64))


@pytest.mark.parametrize(
    ("family", "lengths", "state_bytes"),
    [
        ("context_vector", [16, 32, 64], lambda batch, read: batch * 8 * 4),
        # The context, and the token before.
        ("fixed_point", [16, 32, 64], lambda batch, read: batch * (8 * 4 + 8)),
        # Keys and values of every token in both layers, and the tokens; at most as many as there are positions.
        ("gpt2", [16, 32], lambda batch, read: batch * read * (2 * 2 * 8 * 4 + 8)),
    ],
)
def test_memory_grows_with_attention_alone(short, family, lengths, state_bytes):
    model = build(FAMILIES[family], 30, seed=0).eval()
    rows = list(speed.readings(model))
    assert [(row.batch, row.context) for row in rows] == list(itertools.product((1, 3), lengths))
    assert [row.state_bytes for row in rows] == [state_bytes(row.batch, row.context) for row in rows]
    assert all(row.tokens_per_s == pytest.approx(1e3 * row.batch / row.ms) for row in rows)


def test_the_last_token_of_each_length_is_timed_after_all_others(short, monkeypatch):
    model = build(FAMILIES["context_vector"], 30, seed=0).eval()
    read, features = [], model.features

    def counted(tokens_BT, state=None):
        read.append((state, tokens_BT.shape[1]))
        return features(tokens_BT, state)

    monkeypatch.setattr(model, "features", counted)
    monkeypatch.setattr(speed, "BATCHES", (1,))
    list(speed.readings(model))
    warm_up, measured = read[:2], read[2:]
    assert [count for _, count in warm_up] == [8, 1]
    assert [count for _, count in measured] == [15, *[1] * 8, 16, *[1] * 8, 32, *[1] * 8]
    # The texts are read once, and the token is timed after the same state each time.
    assert [state is None for state, _ in measured] == [True] + [False] * (len(measured) - 1)
    for at in (0, 9, 18):
        assert len({id(state) for state, _ in measured[at + 1 : at + 9]}) == 1


def test_lengths_that_took_too_long_are_told(short, monkeypatch):
    model = build(FAMILIES["gpt2"], 30, seed=0).eval()
    assert speed.left_out(model, list(speed.readings(model))) == []
    clock = itertools.count(step=9.0)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    rows = list(speed.readings(model))
    assert [(row.batch, row.context) for row in rows] == [(1, 16), (3, 16)]
    # Longer ones it could not attend to.
    assert speed.left_out(model, rows) == [(1, 32), (3, 32)]


def test_a_pass_reads_the_tokens_of_a_window(short):
    rows = list(speed.passes(build(FAMILIES["context_vector"], 30, seed=0).eval()))
    assert [(row.batch, row.tokens) for row in rows] == [(1, 63), (3, 63)]
    assert all(row.tokens_per_s == pytest.approx(1e3 * row.batch * 63 / row.ms) for row in rows)
    assert all(row.peak_memory_bytes > 1e6 for row in rows)


def test_the_clock_waits_for_an_accelerator(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    speed._now("cpu")
    assert waited == []
    speed._now("cuda:1")
    assert waited == ["cuda:1"]


def test_bytes_of_nested_things_count_each_tensor_once():
    tensor = torch.zeros(3, dtype=torch.float64)

    class Holder:
        def __init__(self):
            self.inside = {"a": [tensor, (tensor, torch.zeros(2))], "b": "text", "c": None}
            self.itself = self

    assert stored_bytes(Holder()) == 3 * 8 + 2 * 4
    tied = torch.nn.ModuleList([torch.nn.Linear(2, 2, bias=False)] * 2)
    assert stored_bytes(tied) == 16
