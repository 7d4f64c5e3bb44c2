"""A table of real trainings of this model, on which search strategies are replayed for free.

`python benchmarks/search.py record` makes it: every learning rate of the grid with every batch size and depth, once,
fp32 on one thread. The file is CSV below one line of JSON that says how it came to be; a row holds the values, seconds
per epoch, and validation loss (nats per token) after each epoch, `inf` from the epoch on in which a training diverged.
"""

import csv
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml
from tune_newllm.sweep.spec import SweepSpec

FILE = Path(__file__).parent / "data" / "python_docs.csv"
RATE = "training.lr"
RATES = 9
SWEEP = """\
corpus: {name: python-docs, vocab_size: 500, window: 24, max_samples: 1000}
model: {embed_dim: 32, hidden_dim: 64, ctx_dim: 32, dropout: 0.0}
training: {epochs: 9, precision: fp32, device: cpu}
parameters:
  training.lr: {distribution: log_uniform_values, min: 2e-4, max: 1e-1}
  training.batch_size: {values: [8, 16, 32, 64, 128]}
  model.num_layers: {values: [1, 2, 4]}
"""
"""Model and ranges of search_spaces/lr_batch.yaml with the depth besides, on a fifth of the text."""

Values = dict[str, Any]


def sweep() -> SweepSpec:
    """The sweep that the table answers."""
    return parse_spec(parse_yaml(SWEEP, "tabulated.py"))


@dataclass(frozen=True)
class Table:
    """Recorded trainings.

    Args:
        rates: [R], ascending.
        discrete: the other parameters' paths.
        losses: [R, E] by the values of the others: validation loss after each epoch.
        seconds: per epoch, by the same; the median over the rates.
    """

    rates: NDArray[np.float64]
    discrete: list[str]
    losses: dict[tuple[Any, ...], NDArray[np.float64]]
    seconds: dict[tuple[Any, ...], float]

    def curve(self, values: Values) -> NDArray[np.float64]:
        """Validation losses [E] of a configuration: linear in log(rate) between the rates of the grid.

        Next to a training that diverged everything diverges but the grid's own rate.
        """
        place = np.interp(math.log(values[RATE]), np.log(self.rates), np.arange(len(self.rates)))
        low, share = int(place), place - int(place)
        rows = self.losses[self._key(values)]
        return rows[low] if share == 0 else (1 - share) * rows[low] + share * rows[low + 1]

    def seconds_per_epoch(self, values: Values) -> float:
        """How long one epoch of a configuration takes."""
        return self.seconds[self._key(values)]

    @property
    def best(self) -> float:
        """The lowest loss of all: interpolation is never lower than the lower neighbour."""
        return min(float(rows.min()) for rows in self.losses.values())

    def _key(self, values: Values) -> tuple[Any, ...]:
        return tuple(values[path] for path in self.discrete)


def read(path: Path = FILE) -> Table:
    """The table of a file.

    Raises:
        ValueError: a configuration of the grid is missing.
    """
    with path.open(encoding="utf-8", newline="") as file:
        file.readline()
        names, *rows = csv.reader(file)
    end = names.index("seconds")
    discrete = names[1:end]
    curves = {(float(row[0]), *map(int, row[1:end])): [float(loss) for loss in row[end + 1 :]] for row in rows}
    seconds = {(float(row[0]), *map(int, row[1:end])): float(row[end]) for row in rows}
    rates, *others = (sorted(set(column)) for column in zip(*curves, strict=True))
    missing = [cell for cell in itertools.product(rates, *others) if cell not in curves]
    if missing:
        raise ValueError(f"a table must be complete, got {path} without {missing[0]}: record the rest first")
    cells = list(itertools.product(*others))
    return Table(
        np.array(rates),
        discrete,
        {cell: np.array([curves[rate, *cell] for rate in rates]) for cell in cells},
        {cell: statistics.median(seconds[rate, *cell] for rate in rates) for cell in cells},
    )


def grid(spec: SweepSpec) -> list[Values]:
    """The configurations to record, the slowest first."""
    low, high = map(float, spec.parameters[RATE].extremes())
    rates = [float(f"{rate:.4g}") for rate in np.geomspace(low, high, RATES)]
    axes = {RATE: rates, **{path: each.choices or [] for path, each in spec.searched.items() if path != RATE}}
    cells = [dict(zip(axes, cell, strict=True)) for cell in itertools.product(*axes.values())]
    return sorted(cells, key=lambda cell: (cell["training.batch_size"], -cell["model.num_layers"]))


def train(spec: SweepSpec, values: Values) -> list[float]:
    """Seconds per epoch, then the validation loss after each epoch."""
    import torch

    from tune_newllm.data.corpora import prepare
    from tune_newllm.errors import DivergedError
    from tune_newllm.models import build
    from tune_newllm.training.loop import fit
    from tune_newllm.training.state import TrainState

    torch.set_num_threads(1)
    configuration = spec.configuration(values)
    training, corpus = configuration.training, prepare(configuration.corpus)
    state = TrainState.create(training, build(configuration.model, len(corpus.tokenizer), training.seed))
    losses, began = [], time.perf_counter()
    try:
        losses += [result.val_loss for result in fit(state, corpus.train, corpus.validation, training)]
    except DivergedError:
        losses += [result.val_loss for result in state.history] + [math.inf] * (training.epochs - state.epoch)
    return [round((time.perf_counter() - began) / training.epochs, 3), *(round(loss, 5) for loss in losses)]


def record(path: Path, minutes: float, facts: dict[str, Any], processes: int = 2) -> bool:
    """Train what the file lacks and append it, for so many minutes; returns whether it is complete."""
    from tune_newllm.data.corpora import prepare

    spec = sweep()
    names = [*grid(spec)[0], "seconds", *(str(epoch) for epoch in range(1, spec.training.epochs + 1))]
    facts |= {"command": "python benchmarks/search.py record"}
    facts |= {"corpus": prepare(spec.corpus, progress=True).fingerprint, "sweep": SWEEP}
    if not path.exists():
        path.write_text(f"# {json.dumps(facts)}\n{','.join(names)}\n", encoding="utf-8")
    known = {tuple(map(float, line.split(",")[:3])) for line in path.read_text(encoding="utf-8").splitlines()[2:]}
    left = [values for values in grid(spec) if tuple(map(float, values.values())) not in known]
    done, deadline, began = len(known), time.monotonic() + 60 * minutes, time.monotonic()
    for values, row in _trained(spec, left, deadline, processes):
        with path.open("a", encoding="utf-8") as file:
            file.write(",".join(map(str, [*values.values(), *row])) + "\n")
        done += 1
        elapsed = time.monotonic() - began
        print(f"{done} of {len(known) + len(left)}  {values}  loss {row[-1]:.4f}  {elapsed:.0f} s", file=sys.stderr)
    return done == len(known) + len(left)


def _trained(
    spec: SweepSpec, left: list[Values], deadline: float, processes: int
) -> Iterator[tuple[Values, list[float]]]:
    """Rows as they come; none is begun after the deadline."""
    waiting, running = iter(left), dict[Future[list[float]], Values]()
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        while True:
            while len(running) < processes and time.monotonic() < deadline and (values := next(waiting, None)):
                running[pool.submit(train, spec, values)] = values
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
