"""The whole training step against the plain eager loop, an nn.LSTM of equal size, and torch.compile of the eager loop.

`python benchmarks/step.py`: forward, loss, backward, clipping and Adam of each, measured in turns in one process;
median milliseconds, arithmetic per second beside the machine's own rate of matrix products, and ratios. The eager loop
does what the original did; its weights are equal, so without dropout its logits must be, which is checked. Needs torch
and numpy alone.
"""

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from rivals import LIMIT, LSTM, EagerLoop, RivalStep

from tune_newllm.models import ModelConfig, build
from tune_newllm.training.batches import ResidentWindows
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import autocast, peak_memory_bytes, resolve_device, resolve_micro_batch
from tune_newllm.training.state import TrainState
from tune_newllm.training.step import train_step

VOCAB, TARGETS, DROPOUT = 1000, 63, 0.1
MODELS = {
    "base": ModelConfig(init="he"),
    "large": ModelConfig(init="he", ctx_dim=1024, num_layers=12),
    "small": ModelConfig(init="he", embed_dim=32, hidden_dim=64, ctx_dim=32, num_layers=2),
}
COMPILE_SECONDS = 300
Step = Callable[[], float]


def work(config: ModelConfig, batch: int) -> float:
    """Floating-point operations of a training step: six for each weight and position, without the embedding's share."""
    hidden, ctx = config.hidden_dim, config.ctx_dim
    weights = 4 * ctx * hidden + (config.num_layers - 1) * hidden**2 + hidden * VOCAB
    return 6 * weights * batch * TARGETS


def ceiling(number: str, device: str) -> float:
    """The machine's own rate in a large matrix product, operations per second."""
    size = 1024 if device == "cpu" else 8192
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[number]
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    times = [timed(lambda: a @ b, device) for _ in range(12)]
    return 2 * size**3 / min(times)


def timed(call: Callable[[], Any], device: str) -> float:
    """Seconds of a call and of the work that it starts."""
    began = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def contenders(config: ModelConfig, number: str, batch: int, device: str, names: list[str]) -> dict[str, Step]:
    """Ours and those rivals that are named, on equal data."""
    config = replace(config, dropout=DROPOUT)
    training = TrainingConfig(lr=1e-9, batch_size=batch, precision=number, device=device)
    state = TrainState.create(training, build(config, VOCAB, seed=0))
    windows = np.random.default_rng(0).integers(4, VOCAB, (batch, TARGETS + 1), dtype=np.int64)
    tensor = torch.from_numpy(windows).to(device)
    rows = ResidentWindows(windows, device) if state.passes.recorder else windows
    micro_batch = resolve_micro_batch("auto", device)
    eager = EagerLoop(build(config, VOCAB, seed=0))
    _check(state, eager, tensor[:8], number, device)
    state.model.train()
    steps: dict[str, Step] = {"ours": lambda: train_step(state, rows, LIMIT, micro_batch).loss}
    if "eager" in names:
        loop = RivalStep(eager, number, device)
        steps["eager"] = lambda: loop(tensor)
    if "lstm" in names:
        lstm = RivalStep(LSTM(config, VOCAB), number, device)
        steps["lstm"] = lambda: lstm(tensor)
    return steps


def _check(state: TrainState, eager: EagerLoop, tokens_BT: torch.Tensor, number: str, device: str) -> None:
    with torch.no_grad(), autocast(number, device):
        ours, theirs = state.model.eval()(tokens_BT)[0], eager.to(device).eval()(tokens_BT)
    eager.train()
    difference = (ours - theirs).abs().max().item()
    assert difference < (1e-3 if number == "fp32" else 0.5), f"the two compute different logits: {difference}"


