import dataclasses
import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tune_newllm.errors import CheckpointError, DamagedCheckpointError
from tune_newllm.models import products
from tune_newllm.models.products import packing_pays
from tune_newllm.training import signals
from tune_newllm.training.config import ClipConfig, EarlyStoppingConfig, LRScheduleConfig, TrainingConfig
from tune_newllm.training.loop import fit
from tune_newllm.training.passes import Passes
from tune_newllm.training.state import TrainState
from tune_newllm.training.weights import insert_weights, read_tensors, save_weights, write_tensors

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


def repeat(body, generator):
    """Stands for the recording of a CUDA graph."""
    body()
    return body


@pytest.mark.parametrize(
    ("optimizer", "precision", "engine"),
    [
        ("adam", "fp32", "plain"),
        ("adam", "fp32", "packed"),
        ("adam", "fp32", "recorded"),
        ("adamw", "fp32", "plain"),
        ("sgd", "fp32", "plain"),
        ("muon", "fp32", "plain"),
        ("adamw", "bf16", "plain"),
        ("muon", "fp16", "plain"),
    ],
)
def test_a_run_stopped_after_epoch_3_and_resumed_equals_one_that_never_stopped(
    optimizer, precision, engine, tiny, windows, tmp_path, monkeypatch
):
    # The half precisions are emulated where the processor lacks them: slow, but the same arithmetic each time.
    monkeypatch.setattr("tune_newllm.training.device.OFFERED", {"cpu": ("fp32", "bf16", "fp16")})
    # So that the losses of epochs 3 and 4 together decide where the plateau is left.
    monkeypatch.setattr(signals, "PLATEAU_WINDOWS", 100)
    monkeypatch.setattr(signals, "PLATEAU_DEPTH", -9.0)
    config = replace(CONFIG, optimizer=optimizer, precision=precision, clip=ClipConfig("percentile", percentile=40.0))
    train, validation = windows(30), windows(10, seed=1)
    if engine == "packed":
        if not packing_pays(torch.float32, several_threads=True):
            pytest.skip("this torch has no packed products")
        monkeypatch.setattr(products, "PACKED_SIZE", 0)
        monkeypatch.setattr(products, "packing_pays", lambda dtype, several: True)
    elif engine == "recorded":
        monkeypatch.setattr(Passes, "recorder", property(lambda self: repeat, lambda self, value: None), False)

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
    model, path = tiny().state_dict(), tmp_path / "model.safetensors"
    save_weights(tiny(seed=1).state_dict(), path)
    save_weights(model, path, {"epoch": "7"})
    assert [each.name for each in tmp_path.iterdir()] == ["model.safetensors"]
    read, metadata = read_tensors(path)
    assert (metadata["epoch"], metadata["format"]) == ("7", "pt")
    other = tiny(seed=2)
    insert_weights(path, read, other)
    assert all(map(torch.equal, other.state_dict().values(), model.values()))
    # What others read of ours, and a file of theirs, which has no checksum.
    theirs = load_file(path)
    assert theirs.keys() == model.keys()
    save_file(theirs, path)
    assert all(torch.equal(read_tensors(path)[0][name], model[name]) for name in model)


def test_any_wrong_bit_and_any_missing_end_is_noticed(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_tensors(path, {"a": torch.tensor([1.5, -2.0]), "none": torch.zeros(0)}, {"state": '{"sha": "x"}'})
    whole = path.read_bytes()
    spoilt = [whole[:length] for length in range(len(whole))]
    for bit in range(8 * len(whole)):
        spoilt.append(bytearray(whole))
        spoilt[-1][bit // 8] ^= 1 << bit % 8
    for content in spoilt:
        monkeypatch.setattr(Path, "read_bytes", lambda path, content=bytes(content): content)
        with pytest.raises(DamagedCheckpointError, match="file is damaged"):
            read_tensors(path)


def test_a_failed_write_leaves_the_old_file(tiny, tmp_path, monkeypatch):
    save_weights(tiny().state_dict(), tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(tiny(seed=1).state_dict(), tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_file_that_cannot_be_used_is_one_clear_line(tiny, windows, tmp_path):
    state = TrainState.create(CONFIG, tiny())
    next(fit(state, windows(16), windows(8), CONFIG))
    path = tmp_path / "state"
    state.save(path)
    whole = path.read_bytes()

    def message(model, damaged=False):
        with pytest.raises(CheckpointError) as caught:
            TrainState.load(path, CONFIG, model)
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, DamagedCheckpointError) is damaged
        return str(caught.value)

    for kind in ("sgd", "muon", "adamw"):
        with pytest.raises(CheckpointError, match=r"optimizers \['Adam'\] instead of"):
            TrainState.load(path, replace(CONFIG, optimizer=kind), tiny())
    assert "embedding.weight is [30, 16] in the file and [30, 8] in the model" in message(tiny(width=8))
    path.write_bytes(whole[:-100])
    assert "damaged" in message(tiny(), damaged=True)
    path.write_bytes(b"")
    assert "damaged" in message(tiny(), damaged=True)
    path.unlink()
    assert "does not exist" in message(tiny())
    save_weights(tiny().state_dict(), path)
    assert "not a whole training state" in message(tiny())
    tensors = {f"model.{name}": tensor for name, tensor in tiny().state_dict().items()}
    save_file(tensors, path, {"state": json.dumps({"format": 3})})
    assert "format 3, this version reads 4: train anew" in message(tiny())
    save_file(tensors, path, {"state": json.dumps({"format": 4})})
    assert "it has no checksum" in message(tiny(), damaged=True)


def test_a_file_that_cannot_be_read_is_not_damaged(tmp_path, monkeypatch):
    for number in (errno.EIO, errno.EACCES):

        def fail(path, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "read_bytes", fail)
        with pytest.raises(CheckpointError, match="cannot be read") as caught:
            read_tensors(tmp_path / "file")
        assert type(caught.value) is CheckpointError
        assert caught.value.__cause__.errno == number
