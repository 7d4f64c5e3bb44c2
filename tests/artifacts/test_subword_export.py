"""A checkpoint with pieces for words, exported and read by transformers alone."""

import pytest
from transformers import AutoTokenizer

from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.export import export
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.models import ModelConfig
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.run import Run

TEXTS = ["bal sot", "  Bal,\tSOT é 日本\n", "", "<", "x  y"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("subwords")
    configuration = Configuration(
        CorpusConfig(name="toy", window=32, tokenizer="bpe", vocab_size=280, max_samples=200),
        ModelConfig(embed_dim=12, hidden_dim=24, ctx_dim=8, num_layers=1),
        TrainingConfig(epochs=1, batch_size=64, lr=3e-3, precision="fp32", device="cpu", micro_batch=64),
    )
    corpus = prepare(configuration.corpus)
    list(Run(place / "run", configuration, corpus).epochs())
    export(place / "run", place / "exported", corpus=corpus, provenance={})
    return load_checkpoint(place / "run"), place / "exported"


def test_ids_and_texts_come_back(exported):
    checkpoint, folder = exported
    theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    ours = checkpoint.tokenizer
    assert len(theirs) == len(ours) == 280
    for text in TEXTS:
        ids = theirs(text)["input_ids"]
        assert ids == ours.encode_prompt(text)
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids, skip_special=True) == text
    assert "splits words into pieces" in (folder / "README.md").read_text()
    again = load_checkpoint(folder).tokenizer
    assert again.kind == "bpe"
    assert [again.encode(text) for text in TEXTS] == [ours.encode(text) for text in TEXTS]
