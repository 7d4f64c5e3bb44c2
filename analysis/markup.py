"""The pieces that a report is made of: sections and tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .figures import Figure


@dataclass(frozen=True)
class Section:
    """A heading, one or two sentences on how to read what follows, figures, and further HTML, already escaped."""

    anchor: str
    title: str
    guide: str = ""
    figures: Sequence[Figure] = ()
    captions: Sequence[tuple[str, str]] = ()
    """Of each figure, if they need any: its title and how to read it."""
    body: str = ""
    least_width: int = 0
    """Pixels below which the figures scroll sideways instead of shrinking."""


def table(head: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], mark_first: bool = False) -> str:
    """An HTML table. Each head is (text, class); cells are escaped here unless the class is `html`."""
    classes = [name for _, name in head]
    top = "".join(f'<th class="{name}">{escape(text)}</th>' for text, name in head)
    body = []
    for index, row in enumerate(rows):
        cells = "".join(
            f'<td class="{name}">{cell if name == "html" else escape(cell)}</td>'
            for cell, name in zip(row, classes, strict=True)
        )
        body.append(f'<tr class="first">{cells}</tr>' if mark_first and index == 0 else f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(body)}</tbody></table></div>\n'


def kind(values: Iterable[Any]) -> str:
    """The class of a column: `number` where all its values are numbers."""
    return "number" if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) else ""
