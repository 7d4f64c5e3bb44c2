import shutil

import pytest
import torch

from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.export import export
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.models import ModelConfig
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.run import Run


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """A folder of this session."""
    return tmp_path_factory.mktemp("artifacts")


@pytest.fixture(scope="session")
def corpus(place):
    return prepare(CorpusConfig(name="toy", window=16, vocab_size=60))


@pytest.fixture(scope="session")
def run(place, corpus):
    """Folder of a short training."""
    configuration = Configuration(
        CorpusConfig(name="toy", window=16, vocab_size=60),
        ModelConfig(embed_dim=12, hidden_dim=24, ctx_dim=8, num_layers=2),
        TrainingConfig(epochs=1, batch_size=64, lr=3e-3, precision="fp32", device="cpu", micro_batch=64),
    )
    list(Run(place / "run", configuration, corpus).epochs())
    return place / "run"


@pytest.fixture(scope="session")
def exported(place, run, corpus):
    """An export of the run: its folder and what `export` returned."""
    return place / "exported", export(run, place / "exported", corpus=corpus, provenance={"trial": "t7"})


@pytest.fixture
def checkpoint(run):
    return load_checkpoint(run)


@pytest.fixture
def copy_of_run(run, tmp_path):
    """A checkpoint that a test may damage."""
    return shutil.copytree(run, tmp_path / "copy")
