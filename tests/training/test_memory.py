"""What a step needs, against bytes counted by hand and by torch's profiler; what a machine has, from invented files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tune_newllm.data.config import CorpusConfig
from tune_newllm.models import ModelConfig, build, parameter_count
from tune_newllm.training import device as device_module
from tune_newllm.training.config import Configuration, TrainingConfig
from tune_newllm.training.device import available_memory, limit_memory, memory_fraction, peak_memory_bytes
from tune_newllm.training.memory import StepMemory, _LiveBytes, measure_step
from tune_newllm.training.state import TrainState
from tune_newllm.training.step import compute_gradients, train_step

VOCAB = 50
CONFIGURATION = Configuration(
    CorpusConfig(name="toy", window=16, vocab_size=VOCAB),
    ModelConfig(embed_dim=16, hidden_dim=32, ctx_dim=16, num_layers=2, dropout=0.1, ffn="residual"),
    TrainingConfig(batch_size=48, precision="fp32", device="cpu"),
)
TENSORS = 11
"""Embedding, two layers and the heads with a weight and a bias each, layer norm with two, output with two."""


class _Doubled(torch.autograd.Function):
    """Keeps a buffer for its backward pass, and makes another one in it."""

    @staticmethod
    def forward(ctx, x):
        ctx.kept = x * 2
        return ctx.kept.sum()

    @staticmethod
    def backward(ctx, d):
        return torch.ones_like(ctx.kept).mul_(2 * d)


def test_bytes_alive_are_counted_forward_and_backward():
    weight = torch.ones(1000, requires_grad=True)
    with (alive := _LiveBytes("cpu", [weight])):
        loss = _Doubled.apply(weight)
        # The weight, the buffer and the loss.
        assert alive.take().tolist() == [8000, 8004]
        loss.backward()
        # For a moment the loss's own gradient, twice it, and the buffer that becomes the weight's gradient.
        assert alive.take().max() == 12000 + 3 * 4
        del loss
        halves = weight.detach()[:500], weight.grad[500:]
        assert alive.take().max() <= 12000, "views are no new bytes"
        del halves
        torch.zeros(1)
    assert alive.take().tolist() == [12004 - 4000], "weight, gradient and the zero; the buffer died with the loss"


def test_weights_gradients_and_optimizer_are_the_fixed_part():
    needs = {
        optimizer: measure_step(
            replace(CONFIGURATION, training=replace(CONFIGURATION.training, optimizer=optimizer)), VOCAB
        )
        for optimizer in ("adam", "sgd")
    }
    weights = 4 * parameter_count(CONFIGURATION.model, VOCAB)
    adam, sgd = needs["adam"], needs["sgd"]
    # One more number for each weight and a step counter for each tensor.
    assert adam.fixed - sgd.fixed == weights + 4 * TENSORS
    assert adam.per_sequence == sgd.per_sequence
    # Weight, gradient, two of Adam's, and a second gradient on its way; no copies for the look at the gradients.
    assert 4 * weights < adam.fixed < 5 * weights
    deeper = replace(CONFIGURATION, model=replace(CONFIGURATION.model, num_layers=4))
    # Two more hidden layers: units, slopes and sums of 4 bytes at each of 15 steps.
    assert measure_step(deeper, VOCAB).per_sequence - adam.per_sequence == 2 * 15 * 32 * 3 * 4


@pytest.mark.parametrize("rows", [3, 24, 48])
def test_any_micro_batch_is_foreseen(rows):
    training = replace(CONFIGURATION.training, micro_batch=48)
    need = measure_step(replace(CONFIGURATION, training=training), VOCAB)
    state = TrainState.create(replace(training, lr=1e-9), build(CONFIGURATION.model, VOCAB, 0))
    windows = np.random.default_rng(1).integers(4, VOCAB, (2 * rows, 16))
    train_step(state, windows[:2], None, 2)
    held = sum(each.nbytes for each in state.parameters) * 4
    for each in state.optimizers:
        each.zero_grad()
    state.micro_batch = rows
    with torch.profiler.profile(profile_memory=True) as seen:
        compute_gradients(state, windows)
    events = [each for each in seen.profiler.kineto_results.events() if each.name() == "[memory]"]
    changes = [each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())]
    peak = held * 3 / 4 + np.cumsum(changes).max()
    assert need.need(rows) == pytest.approx(peak, rel=0.05)


def test_measuring_leaves_no_trace():
    before = torch.get_rng_state()
    assert measure_step(CONFIGURATION, VOCAB) == measure_step(CONFIGURATION, VOCAB)
    assert torch.equal(torch.get_rng_state(), before)


def test_largest_is_the_first_half_that_fits():
    need = StepMemory(fixed=100, per_sequence=10)
    assert [need.need(rows) for rows in (1, 20, 64)] == [110, 300, 740]
    assert [need.largest(budget, 100) for budget in (1100, 1099, 350, 349, 110, 109)] == [100, 50, 25, 12, 1, 0]


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


MACHINE = {"proc/meminfo": "MemTotal: 10000 kB\nMemFree: 1000 kB\nMemAvailable: 8000 kB"}


def test_main_memory_is_what_machine_and_control_groups_leave(tmp_path):
    tenth_kept = (8000 - 1000) * 1024
    assert available_memory("cpu", write(tmp_path / "machine", MACHINE)) == tenth_kept
    second = MACHINE | {
        "proc/self/cgroup": "0::/jobs/mine",
        "sys/fs/cgroup/jobs/mine/memory.max": "max",
        "sys/fs/cgroup/jobs/mine/memory.current": "5",
        "sys/fs/cgroup/jobs/memory.max": "4000000",
        "sys/fs/cgroup/jobs/memory.current": "3000000",
        "sys/fs/cgroup/jobs/memory.stat": "anon 1\ninactive_file 200000\nactive_file 400000",
    }
    assert available_memory("cpu", write(tmp_path / "v2", second)) == 1_000_000 + 600_000 - 400_000
    first = MACHINE | {
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/docker/0f",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000",
        "sys/fs/cgroup/memory/memory.stat": "active_file 7\ntotal_inactive_file 60\ntotal_active_file 40",
    }
    assert available_memory("cpu", write(tmp_path / "v1", first)) == 500_100 - 200_000
    unlimited = first | {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}
    assert available_memory("cpu", write(tmp_path / "v1", unlimited)) == tenth_kept
    full = second | {"sys/fs/cgroup/jobs/memory.current": "4000000"}
    assert available_memory("cpu", write(tmp_path / "v2", full)) == 200_000
    assert available_memory("cpu", write(tmp_path / "v2", full | {"sys/fs/cgroup/jobs/memory.stat": ""})) == 0
    assert available_memory("cpu", tmp_path / "no such system") > 0


def test_gpus_have_what_is_free_or_held_unused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5000, 10000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    share = {None: 1.0, 1: 0.25}
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda index: share[index])
    assert available_memory("cuda") == 5000 + 500 - 1000
    assert available_memory("cuda:1") == 2500 - 200 - 250, "of its share, where several processes have one"


def test_processes_that_share_a_gpu_leave_room_for_each_other(monkeypatch):
    # Of 24 GB a half less a context of 0.6.
    assert memory_fraction(0.5, 24_000_000_000) == pytest.approx(11.4 / 24)
    assert memory_fraction(0.1, 1_000_000_000) == 0.05
    given = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *args: given.append(args))
    properties = type("Properties", (), {"total_memory": 24_000_000_000})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    for name, gpus in (("cpu", 0.5), ("cuda", 1.0), ("cuda", 0.0), ("cuda:1", 0.25)):
        limit_memory(name, gpus)
    assert given == [(pytest.approx(0.225), 1)]


def test_peak_memory_is_that_since_the_reset(monkeypatch):
    device_module.reset_peak_memory("cpu")
    before = peak_memory_bytes("cpu")
    tensor = torch.ones(25_000_000)
    assert peak_memory_bytes("cpu") == pytest.approx(before + tensor.nbytes, abs=10e6)
    del tensor
    device_module.reset_peak_memory("cpu")
    if "VmHWM" in device_module._fields(Path("/proc/self/status")):
        assert peak_memory_bytes("cpu") < before + 50e6
    monkeypatch.setattr(device_module, "_fields", lambda path: {})
    assert peak_memory_bytes("cpu") > 50e6, "bytes too where the system has no such file"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_need_on_cuda_is_what_its_allocator_gives():
    training = replace(CONFIGURATION.training, device="cuda", batch_size=512, micro_batch=256)
    sizes = replace(CONFIGURATION.model, hidden_dim=512, num_layers=4)
    need = measure_step(replace(CONFIGURATION, model=sizes, training=training), VOCAB)
    state = TrainState.create(training, build(sizes, VOCAB, 0))
    windows = np.random.default_rng(1).integers(4, VOCAB, (512, 16))
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        train_step(state, windows, 1.0, 256)
    assert need.need(256) == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.25)
