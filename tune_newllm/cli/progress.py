"""What a sweep shows while it runs: a live table on a terminal, else one JSON line an event."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.words import duration, shown
from tune_newllm.cli.text import used
from tune_newllm.records import Record, SweepExtended, SweepStarted, to_line

if TYPE_CHECKING:
    from rich.table import Table

    from tune_newllm.sweep.driver import Listener
    from tune_newllm.sweep.spec import SweepSpec
    from tune_newllm.sweep.spending import Use


MOST_UNSURE = 4
"""Ended trials below which no time left is foretold."""


@contextmanager
def display(
    spec: "SweepSpec", quiet: bool, folder: Path | None = None, past: Iterable[Record] = ()
) -> "Iterator[Listener]":
    """A listener for the sweep's records, on stderr.

    Args:
        spec: the sweep.
        quiet: show nothing.
        folder: where a new sweep will be, whose resolved file says what was `auto` in `spec`.
        past: what happened before a resume.
    """
    if quiet:
        yield lambda record: None
    elif not sys.stderr.isatty():
        yield lambda record: print(to_line(record), end="", file=sys.stderr, flush=True)
    else:
        from rich.console import Console
        from rich.live import Live

        view = SweepView(spec, folder, past)
        with Live(get_renderable=view.table, console=Console(stderr=True), refresh_per_second=2, transient=True):
            yield view.add


class SweepView:
    """The state of a running sweep as a small table."""

    def __init__(self, spec: "SweepSpec", folder: Path | None = None, past: Iterable[Record] = ()) -> None:
        from tune_newllm.sweep.history import History

        self._spec, self._folder, self._history = spec, folder, History(past, spec.seeds)
        self._began, self._preparing = time.monotonic(), True
        self._driver_began: float | None = None
        self._ended_before, self._used_before = self._ended, self._used()

    def add(self, record: Record) -> None:
        """Take in one record."""
        if isinstance(record, SweepExtended):
            from tune_newllm.sweep.extension import apply

            self._spec = apply(self._spec, record)
            self._history.add(record)
            self._ended_before = self._ended
            return
        if isinstance(record, SweepStarted):
            self._driver_began = time.monotonic() - (record.elapsed or 0.0)
        if self._preparing and self._folder is not None:
            from tune_newllm.sweep.folder import SweepFolder

            self._spec = SweepFolder.open(self._folder).spec()
        self._preparing = False
        self._history.add(record)

    @property
    def _ended(self) -> int:
        return len(self._history.trials) - len(self._history.unfinished())

    def table(self) -> "Table":
        """The rows to show now."""
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column()
        for name, text in self.rows():
            table.add_row(name, text)
        return table

    def rows(self) -> list[tuple[str, str]]:
        """(label, text) pairs: trials, best, rungs, budget, time."""
        if self._preparing:
            return [("sweep", "starting Ray, measuring this machine"), ("time", self._time())]
        rows = [("trials", self._trials()), ("best", self._best())]
        if self._spec.early_terminate is not None and (survival := self._rungs()):
            rows.append(("ASHA", survival))
        if spent := self._used():
            rows.append(("budget", ", ".join(map(used, spent))))
        return [*rows, ("time", self._time())]

    @property
    def _cap(self) -> int | None:
        """Trials of the whole sweep, every replicate counted."""
        return self._spec.run_cap and self._spec.run_cap * self._spec.seeds

    def _used(self) -> "list[Use]":
        from tune_newllm.sweep.spending import uses

        began = self._driver_began
        return uses(self._spec, self._history, None if began is None else time.monotonic() - began)

    def _trials(self) -> str:
        cap = f" of {self._cap}" if self._cap else ""
        states = ("running", "completed", "stopped", "diverged", "infeasible", "crashed", "failed")
        counts = [f"{count} {state}" for state in states if (count := self._history.count(state))]
        return f"{self._ended}{cap} done" + (f" ({', '.join(counts)})" if counts else "")

    def _best(self) -> str:
        best = self._history.best()
        if best is None or best.value is None:
            return "none yet"
        values = "  ".join(f"{path.rpartition('.')[2]} {shown(value)}" for path, value in best.parameters.items())
        seeds = f", mean of {len(best.trials)} seeds" if len(best.trials) > 1 else ""
        return f"val_loss {best.value:.4f}  {values}  ({best.id}, {best.state}{seeds})"

    def _rungs(self) -> str:
        assert self._spec.early_terminate is not None
        parts = []
        for rung in self._spec.early_terminate.rungs(self._spec.training.epochs):
            reached = [trial for trial in self._history.trials.values() if rung in trial.epochs]
            stopped = sum(trial.state == "stopped" and max(trial.epochs) == rung for trial in reached)
            if reached:
                parts.append(f"epoch {rung}: {len(reached) - stopped} of {len(reached)} went on")
        return ", ".join(parts)

    def _time(self) -> str:
        elapsed = time.monotonic() - self._began
        here = self._ended - self._ended_before
        # The first trials to end are the quick ones, and Ray's start is in their time.
        if here < MOST_UNSURE:
            return duration(elapsed)
        left = [elapsed / here * (self._cap - self._ended)] if self._cap else []
        for before, now in zip(self._used_before, self._used(), strict=True):
            if now.used > before.used:
                pace = 1.0 if now.key == "wall" else elapsed / (now.used - before.used)
                left.append(max(0.0, now.limit - now.used) * pace)
        return f"{duration(elapsed)}, about {duration(min(left))} left" if left else duration(elapsed)
