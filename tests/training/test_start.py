import json
import shutil
from dataclasses import replace

import pytest
import torch

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import CheckpointError, UsageError
from tune_newllm.models import ModelConfig
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.run import Run
from tune_newllm.training.start import Start

TRAINING = TrainingConfig(epochs=1, batch_size=64, lr=1e-2, precision="fp32", device="cpu", micro_batch=64)
SIZES = {"embed_dim": 8, "hidden_dim": 16, "ctx_dim": 8, "num_layers": 1}


@pytest.fixture(params=["context_vector", "gpt2"])
def trained(request, tmp_path):
    configuration = Configuration(
        CorpusConfig(name="toy", window=16), ModelConfig(**SIZES, family=request.param), TRAINING
    )
    run = Run(tmp_path / "run", configuration, prepare(configuration.corpus))
    list(run.epochs())
    return tmp_path / "run", configuration, run.history[-1].val_loss


def test_a_training_begins_with_the_checkpoints_loss(trained, tmp_path):
    folder, configuration, loss = trained
    start = Start.read(folder)
    corpus = prepare(configuration.corpus, tokenizer=start.tokenizer)
    began = Run(tmp_path / "next", configuration, corpus, start.begin(configuration, len(corpus.tokenizer)))
    assert began.evaluate().loss == pytest.approx(loss, abs=1e-6)


def test_a_copy_is_all_that_is_needed(trained, tmp_path):
    folder, configuration, _ = trained
    first = Start.read(folder)
    first.save(tmp_path / "copy")
    shutil.rmtree(folder)
    copy = Start.read(tmp_path / "copy")
    assert (copy.model, copy.tokenizer) == (first.model, first.tokenizer)
    for name, weight in first.begin(configuration, 12).state_dict().items():
        assert torch.equal(weight, copy.begin(configuration, 12).state_dict()[name])


def test_another_model_is_refused_but_for_its_dropout(trained):
    folder, configuration, _ = trained
    start = Start.read(folder)
    start.require(replace(configuration.model, dropout=0.1, init="he"))
    with pytest.raises(UsageError, match=r"has model\.num_layers: 1, model\.tied: False; the file must say the same"):
        start.require(replace(configuration.model, num_layers=2, tied=True))


@pytest.mark.parametrize("damage", ["gone", "no tokenizer", "another vocabulary", "no model"])
def test_what_is_no_checkpoint_is_refused(trained, damage, tmp_path):
    folder = trained[0]
    if damage == "gone":
        folder = tmp_path / "gone"
    elif damage == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif damage == "another vocabulary":
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["vocab"]["one more"] = 12
        (folder / "tokenizer.json").write_text(json.dumps(content))
    else:
        (folder / "configuration.json").write_text("{}")
    with pytest.raises(CheckpointError):
        Start.read(folder)
