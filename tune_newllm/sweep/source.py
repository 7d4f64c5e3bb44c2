"""The values of a sweep file, and the line on which each of them stands."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tune_newllm.errors import SpecError
from tune_newllm.sweep import document
from tune_newllm.sweep.document import MOST_CHARACTERS, DocumentError

Location = document.Location


@dataclass
class Source:
    """A parsed sweep file: `values` to work on and, for messages, where each of them came from."""

    name: str
    values: dict[str, Any]
    lines: dict[Location, int] = field(default_factory=dict)

    def where(self, location: Location) -> str:
        """`file.yaml:12` for the nearest known ancestor of a location, `--set` for what the command line put there."""
        for length in range(len(location), 0, -1):
            line = self.lines.get(location[:length])
            if line is not None:
                return "--set" if line == 0 else f"{self.name}:{line}"
        return self.name

    def relocate(self, moves: Mapping[Location, Location]) -> None:
        """Know the lines of values, and of all inside them, under their new locations."""

        def moved(location: Location) -> Location:
            for length in range(len(location), 0, -1):
                if location[:length] in moves:
                    return moves[location[:length]] + location[length:]
            return location

        self.lines = {moved(location): line for location, line in self.lines.items()}


def read_yaml(path: Path, most: int = MOST_CHARACTERS) -> Source:
    """Parse a sweep file of at most so many characters, its aliases written out.

    Raises:
        SpecError: the file is missing, unreadable, not YAML 1.2, too large or too deep, or not a mapping.
    """
    try:
        with path.open("rb") as file:
            # A character has at most four bytes; a file without an end, such as a device, is not read to it.
            raw = file.read(4 * most + 1)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such sweep file; the ones that come along are in search_spaces/") from None
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SpecError(f"{path}:{line}: a sweep file is text in UTF-8, got the byte {raw[error.start]:#x}") from None
    return parse_yaml(text, str(path), most)


def parse_yaml(text: str, name: str, most: int = MOST_CHARACTERS) -> Source:
    """Parse the text of a sweep file; `name` stands for the file in messages. Raises as `read_yaml` does."""
    try:
        values, lines = document.parse(text, most)
    except DocumentError as error:
        raise SpecError(f"{name}:{error.line}: {error}") from None
    if not isinstance(values, dict):
        got = "nothing" if values is None else "a list" if isinstance(values, list) else repr(values)
        raise SpecError(f"{name}:1: a sweep file is a mapping of keys to values, got {got}")
    return Source(name, values, lines)


def parse_value(text: str) -> Any:
    """One value as the command line gives it: YAML 1.2, so `1e-4` is a number and `[1, 2]` a list.

    Raises:
        SpecError: it is not YAML 1.2, too large or too deep.
    """
    try:
        return document.parse(text)[0]
    except DocumentError as error:
        raise SpecError(f"--set: {text[:100]!r} is not a possible value: {error}") from None
