import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tune_newllm.artifacts.checkpoint import load_checkpoint, provenance_of, read_configuration
from tune_newllm.data.tokenizer import WordTokenizer
from tune_newllm.errors import CheckpointError, DamagedCheckpointError
from tune_newllm.training.state import TrainState


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_states(folder):
    for path in folder.glob("state*.safetensors"):
        path.unlink()
    return folder


DAMAGES = {
    "has no weights": (
        lambda folder: (without_states(folder) / "model.safetensors").unlink(),
        "has no model.safetensors: weights are written after the first epoch",
    ),
    "torn weights": (lambda folder: cut_in_half(without_states(folder) / "model.safetensors"), "damaged"),
    "no configuration": (lambda folder: (folder / "configuration.json").unlink(), "it has no configuration.json"),
    "torn configuration": (lambda folder: cut_in_half(folder / "configuration.json"), "damaged"),
    "unknown key": (lambda folder: edit(folder / "configuration.json", lambda c: c["model"].update(x=1)), "model.x"),
    "bad value": (
        lambda folder: edit(folder / "configuration.json", lambda c: c["model"].update(dropout=2)),
        "model.dropout must be at least 0",
    ),
    "no size": (lambda folder: edit(folder / "configuration.json", lambda c: c.pop("vocab_size")), "vocab_size"),
    "not an object": (lambda folder: (folder / "configuration.json").write_text("[]"), "damaged"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
    "other tokenizer": (lambda folder: WordTokenizer(["one"]).save(folder), "mixes two checkpoints"),
    "other shape": (
        lambda folder: edit(folder / "configuration.json", lambda c: c["model"].update(hidden_dim=9)),
        "does not fit the model",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_in_one_line(copy_of_run, damage):
    spoil, message = DAMAGES[damage]
    spoil(copy_of_run)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(copy_of_run)
    assert "\n" not in str(caught.value)
    assert str(copy_of_run) in str(caught.value)


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere is no folder: give"):
        load_checkpoint(tmp_path / "nowhere")


def test_run_and_export_hold_the_same_model(run, exported):
    ours, theirs = load_checkpoint(run), load_checkpoint(exported[0])
    tokens = torch.randint(ours.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    assert not ours.model.training
    assert torch.equal(ours.model(tokens)[0], theirs.model(tokens)[0])
    assert ours.configuration == theirs.configuration == read_configuration(run)
    assert ours.tokenizer.decode(range(ours.vocab_size)) == theirs.tokenizer.decode(range(ours.vocab_size))


@pytest.mark.parametrize(("spoil", "what"), [(cut_in_half, "damaged"), (Path.unlink, "missing")])
def test_weights_that_are_lost_come_from_the_state_of_the_best_epoch(run, copy_of_run, spoil, what, caplog):
    spoil(copy_of_run / "model.safetensors")
    ours, theirs = load_checkpoint(copy_of_run), load_checkpoint(run)
    assert f"model.safetensors is {what}: the weights of the best epoch come from" in caplog.text
    assert all(map(torch.equal, ours.model.state_dict().values(), theirs.model.state_dict().values()))
    # A state that is of a later epoch than the best one holds the best one's weights besides.
    state = TrainState.load(copy_of_run / "state.safetensors", ours.configuration.training, ours.model)
    state.history.append(replace(state.history[0], epoch=2, val_loss=99.0))
    with torch.no_grad():
        state.parameters[0].add_(1.0)
    state.save(copy_of_run / "state.safetensors")
    ours = load_checkpoint(copy_of_run)
    assert all(map(torch.equal, ours.model.state_dict().values(), theirs.model.state_dict().values()))
    (copy_of_run / "state.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        load_checkpoint(copy_of_run)
    assert isinstance(caught.value, DamagedCheckpointError) is (what == "damaged")


def test_finds_where_a_checkpoint_comes_from(tmp_path):
    trial, run = tmp_path / "sweep" / "trials" / "t3", tmp_path / "run"
    for folder, command in ((trial.parents[1], "search"), (run, "train")):
        folder.mkdir()
        (folder / "provenance.json").write_text(json.dumps({"command": command}))
    trial.mkdir(parents=True)
    assert provenance_of(trial) == {"command": "search", "sweep": "sweep", "trial": "t3"}
    named = run / "best_one"
    named.mkdir()
    assert provenance_of(named) == {}
    (run / "configuration.json").touch()
    assert provenance_of(named) == provenance_of(run) == {"command": "train"}
    cut_in_half(run / "provenance.json")
    with pytest.raises(CheckpointError, match="restore it from a copy"):
        provenance_of(named)
