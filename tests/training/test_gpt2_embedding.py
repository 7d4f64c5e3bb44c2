"""GPT-2's embedding as a fixed-point model's first one, and what takes its place."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from tune_newllm.data import subwords
from tune_newllm.data.config import CorpusConfig
from tune_newllm.errors import CorpusError
from tune_newllm.models import ModelConfig
from tune_newllm.training import run as runs
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.gpt2_embedding import as_had, gpt2_embedding

MODEL = ModelConfig(family="fixed_point", embed_dim=768, ctx_dim=8, num_layers=1, embedding="gpt2")
PIECES = 9


class Pieces:
    """GPT-2's tokenizer, if it had nine pieces."""

    kind = "gpt2"

    def __len__(self):
        return 4 + PIECES

    def save(self, folder):
        (folder / "tokenizer.json").write_text("{}")


@pytest.fixture
def table(tmp_path, monkeypatch):
    """GPT-2's embedding in a cache on this disk, of nine rows."""
    rows = torch.randn(PIECES, 768, generator=torch.Generator().manual_seed(0))
    save_file({"wte.weight": rows, "ln_f.weight": torch.ones(768)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(subwords, "gpt2_file", lambda name: tmp_path / name)
    return rows


def out_of_reach(name):
    raise CorpusError(f"{name} is out of reach")


def test_a_piece_has_gpt2s_row_and_the_special_tokens_that_of_the_end_of_a_text(table, tmp_path):
    configuration = Configuration(
        CorpusConfig(tokenizer="gpt2"), MODEL, TrainingConfig(device="cpu", precision="fp32", micro_batch=8)
    )
    corpus = SimpleNamespace(tokenizer=Pieces(), first=lambda _: corpus)
    model = runs.Run(tmp_path / "run", configuration, corpus)._state.model
    for weight in (model.embedding.weight, model.drawn_embedding):
        assert torch.equal(weight[4:], table)
        assert torch.equal(weight[:4], table[-1:].expand(4, -1))
    assert as_had(MODEL, Pieces()) is MODEL


def test_where_it_cannot_be_had_a_random_one_takes_its_place_loudly(monkeypatch, caplog):
    monkeypatch.setattr(subwords, "gpt2_file", out_of_reach)
    with caplog.at_level(logging.WARNING):
        assert as_had(MODEL, Pieces()) == replace(MODEL, embedding="random")
    assert "RANDOM" in caplog.text
    with pytest.raises(CorpusError, match="out of reach"):
        gpt2_embedding(Pieces())


def test_what_was_decided_when_a_training_began_stays(table, monkeypatch, caplog):
    random = replace(MODEL, embedding="random")
    assert as_had(MODEL, Pieces(), begun=random) == random
    monkeypatch.setattr(subwords, "gpt2_file", out_of_reach)
    assert as_had(MODEL, Pieces(), begun=MODEL) == MODEL
    assert not caplog.text


def test_a_table_of_other_pieces_is_refused(table, tmp_path):
    save_file({"wte.weight": table[1:].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(CorpusError, match="not one row for each piece"):
        gpt2_embedding(Pieces())


def test_it_goes_with_gpt2s_tokenizer():
    with pytest.raises(ValueError, match=r"corpus\.tokenizer must be gpt2 .* got words"):
        Configuration(model=MODEL)
    with pytest.raises(CorpusError, match="got bpe"):
        gpt2_embedding(SimpleNamespace(kind="bpe"))
