import json
from dataclasses import replace

import pytest

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import UsageError
from tune_newllm.models import ModelConfig
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.run import Run

CONFIGURATION = Configuration(
    CorpusConfig(name="toy", window=12, vocab_size=30),
    ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1),
    TrainingConfig(epochs=1, batch_size=64, precision="fp32", device="cpu", micro_batch=64),
)


@pytest.fixture
def corpus():
    whole = prepare(CONFIGURATION.corpus)
    return replace(whole, train=whole.train[:64], validation=whole.validation[:16])


def test_what_cannot_be_trained_leaves_no_folder(tmp_path, corpus):
    fp16 = replace(CONFIGURATION, training=replace(CONFIGURATION.training, precision="fp16"))
    with pytest.raises(UsageError, match="fp16 is not offered"):
        Run(tmp_path / "deep" / "run", fp16, corpus)
    assert not (tmp_path / "deep").exists()


def test_a_file_in_the_folders_place_is_a_usage_error(tmp_path, corpus):
    (tmp_path / "run").write_text("in the way")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(UsageError, match=r"a folder it can write to, got .*run.* \(.+\): give another one"):
            Run(folder, CONFIGURATION, corpus)


def test_a_continued_run_says_how_many_epochs_it_has_now(tmp_path, corpus):
    list(Run(tmp_path, CONFIGURATION, corpus).epochs())
    longer = replace(CONFIGURATION, training=replace(CONFIGURATION.training, epochs=2))
    assert [result.epoch for result in Run(tmp_path, longer, corpus).epochs()] == [2]
    written = json.loads((tmp_path / "configuration.json").read_text())
    assert written == longer.to_dict() | {"vocab_size": len(corpus.tokenizer)}
    assert {path.name for path in tmp_path.iterdir()} == {
        "configuration.json", "tokenizer.json", "model.safetensors", "state.safetensors",
    }  # fmt: skip
