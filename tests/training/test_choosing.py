import math
from dataclasses import replace

import pytest
import torch

from tune_newllm.errors import UsageError
from tune_newllm.training import choosing
from tune_newllm.training import device as device_module
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import native_numbers, resolve_device, resolve_micro_batch
from tune_newllm.training.loop import fit
from tune_newllm.training.state import TrainState
from tune_newllm.training.timing import Bench, Case

CONFIG = TrainingConfig(batch_size=4, device="cpu", epochs=2)


def test_another_precision_must_be_clearly_faster():
    assert choosing.faster({"fp32": 1.0, "bf16": 0.92}, 8).value == "fp32"
    choice = choosing.faster({"fp32": 0.010, "bf16": 0.005}, 8)
    assert choice.value == "bf16"
    assert "with 8 windows: fp32 10.0 ms, bf16 5.0 ms" in choice.reason


def test_resolve_leaves_no_auto(tiny, monkeypatch):
    monkeypatch.setattr(choosing, "native_numbers", lambda device: ("fp32",))
    resolved, reason = choosing.resolve(replace(CONFIG, lr=1e9), tiny, 30, 12)
    assert resolved == replace(CONFIG, lr=1e9, precision="fp32", micro_batch=64)
    assert "all that this cpu" in reason


def test_candidates_are_measured_by_training_steps(tiny, monkeypatch):
    monkeypatch.setattr(choosing, "native_numbers", lambda device: ("fp32", "bf16", "fp16"))
    # A rate that would diverge at once must not spoil the measurement.
    resolved, reason = choosing.resolve(replace(CONFIG, batch_size=128, lr=1e30), tiny, 30, 12)
    assert resolved.precision in ("fp32", "bf16")
    assert resolved.micro_batch in (64, 128)
    assert "bf16" in reason
    assert "fp16" not in reason


@pytest.mark.parametrize(
    ("largest", "rows", "seconds", "chosen"),
    [
        (64, None, {}, 64),
        (65, (16, 64, 65), {64: 1.0, 65: 65 / 64}, 64),
        (100, (16, 64, 100), {64: 1.0, 100: 1.0}, 128),
        # 2 % faster with 128, 4 % with 256.
        (256, (16, 64, 128, 256), {64: 1.0, 128: 2 / 1.02, 256: 4 / 1.02}, 64),
        (256, (16, 64, 128, 256), {64: 1.0, 128: 2 / 1.02, 256: 4 / 1.04}, 128),
        (9999, (16, 64, 128, 256, 512), {64: 1.0, 128: 1.9, 256: 3.5, 512: 6.5}, 512),
        (9999, (16, 64, 128, 256, 512), {64: 1.0, 128: 1.5}, 128),
        (9999, (16, 64, 128, 256, 512), {64: 1.0}, 256),
        (100, (16, 64, 100), {}, 128),
    ],
)
def test_the_fewest_windows_in_a_pass_that_are_hardly_slower(largest, rows, seconds, chosen):
    asked = []

    def timer(cases):
        asked.append(tuple(case.rows for case in cases))
        # What would take too long is left out.
        return {case: seconds.get(case.rows, 0.5) for case in cases if case.rows == 16 or case.rows in seconds}

    config = replace(CONFIG, precision="bf16")
    assert choosing.choose_micro_batch(config, largest, Case("bf16", 2, 0), timer).value == chosen
    assert asked == ([rows] if rows else [])
    given = choosing.choose_micro_batch(replace(config, micro_batch=7), largest, Case("bf16", 2, 0), timer)
    assert given == (7, "7 was asked for")
    assert choosing.choose_micro_batch(replace(config, device="cuda"), 9, Case("bf16", 2, 0), timer).value == 4096


@pytest.mark.parametrize(
    ("processors", "most", "counts"),
    [
        (8, 8, [1]),
        (8, 100, [1]),
        (2, 1, [1, 2]),
        (1, 1, [1]),
        # With 3 threads none of the 9 is idle, which 4 threads for two trials would leave one.
        (9, 3, [1, 2, 3]),
        (8, 3, [1, 2, 4]),
        (6, 1, [1, 2, 4, 6]),
        (6, 5, [1, 2]),
    ],
)
def test_thread_counts_that_keep_more_processors_busy_are_worth_measuring(processors, most, counts):
    assert choosing.thread_counts(processors, lambda count: min(processors // count, most)) == counts


def test_threads_are_those_with_which_all_trials_train_fastest():
    def at_once(count):
        return min(8 // count, 3)

    # 3 x 100, 3 x 190, 2 x 290: the last is under 5 % more than the second.
    choice = choosing.most_at_once({1: 100, 2: 190, 4: 290}, at_once)
    assert choice.value == 2
    told = "3 trials with 1 thread 300; 3 trials with 2 threads 570; 2 trials with 4 threads 580"
    assert choice.reason == f"fastest in all (windows a second: {told})"
    assert choosing.most_at_once({1: 100, 2: 190, 4: 300}, at_once).value == 4
    assert choosing.most_at_once({1: 100, 2: 103}, lambda count: 1).value == 1


def test_small_and_large_batches_count_alike():
    seconds = {Case("fp32", 1, 10): 1.0, Case("fp32", 2, 10): 1.0, Case("fp32", 1, 100): 5.0, Case("fp32", 2, 100): 2.5}
    # Of 200 windows half are trained with 0.1 s each, half with 0.05 s or 0.025 s.
    assert choosing.windows_per_second(seconds) == pytest.approx({1: 200 / 15, 2: 200 / 12.5})


def test_what_takes_too_long_is_shortened_or_left_out(tiny, monkeypatch):
    bench, laps = Bench(replace(CONFIG, precision="fp32"), tiny, 30, 12), []
    monkeypatch.setattr(Bench, "_lap", lambda self, case: laps.append(case.rows) or case.rows * 0.01)
    cases = [Case("fp32", 1, 8), Case("fp32", 2, 300), Case("fp32", 1, 400)]
    # 0.5 s are 50 rows.
    assert [case.rows for case in bench.shortened(cases)] == [8, 50, 50]
    assert laps == [1, 16]
    # 1.5 s are 150 rows; what is as long as the one before comes along.
    found = bench.seconds([Case("fp32", 1, 64), Case("fp32", 2, 64), Case("fp32", 1, 200), Case("fp32", 1, 10)])
    assert found == {Case("fp32", 1, 64): 0.64, Case("fp32", 2, 64): 0.64}


def test_what_the_device_cannot_do_is_refused(tiny, monkeypatch):
    with pytest.raises(UsageError, match="fp16 is not offered by this cpu: use fp32 or bf16"):
        TrainState.create(replace(CONFIG, precision="fp16"), tiny())
    with pytest.raises(UsageError, match="fp16 is not offered by this cpu: use fp32 or bf16"):
        choosing.resolve(replace(CONFIG, precision="fp16"), tiny, 30, 12)
    with pytest.raises(UsageError, match="still auto"):
        TrainState.create(CONFIG, tiny())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="cuda:1 is not there"):
        resolve_device("cuda:1")
    assert resolve_device("auto") in ("cpu", "mps")
    for name in ("gpu", "cuda:x", "cuda:", "cpu:0", ""):
        with pytest.raises(UsageError, match="must be auto, cpu, mps, cuda or cuda:N"):
            resolve_device(name)
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
