"""The record of a training by hand, from the folder that it leaves."""

import json
import re
from dataclasses import replace

import pytest

import analysis
from analysis.record import run_record, write_record
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import FolderError
from tune_newllm.models import ModelConfig
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.run import Run

CONFIGURATION = Configuration(
    CorpusConfig(name="toy", window=12, vocab_size=30),
    ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1),
    TrainingConfig(epochs=3, batch_size=16, precision="fp32", device="cpu", micro_batch=16, lr=0.01),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder as `train` leaves it, and the results it had."""
    folder = tmp_path_factory.mktemp("runs") / "by-hand"
    whole = prepare(CONFIGURATION.corpus)
    corpus = replace(whole, train=whole.train[:256], validation=whole.validation[:64])
    return folder, list(Run(folder, CONFIGURATION, corpus).epochs())


def test_the_folder_of_a_training_is_read_without_torch(trained):
    folder, results = trained
    assert analysis.is_run(folder)
    run = analysis.load_run(folder)
    assert run.epochs["val_loss"].tolist() == [result.val_loss for result in results]
    assert run.epochs["plateau_step"].tolist() == pytest.approx(
        [float("nan") if result.plateau_step is None else result.plateau_step for result in results], nan_ok=True
    )
    row = run.trials.iloc[0]
    assert (row["state"], row["epochs"], row["full_fidelity"]) == ("completed", 3, True)
    assert row["value"] == min(result.val_loss for result in results)
    # By the formula: embedding, one layer, output, three gates of the context, its layer norm.
    words = json.loads((folder / "configuration.json").read_text())["vocab_size"]
    assert row["model_size"] == words * 8 + (16 * 8 + 8) + (8 * words + words) + 3 * (8 * 8 + 8) + 2 * 8


def test_its_record(trained, tmp_path):
    folder, results = trained
    run = analysis.load_run(folder)
    text = run_record(run, Configuration().to_dict())
    said = " ".join(text.split())
    assert re.findall("^#+ .*$", text, re.MULTILINE)[:4] == ["# by-hand", "## Findings", "## Settings", "## Results"]
    best = min(results, key=lambda result: result.val_loss)
    assert (
        f"Lowest validation loss {best.val_loss:.4g}, perplexity {best.val_ppl:.4g}, in epoch {best.epoch} of 3" in said
    )
    assert "| `corpus.name` | toy | python-docs |" in said
    assert f"| 3 | {results[-1].step} | {results[-1].train_loss:.3f} |" in said
    assert "train SPEC.yaml --epochs 6 --to" in text
    assert write_record(run, tmp_path / "r.md", Configuration().to_dict()).read_text() == text


def test_what_is_no_folder_of_a_training(trained, tmp_path):
    folder, _ = trained
    assert not analysis.is_run(tmp_path)
    with pytest.raises(FolderError, match="is no folder of a training"):
        analysis.load_run(tmp_path)
    # A state that is cut off in its header, and none before it.
    (tmp_path / "configuration.json").write_text((folder / "configuration.json").read_text())
    (tmp_path / "state.safetensors").write_bytes((folder / "state.safetensors").read_bytes()[:100])
    with pytest.raises(FolderError, match=r"state\.safetensors cannot be read"):
        analysis.load_run(tmp_path)
    # The one before serves where there is one.
    (tmp_path / "state-previous.safetensors").write_bytes((folder / "state.safetensors").read_bytes())
    run = analysis.load_run(tmp_path)
    assert len(run.epochs) == 3
    assert run.warnings[0].startswith("state.safetensors cannot be read")
    assert "## Left out while reading" in run_record(run)
