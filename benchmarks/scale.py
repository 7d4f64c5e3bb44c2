"""How time and memory of a training step grow with batch, window, layers and context size.

`python benchmarks/scale.py`: each quantity in turn takes its values while the others keep theirs; prints seconds and
peak bytes of a step, and the exponent of each between its two largest values and over all of them (1 is proportional).
Needs torch and numpy alone.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from step import VOCAB, machine, timed

from tune_newllm.models import ModelConfig, build
from tune_newllm.training.batches import ResidentWindows
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.device import peak_memory_bytes, reset_peak_memory, resolve_device, resolve_micro_batch
from tune_newllm.training.memory import free_memory
from tune_newllm.training.state import TrainState
from tune_newllm.training.step import train_step


class Size(NamedTuple):
    """What a step is measured at."""

    batch: int = 32
    window: int = 64
    layers: int = 6
    ctx_dim: int = 256


AXES = {
    "batch": (8, 16, 32, 64, 128, 256, 512),
    "window": (16, 32, 64, 128, 256),
    "layers": (1, 3, 6, 12, 24, 48),
    "ctx_dim": (64, 128, 256, 512, 1024),
}
"""The smaller model of `--small` takes the same values."""


def measure(size: Size, small: bool, device: str, repetitions: int) -> tuple[float, int]:
    """Shortest seconds of a step, and its peak bytes beyond those of the process before the model was made."""
    free_memory(device)
    reset_peak_memory(device)
    before = peak_memory_bytes(device)
    sizes = {"embed_dim": 32, "hidden_dim": 64} if small else {}
    config = ModelConfig(num_layers=size.layers, ctx_dim=size.ctx_dim, **sizes)
    training = TrainingConfig(lr=1e-9, batch_size=size.batch, precision="fp32", device=device)
    state = TrainState.create(training, build(config, VOCAB, seed=0))
    windows = np.random.default_rng(0).integers(4, VOCAB, (size.batch, size.window))
    rows = ResidentWindows(windows, device) if state.passes.recorder else windows
    micro_batch = resolve_micro_batch("auto", device)

    def step() -> None:
        train_step(state, rows, 1.0, micro_batch).read()

    # On CUDA the third pass of a shape is recorded.
    for _ in range(1 if device == "cpu" else 4):
        step()
    return min(timed(step, device) for _ in range(repetitions)), peak_memory_bytes(device) - before


def exponent(values: list[int], measured: list[float]) -> float:
    """Slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(values), np.log(measured), 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=AXES)
    parser.add_argument("--small", action="store_true", help="a model of E 32, H 64 with C 32, L 2 where not varied")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    print(*(f"{key} {value}" for key, value in machine(device, arguments.threads).items()), sep=", ")
    base = Size(layers=2, ctx_dim=32) if arguments.small else Size()
    # The first step of a process takes memory for the libraries.
    measure(base, arguments.small, device, 1)
    result: dict[str, Any] = {"machine": machine(device, arguments.threads), "base": base._asdict(), "axes": {}}
    for axis in arguments.axes:
        result["axes"][axis] = _axis(axis, base, arguments, device)
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def _axis(axis: str, base: Size, arguments: argparse.Namespace, device: str) -> list[dict[str, float]]:
    print(f"\n{axis:>8}{'ms':>10}{'MB':>10}   others: {base._asdict() | {axis: '...'}}")
    rows: list[dict[str, float]] = []
    for value in AXES[axis]:
        seconds, used = measure(base._replace(**{axis: value}), arguments.small, device, arguments.repetitions)
        rows.append({axis: value, "seconds": seconds, "bytes": used})
        print(f"{value:>8}{1000 * seconds:>10.1f}{used / 1e6:>10.0f}", flush=True)
    for name, rows_used in (("over all", rows), ("between the two largest", rows[-2:])):
        values = [int(row[axis]) for row in rows_used]
        # A small step may fit into memory that the process has already.
        slopes = (exponent(values, [max(row[key], 1e-9) for row in rows_used]) for key in ("seconds", "bytes"))
        print("  exponent {}: time {:.2f}, memory {:.2f}".format(name, *slopes))
    return rows


if __name__ == "__main__":
    main()
