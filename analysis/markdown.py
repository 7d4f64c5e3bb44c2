"""GitHub-flavoured Markdown that is also readable as it stands: escaped text, aligned tables, wrapped paragraphs."""

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence

from .untrusted import printable

WIDTH = 100
"""Characters of a line of prose; tables and commands may be wider."""

_SPECIAL = re.compile(r"[\\`*\[|~$]|<(?=[A-Za-z/!?])|&(?=[#A-Za-z])|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown or GitHub reads as more than itself; an underscore within a word is none, nor `<` before a number."""
_OPEN_BAR = re.compile(r"(?<!\\)\|")
_BLOCK = re.compile(r"(?:[-+]|-+|=+|#{1,6}|\d{1,9}[.)])(?=\s|$)|>")
"""What at the beginning of a line makes it a list, a heading or a rule."""


def plain(text: str) -> str:
    """Any text as Markdown that shows just that text, on one line."""
    line = " ".join(printable(text).split())
    return _SPECIAL.sub(lambda found: "\\" + found[0], line)


def code(text: str) -> str:
    """Any text as a code span."""
    line = " ".join(printable(text).split()) or " "
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def paragraph(markdown: str, indent: str = "", first: str | None = None) -> str:
    """Wrapped so that no line begins like a heading, a list or a rule by chance.

    Args:
        markdown: escaped where need be.
        indent: before every line; `first` before the first one instead.
    """
    width = WIDTH - len(indent)
    lines = textwrap.wrap(markdown, width, break_long_words=False, break_on_hyphens=False) or [""]
    starts = [indent if first is None else first, *[indent] * (len(lines) - 1)]
    return "\n".join(start + _inline(line) for start, line in zip(starts, lines, strict=True))


def _inline(line: str) -> str:
    found = _BLOCK.match(line)
    return line if found is None else f"{line[: found.end() - 1]}\\{line[found.end() - 1 :]}"


def bullets(entries: Iterable[str]) -> str:
    """A list; each entry is Markdown."""
    return "\n".join(paragraph(entry, "  ", "- ") for entry in entries)


def commands(lines: Iterable[str], indent: str = "") -> str:
    """Command lines as a block to be copied."""
    kept = [printable(" ".join(line.splitlines())) for line in lines]
    fence = "`" * max(3, 1 + max(map(_longest_run, kept), default=0))
    return "\n".join(indent + line for line in (f"{fence}bash", *kept, fence))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[bool] | None = None) -> str:
    """A table whose columns align also as plain text; all cells are Markdown already.

    Args:
        numbers: of each column whether it is set to the right; by default all but the first.
    """
    right = [False, *[True] * (len(head) - 1)] if numbers is None else list(numbers)
    lines = [[_OPEN_BAR.sub(r"\\|", cell) for cell in line] for line in (head, *rows)]
    widths = [max(3, *(_width(line[at]) for line in lines)) for at in range(len(head))]
    rule = ["-" * (width - 1) + ":" if side else "-" * width for width, side in zip(widths, right, strict=True)]
    return "\n".join(_row(line, widths, right) for line in (lines[0], rule, *lines[1:]))


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    padded = []
    for cell, width, side in zip(cells, widths, right, strict=True):
        room = " " * (width - _width(cell))
        padded.append(room + cell if side else cell + room)
    return f"| {' | '.join(padded)} |"


def _width(text: str) -> int:
    """Columns that a text takes up where letters are equally wide."""
    return sum(0 if unicodedata.combining(sign) else 1 + (unicodedata.east_asian_width(sign) in "WF") for sign in text)


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
