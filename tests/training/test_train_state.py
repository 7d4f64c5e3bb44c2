import dataclasses
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tune_newllm.errors import CheckpointError
from tune_newllm.training import signals
from tune_newllm.training.config import ClipConfig, EarlyStoppingConfig, LRScheduleConfig, TrainingConfig
from tune_newllm.training.loop import fit
from tune_newllm.training.state import TrainState, load_weights, save_weights

CONFIG = TrainingConfig(
    lr=3e-3,
    batch_size=8,
    epochs=5,
    lr_schedule=LRScheduleConfig("cosine", warmup=0.1),
    weight_decay=0.01,
    early_stopping=EarlyStoppingConfig(patience=9, min_delta=1.0),
    precision="fp32",
    device="cpu",
)
TIMES = {"tokens_per_s", "seconds", "peak_memory_bytes"}


def numbers(history):
    return [
        {name: value for name, value in dataclasses.asdict(result).items() if name not in TIMES} for result in history
    ]


@pytest.mark.parametrize(
    ("optimizer", "precision"),
    [("adam", "fp32"), ("adamw", "fp32"), ("sgd", "fp32"), ("muon", "fp32"), ("adamw", "bf16"), ("muon", "fp16")],
)
def test_a_run_stopped_after_epoch_3_and_resumed_equals_one_that_never_stopped(
    optimizer, precision, tiny, windows, tmp_path, monkeypatch
):
    # The half precisions are emulated where the processor lacks them: slow, but the same arithmetic each time.
    monkeypatch.setattr("tune_newllm.training.device.OFFERED", {"cpu": ("fp32", "bf16", "fp16")})
    # So that the losses of epochs 3 and 4 together decide where the plateau is left.
    monkeypatch.setattr(signals, "PLATEAU_WINDOWS", 100)
    monkeypatch.setattr(signals, "PLATEAU_DEPTH", -9.0)
    config = replace(CONFIG, optimizer=optimizer, precision=precision, clip=ClipConfig("percentile", percentile=40.0))
    train, validation = windows(30), windows(10, seed=1)

    never_stopped = TrainState.create(config, tiny(dropout=0.2))
    list(fit(never_stopped, train, validation, config))

    state = TrainState.create(config, tiny(dropout=0.2))
    for _, _ in zip(range(3), fit(state, train, validation, config), strict=False):
        state.save(tmp_path / "state.safetensors")
    resumed = TrainState.load(tmp_path / "state.safetensors", config, tiny(dropout=0.2, seed=9))
    assert (resumed.epoch, resumed.finished) == (3, None)
    list(fit(resumed, train, validation, config))

    assert numbers(resumed.history) == numbers(never_stopped.history)
    assert (resumed.finished, resumed.step) == ("epochs", 20)
    assert [result.plateau_step for result in resumed.history] == [None, None, None, 14, 14]
    assert all(result.noise_scale is None or result.noise_scale > 0 for result in resumed.history)
    assert (resumed.patience_loss, resumed.bad_epochs) == (resumed.history[0].val_loss, 4)
    paths = tmp_path / "resumed.safetensors", tmp_path / "never_stopped.safetensors"
    for path, each in zip(paths, (resumed, never_stopped), strict=True):
        each.save(path)
    ours, theirs = map(load_file, paths)
    assert ours.keys() == theirs.keys()
    assert any(name.startswith("optimizer.layers.0.weight.") for name in ours)
    assert len(ours["norms"]) == 20
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_more_epochs_reopen_a_finished_run(tiny, windows, tmp_path):
    state = TrainState.create(CONFIG, tiny())
    list(fit(state, windows(16), windows(8), CONFIG))
    state.save(tmp_path / "state")
    assert TrainState.load(tmp_path / "state", CONFIG, tiny()).finished == "epochs"
    longer = TrainState.load(tmp_path / "state", replace(CONFIG, epochs=6), tiny())
    assert [result.epoch for result in fit(longer, windows(16), windows(8), replace(CONFIG, epochs=6))] == [6]


def test_scaler_and_numbers_that_are_not_finite_survive(tiny, windows, tmp_path, monkeypatch):
    monkeypatch.setattr("tune_newllm.training.device.OFFERED", {"cpu": ("fp32", "fp16")})
    config = replace(CONFIG, precision="fp16")
    state = TrainState.create(config, tiny())
    result = next(fit(state, windows(16), windows(8), config))
    state.history[0] = replace(result, grad_norm=math.inf, val_ppl_known=math.nan)
    state.scaler.update(512.0)
    state.save(tmp_path / "state")
    loaded = TrainState.load(tmp_path / "state", config, tiny())
    assert loaded.history[0].grad_norm == math.inf
    assert math.isnan(loaded.history[0].val_ppl_known)
    assert loaded.scaler.get_scale() == 512.0


def test_weights_go_to_disk_and_back_and_no_temporary_file_stays(tiny, tmp_path):
    model = tiny()
    save_weights(model, tmp_path / "model.safetensors")
    save_weights(model, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    other = tiny(seed=1)
    load_weights(other, tmp_path / "model.safetensors")
    assert all(map(torch.equal, other.state_dict().values(), model.state_dict().values()))
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()


def test_a_failed_write_leaves_the_old_file(tiny, tmp_path, monkeypatch):
    save_weights(tiny(), tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(tiny(seed=1), tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_file_that_cannot_be_used_is_one_clear_line(tiny, windows, tmp_path):
    state = TrainState.create(CONFIG, tiny())
    next(fit(state, windows(16), windows(8), CONFIG))
    path = tmp_path / "state"
    state.save(path)
    whole = path.read_bytes()

    def message(model):
        with pytest.raises(CheckpointError) as caught:
            TrainState.load(path, CONFIG, model)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    for kind in ("sgd", "muon", "adamw"):
        with pytest.raises(CheckpointError, match=r"optimizers \['Adam'\] instead of"):
            TrainState.load(path, replace(CONFIG, optimizer=kind), tiny())
    assert "embedding.weight is [30, 16] in the file and [30, 8] in the model" in message(tiny(width=8))
    path.write_bytes(whole[:-100])
    assert "damaged" in message(tiny())
    path.write_bytes(b"")
    assert "damaged" in message(tiny())
    path.unlink()
    assert "does not exist" in message(tiny())
    save_weights(tiny(), path)
    assert "not a whole training state" in message(tiny())
    tensors = {f"model.{name}": tensor for name, tensor in tiny().state_dict().items()}
    save_file(tensors, path, {"state": json.dumps({"format": 99})})
    assert "format 99, this version reads 2: train anew" in message(tiny())
