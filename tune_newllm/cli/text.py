"""Places and sentences as the terminal shows them."""

import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tune_newllm.sweep.spending import Use


def near(path: Path) -> Path:
    """The same path, relative to the current folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def place(path: Path) -> str:
    """A short path, quoted for a shell."""
    return shlex.quote(str(near(path)))


def wrapped(sentence: str) -> str:
    """A sentence broken at the terminal's width; as it is where the output is no terminal or holds a command."""
    if not sys.stdout.isatty() or sentence.count(" ") < 8 or "python -m" in sentence:
        return sentence
    return textwrap.fill(sentence, shutil.get_terminal_size().columns)


def warn(warnings: Iterable[str]) -> None:
    """Say on stderr what is worth knowing but stops nothing."""
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


def used(use: "Use") -> str:
    """How much of a limit is used: `40 min 3 s of 2 h 0 min`, `1.5 of 4 device hours`, `113 of 400 epochs`."""
    from analysis.words import digits, duration

    if use.key == "wall":
        return f"{duration(use.used)} of {duration(use.limit)}"
    return f"{digits(use.used, 3)} of {digits(use.limit)} {use.key.replace('_', ' ')}"


def resume_command(sweep: Path, changes: Sequence[str] = ()) -> str:
    """The command that goes on with a sweep, with these `KEY=VALUE` overrides."""
    sets = "".join(f" --set {shlex.quote(change)}" for change in changes)
    return f"python -m tune_newllm resume {place(sweep)}{sets}"


def spent_budget(spent: Sequence["Use"], sweep: Path, changes: Sequence[str] = ()) -> str:
    """That a budget is spent, and the command that goes on with twice as much and with these overrides."""
    more = [f"budget.{use.key}={_doubled(use)}" for use in spent]
    kept = [change for change in changes if change.partition("=")[0] not in {text.partition("=")[0] for text in more}]
    command = resume_command(sweep, [*kept, *more])
    return f"budget spent ({', '.join(map(used, spent))}); go on with: {command}"


def _doubled(use: "Use") -> str:
    """The limit times two, as a sweep file has it, or times four ... where even that is used up."""
    limit = 2 * use.limit
    while limit <= use.used:
        limit *= 2
    if use.key != "wall":
        return f"{limit:g}"
    unit, seconds = next((u, s) for u, s in (("h", 3600), ("m", 60), ("s", 1)) if limit % s == 0 or s == 1)
    return f"{limit / seconds:g}{unit}"
