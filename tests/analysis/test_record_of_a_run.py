"""The record of a training by hand, from the folder that it leaves."""

import json
import re
import shutil
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
    assert re.findall("^#+ .*$", text, re.MULTILINE)[:5] == [
        *("# by-hand", "## Findings", "## Settings", "## Environment", "## Results"),
    ]
    best = min(results, key=lambda result: result.val_loss)
    assert (
        f"Lowest validation loss {best.val_loss:.4g}, perplexity {best.val_ppl:.4g}, in epoch {best.epoch} of 3" in said
    )
    assert "| `corpus.name` | toy | python-docs |" in said
    assert f"| 3 | {results[-1].step} | {results[-1].train_loss:.3f} |" in said
    # Without provenance the command that began it is not known.
    assert "provenance.json is missing" in text
    assert "With the sweep file that it was begun with, and every --set" in said
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


COMMAND = ["python", "-m", "tune_newllm", "train", "a.yaml", "--set", "training.lr=1e-2", "--epochs=3", "--to", "b"]


def changed(trained, tmp_path, **training):
    """The record of the same training as if it had been asked for something else, from a folder with a space."""
    folder = tmp_path / "by hand"
    shutil.copytree(trained[0], folder)
    content = json.loads((folder / "configuration.json").read_text())
    content["training"] |= training
    (folder / "configuration.json").write_text(json.dumps(content))
    facts = {"command": COMMAND, "created": "2026-11-26T09:00:00Z", "versions": {"torch": "2.13.0"}}
    facts |= {"data": {"fingerprint": "f00", "stats": {"validation": {"unigram_ppl": 20.0}}}}
    (folder / "provenance.json").write_text(json.dumps(facts))
    return folder, " ".join(run_record(analysis.load_run(folder)).split())


def test_one_that_was_stopped_goes_on_by_its_own_command(trained, tmp_path):
    folder, said = changed(trained, tmp_path, epochs=5000)
    assert "Stopped after 3 of 5,000 epochs in" in said
    command = "python -m tune_newllm train a.yaml --set training.lr=1e-2 --epochs 5000 --to"
    assert "It stopped after 3 of 5,000 epochs. With the command that began it, from the same working" in said
    assert f"{command} '{folder}'" in said
    # Patience is an end.
    shutil.rmtree(folder)
    _, said = changed(trained, tmp_path, epochs=5000, early_stopping={"patience": 1, "min_delta": 9.0})
    assert "3 epochs in" in said
    assert "The numbers ask for none." in said


def test_what_train_keeps_of_its_beginning_is_told(trained, tmp_path):
    said = changed(trained, tmp_path)[1]
    assert "**time** 2026-11-26 09:00 UTC to" in said
    assert "**command** `python -m tune_newllm train a.yaml" in said
    assert "torch 2.13.0" in said
    assert "`f00`" in said
    assert "| word frequencies alone | 2.996 | 20.00 |" in said


def test_further_epochs_need_a_new_course_where_the_rate_has_fallen(trained, tmp_path):
    run = analysis.load_run(changed(trained, tmp_path)[0])
    steady = run_record(run)
    assert "--epochs 6 --to" in steady
    run.epochs["lr"] = [0.01, 0.005, 1e-6]
    assert "--epochs 6 --new-schedule --to" in run_record(run)
