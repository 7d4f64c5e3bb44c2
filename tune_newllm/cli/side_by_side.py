"""The same questions to several sweeps, as a table in the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

NARROWEST = 24
"""Characters of a column that is still worth reading."""

WIDEST = 60
"""Characters of a column, however wide the terminal, and where the output is none."""


def side_by_side(names: Sequence[str], questions: Sequence[Mapping[str, Any]], width: int | None = None) -> str:
    """A column for each sweep, or, where they would be too narrow, one under the other.

    Args:
        questions: each with `question` and `answers`, one for each of the names.
        width: characters of a line; those of the terminal if None.
    """
    first = max(len(row["question"]) for row in questions) + 2
    column = WIDEST
    if width is not None or sys.stdout.isatty():
        room = (width or shutil.get_terminal_size().columns) - first
        column = min(WIDEST, room // len(names) - 2)
    if column < NARROWEST:
        return _stacked(names, questions)
    lines = _row("", names, first, column)
    for row in questions:
        lines += _row(row["question"], row["answers"], first, column)
    return "\n".join(lines)


def _row(head: str, cells: Sequence[str], first: int, column: int) -> list[str]:
    wrapped = [textwrap.wrap(cell, column) or [""] for cell in cells]
    lines = zip_longest([head], *wrapped, fillvalue="")
    return [
        "".join(
            text.ljust(size + 2) for text, size in zip(line, [first - 2, *[column] * len(cells)], strict=True)
        ).rstrip()
        for line in lines
    ]


def _stacked(names: Sequence[str], questions: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in questions:
        lines.append(row["question"])
        lines += [f"  {name}: {answer}" for name, answer in zip(names, row["answers"], strict=True) if answer]
    return "\n".join(lines)
