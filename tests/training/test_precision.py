import math
from dataclasses import replace

import pytest
import torch

from tune_newllm.errors import UsageError
from tune_newllm.training import device as device_module
from tune_newllm.training import precision
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import native_numbers, resolve_device, resolve_micro_batch
from tune_newllm.training.loop import fit
from tune_newllm.training.state import TrainState

CONFIG = TrainingConfig(batch_size=4, device="cpu", epochs=2)


def test_another_precision_must_be_clearly_faster():
    assert precision.choose({"fp32": 1.0, "bf16": 0.92}).precision == "fp32"
    choice = precision.choose({"fp32": 0.010, "bf16": 0.005})
    assert choice.precision == "bf16"
    assert "fp32 10.0 ms, bf16 5.0 ms" in choice.reason


def test_resolve_leaves_no_auto(tiny, monkeypatch):
    monkeypatch.setattr(precision, "native_numbers", lambda device: ("fp32",))
    resolved, reason = precision.resolve(replace(CONFIG, lr=1e9), tiny, 30, 12)
    assert resolved == replace(CONFIG, lr=1e9, precision="fp32", micro_batch=256)
    assert "all that this cpu" in reason


def test_candidates_are_measured_by_training_steps(tiny, monkeypatch):
    monkeypatch.setattr(precision, "native_numbers", lambda device: ("fp32", "bf16", "fp16"))
    # A rate that would diverge at once must not spoil the measurement.
    choice = precision.resolve_precision(replace(CONFIG, lr=1e30), tiny, 30, 12)
    assert choice.precision in ("fp32", "bf16")
    assert "bf16" in choice.reason
    assert "fp16" not in choice.reason


def test_what_the_device_cannot_do_is_refused(tiny, monkeypatch):
    with pytest.raises(UsageError, match="fp16 is not offered by this cpu: use fp32 or bf16"):
        TrainState.create(replace(CONFIG, precision="fp16"), tiny())
    with pytest.raises(UsageError, match="fp16 is not offered by this cpu: use fp32 or bf16"):
        precision.resolve(replace(CONFIG, precision="fp16"), tiny, 30, 12)
    with pytest.raises(UsageError, match="still auto"):
        TrainState.create(CONFIG, tiny())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="cuda:1 is not there"):
        resolve_device("cuda:1")
    assert resolve_device("auto") in ("cpu", "mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert [resolve_device(name) for name in ("auto", "cuda:0")] == ["cuda", "cuda:0"]
    with pytest.raises(UsageError, match="cuda:1 is not there"):
        resolve_device("cuda:1")


def test_what_devices_offer(monkeypatch):
    monkeypatch.setattr(device_module, "_cpu_has_bf16", lambda: True)
    assert native_numbers("cpu") == ("fp32", "bf16")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert native_numbers("cuda:0") == ("fp32", "fp16")
    assert [resolve_micro_batch("auto", name) for name in ("cpu", "cuda:0")] == [256, 4096]
    assert resolve_micro_batch(7, "cuda") == 7


def test_bf16_training_is_close_to_fp32_with_weights_in_fp32(tiny, windows):
    losses = {}
    for number in ("fp32", "bf16"):
        config = replace(CONFIG, precision=number)
        state = TrainState.create(config, tiny())
        losses[number] = [result.train_loss for result in fit(state, windows(30), windows(8), config)]
        assert all(each.dtype == torch.float32 for each in state.model.parameters())
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)
    assert all(map(math.isfinite, losses["bf16"]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("number", ["fp32", "bf16", "fp16"])
def test_training_on_cuda(tiny, windows, number, tmp_path):
    config = replace(CONFIG, device="cuda", precision=number, epochs=3)
    state = TrainState.create(config, tiny(dropout=0.1))
    first = next(fit(state, windows(64), windows(16), config))
    state.save(tmp_path / "state")
    again = TrainState.load(tmp_path / "state", config, tiny(dropout=0.1, seed=5))
    results = list(fit(again, windows(64), windows(16), config))
    assert results[-1].val_loss < first.val_loss
    assert first.peak_memory_bytes > 0
    assert (again.scaler is not None) == (number == "fp16")