def measure(steps: dict[str, Step], device: str, seconds: float) -> dict[str, list[float]]:
    """Seconds of single steps, in turns, after those that set things up; at least three rounds."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        # On CUDA the third pass of a shape is recorded.
        for _ in range(1 if device == "cpu" else 4):
            step()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, step in steps.items():
            times[name].append(timed(step, device))
    return times


def compiled(config: ModelConfig, number: str, batch: int, device: str) -> tuple[Step | None, float]:
    """The eager loop under torch.compile as a user would try it, and the seconds that took; None where it fails or
    takes more than five minutes. It may go on compiling then, so nothing should be measured after it."""
    eager = EagerLoop(build(replace(config, dropout=DROPOUT), VOCAB, seed=0)).to(device)
    loop = RivalStep(torch.compile(eager), number, device)
    windows = torch.randint(4, VOCAB, (batch, TARGETS + 1), device=device)
    began = time.perf_counter()
    losses: list[float] = []
    thread = threading.Thread(target=lambda: losses.append(loop(windows)), daemon=True)
    thread.start()
    thread.join(COMPILE_SECONDS)
    return (lambda: loop(windows)) if losses else None, time.perf_counter() - began


def memory(config: ModelConfig, name: str, number: str, batch: int, device: str) -> int:
    """Peak bytes of a process that takes a step, beyond what it had before; on CUDA four, with a recorded one."""
    steps = contenders(config, number, batch, device, [name])
    before = peak_memory_bytes(device)
    for _ in range(1 if device == "cpu" else 4):
        steps[name]()
    return peak_memory_bytes(device) - before


def _memory_elsewhere(arguments: argparse.Namespace, name: str, number: str, batch: int) -> int:
    command = [sys.executable, __file__, "--peak-of", name, "--models", arguments.models[0], "--numbers", number]
    command += ["--batches", str(batch), "--threads", str(arguments.threads), "--device", arguments.device]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def machine(device: str, threads: int) -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    name = torch.cuda.get_device_name() if device.startswith("cuda") else processor
    return {"device": name, "threads": threads, "capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--models", nargs="+", default=["base"], choices=MODELS)
    parser.add_argument("--numbers", nargs="+", default=["fp32"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 256, 2048])
    parser.add_argument("--rivals", nargs="*", default=["eager", "lstm"], choices=["eager", "lstm", "compile"])
    parser.add_argument("--seconds", type=float, default=20, help="for the rounds of each line")
    parser.add_argument("--memory", action="store_true", help="peak memory of each, in processes of their own")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.device = resolve_device(arguments.device)
    if arguments.peak_of:
        config = MODELS[arguments.models[0]]
        print(memory(config, arguments.peak_of, arguments.numbers[0], arguments.batches[0], arguments.device))
        return
    result = {"machine": machine(arguments.device, arguments.threads), "rows": _rows(arguments)}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def _rows(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    device, rows = arguments.device, []
    print(*(f"{key} {value}" for key, value in machine(device, arguments.threads).items()), sep=", ")
    print(f"{'model':7}{'':6}{'batch':>6}{'ceiling GF/s':>14}  ms (GF/s) of each; ratios are rival / ours")
    for model in arguments.models:
        for number in arguments.numbers:
            for batch in arguments.batches:
                row = _row(arguments, model, number, batch)
                rows.append(row)
                print(_line(row), flush=True)
    return rows


def _row(arguments: argparse.Namespace, model: str, number: str, batch: int) -> dict[str, Any]:
    config, device = MODELS[model], arguments.device
    steps = contenders(config, number, batch, device, arguments.rivals)
    row: dict[str, Any] = {"model": model, "number": number, "batch": batch, "ceiling": ceiling(number, device)}
    times = measure(steps, device, arguments.seconds)
    row["ms"] = {name: 1000 * statistics.median(each) for name, each in times.items()}
    row["flops"] = {name: work(config, batch) / statistics.median(times[name]) for name in times if name != "lstm"}
    row["ratios"] = {name: _ratio(times["ours"], each) for name, each in times.items()}
    if arguments.memory:
        row["bytes"] = {name: _memory_elsewhere(arguments, name, number, batch) for name in ("ours", "eager")}
    if "compile" in arguments.rivals:
        step, row["compile_seconds"] = compiled(config, number, batch, device)
        if step:
            again = measure({"ours": steps["ours"], "compile": step}, device, arguments.seconds)
            row["ms"]["compile"] = 1000 * statistics.median(again["compile"])
            row["ratios"]["compile"] = _ratio(again["ours"], again["compile"])
    return row


def _ratio(ours: list[float], theirs: list[float]) -> float:
    """Of each round's two, the median."""
    return statistics.median(other / mine for mine, other in zip(ours, theirs, strict=True))


def _line(row: dict[str, Any]) -> str:
    line = f"{row['model']:7}{row['number']:6}{row['batch']:>6}{row['ceiling'] / 1e9:>14.0f}  "
    parts = []
    for name, ms in row["ms"].items():
        rate = f" ({row['flops'][name] / 1e9:.0f})" if name in row["flops"] else ""
        parts.append(f"{name} {ms:.1f}{rate}" + ("" if name == "ours" else f" = {row['ratios'][name]:.2f}x"))
    if "compile_seconds" in row:
        outcome = "took" if "compile" in row["ms"] else "failed or was given up after"
        parts.append(f"compiling {outcome} {row['compile_seconds']:.0f} s")
    if "bytes" in row:
        ours, eager = row["bytes"]["ours"], row["bytes"]["eager"]
        parts.append(f"memory {ours / 1e6:.0f} against {eager / 1e6:.0f} MB = {eager / ours:.2f}x")
    return line + "; ".join(parts)


if __name__ == "__main__":
    main()
