"""Does the fixed-point family train on 500 conversations in 8 GB, where the original ran out of 22? Memory and time.

    python benchmarks/fixed_point_memory.py --work WORK --memory 8

Trains the original's largest model on a stream of as many tokens as 500 samples of UltraChat have, with few iterations
of phase one and one epoch of phase two. The text is the built-in corpus, or a file, in pieces learned from it and read
again from the start until there are enough tokens.

The limit is real: the process may hold no more than so many GB of memory of its own (RLIMIT_DATA), and allocations
beyond it fail. What is mapped from a file is not counted: the system takes these pages away whenever it needs them.
Printed is the peak of what the process holds in its own pages (RssAnon), apart from those. A run that is kept
(`train`, a trial) holds more while it saves: copies of the model, of Adam's state and of the best weights.

Losses are not printed: with text read again, validation rows are training rows too.
"""

import argparse
import json
import resource
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.sources import source_of
from tune_newllm.data.subwords import SubwordTokenizer
from tune_newllm.models import ModelConfig, build, parameter_count
from tune_newllm.training import context_cache
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.fixed_point_config import FixedPointConfig
from tune_newllm.training.loop import fit
from tune_newllm.training.state import TrainState

TRAIN, VALIDATION = 529_173, 58_797
"""Tokens of 500 samples (original research, CVFP data)."""
_EVERY = 0.05
"""Seconds between two looks at the memory."""


@dataclass
class Memory:
    """The most that this process has held in its own pages, in bytes."""

    peak: int = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look again and again while the block runs."""
        done = threading.Event()

        def look() -> None:
            while not done.wait(_EVERY):
                self.peak = max(self.peak, own_bytes())

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()


def own_bytes() -> int:
    """Bytes of the pages that belong to this process alone, without those of files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def keep_to(limit: int) -> None:
    """Let allocations beyond so many bytes fail, and contexts be planned by what is left of them."""
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def left(device: str, root: Path = Path("/")) -> int:
        return max(0, limit - own_bytes())

    context_cache.available_memory = left  # type: ignore[attr-defined]


def stream(text: Path | None, vocab_size: int, tokens: int) -> NDArray[np.int64]:
    """So many ids of the text's pieces."""
    if text is None:
        config = CorpusConfig()
        texts = source_of(config.name).read(config, False)["train"]
    else:
        texts = text.read_text(encoding="utf-8").split("\n\n")
    tokenizer = SubwordTokenizer.build(texts, vocab_size)
    ids = np.concatenate([np.array(tokenizer.encode(each)) for each in texts])
    return np.resize(ids, tokens)


def rows(ids: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """As `corpus.windowing: stream` cuts them."""
    step = window - 1
    count = -(-(len(ids) - 1) // step)
    padded = np.concatenate([ids, np.zeros(count * step + 1 - len(ids), dtype=np.int64)])
    return np.stack([padded[at * step : at * step + window] for at in range(count)]).astype(np.uint16)


def train(model: ModelConfig, config: TrainingConfig, ids: NDArray[np.int64], validation: int, work: Path,
          vocab_size: int, window: int) -> dict[str, Any]:  # fmt: skip
    """One training; memory, times and what it found, as JSON types."""
    train_rows, validation_rows = rows(ids[:-validation], window), rows(ids[-validation:], window)
    memory, began = Memory(), time.perf_counter()
    with memory.watched():
        state = TrainState.create(config, build(model, vocab_size, config.seed))
        for result in fit(state, train_rows, validation_rows, config, carries=True, folder=work):
            print(f"epoch {result.epoch}: {result.seconds:.0f} s", flush=True)
    return {
        "parameters": parameter_count(model, vocab_size),
        "trained": sum(each.numel() for each in state.parameters),
        "tokens": [len(ids) - validation, validation],
        "peak_own_bytes": memory.peak,
        "context_bytes": context_cache.context_bytes(len(ids) - 2, model.num_layers * model.ctx_dim),
        "seconds": time.perf_counter() - began,
        "notes": state.notes,
        "phase_one": json.loads((work / "fixed_point.json").read_text()),
    }


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder on a disk with room for the contexts")
    parser.add_argument("--text", type=Path, help="a text file instead of the built-in corpus")
    parser.add_argument("--memory", type=float, help="GB (10^9 bytes) that the process may hold; no limit by default")
    parser.add_argument("--tokens", type=int, default=TRAIN)
    parser.add_argument("--validation", type=int, default=VALIDATION)
    parser.add_argument("--vocabulary", type=int, default=50_261)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch", type=int, default=128, help="rows")
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--train-embedding", action="store_true")
    asked = parser.parse_args()
    ids = stream(asked.text, asked.vocabulary, asked.tokens + asked.validation)
    if asked.memory:
        keep_to(int(asked.memory * 1e9))
    model = ModelConfig(
        family="fixed_point",
        embed_dim=asked.width,
        ctx_dim=asked.width,
        num_layers=asked.layers,
        init="original",
        train_embedding=asked.train_embedding,
    )
    phase_one = FixedPointConfig(max_iterations=asked.iterations)
    config = TrainingConfig(
        lr=1e-3, batch_size=asked.batch, epochs=asked.epochs, precision="fp32", device="cpu", fixed_point=phase_one
    )
    with tempfile.TemporaryDirectory(dir=asked.work) as folder:
        found = train(
            model, config, ids, asked.validation, Path(folder), vocab_size=asked.vocabulary, window=asked.window
        )
    print(json.dumps(found, indent=1))
    print(f"peak {found['peak_own_bytes'] / 1e9:.2f} GB beside {found['context_bytes'] / 1e9:.2f} GB of contexts")


if __name__ == "__main__":
    main()
