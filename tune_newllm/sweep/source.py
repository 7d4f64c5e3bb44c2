"""A YAML 1.2 file as plain Python values, and the line on which each of them stands."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tune_newllm.errors import SpecError

Location = tuple[str | int, ...]
MOST_BYTES = 1_000_000


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


def read_yaml(path: Path) -> Source:
    """Parse a sweep file.

    Raises:
        SpecError: the file is missing, unreadable, not YAML 1.2, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"{path}: no such sweep file; the ones that come along are in search_spaces/") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read: {error}") from None
    if len(text) > MOST_BYTES:
        raise SpecError(f"{path}: a sweep file has at most {MOST_BYTES:,} characters, got {len(text):,}")
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> Source:
    """Parse the text of a sweep file; `name` stands for the file in messages. Raises as `read_yaml` does."""
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SpecError(f"{name}{line}: not valid YAML 1.2: {_one_line(error.problem or error.context)}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise SpecError(f"{name}: not valid YAML 1.2: {_one_line(str(error))}") from None
    if not isinstance(tree, CommentedMap):
        got = "nothing" if tree is None else "a list" if isinstance(tree, list) else repr(_plain(tree))
        raise SpecError(f"{name}: a sweep file is a mapping of keys to values, got {got}")
    source = Source(name, _plain(tree))
    source.lines.update(_lines(tree, ()))
    return source


def parse_value(text: str) -> Any:
    """One value as the command line gives it: YAML 1.2, so `1e-4` is a number and `[1, 2]` a list."""
    try:
        return _plain(YAML(typ="rt", pure=True).load(text))
    except (YAMLError, ValueError) as error:
        raise SpecError(f"--set: {text!r} is not a YAML value: {_one_line(str(error))}") from None


def _lines(node: Any, at: Location) -> Iterator[tuple[Location, int]]:
    if isinstance(node, CommentedMap):
        for key, child in node.items():
            # A key that a merge (`<<`) brought in stands nowhere in this mapping.
            if key in (node.lc.data or {}):
                yield (*at, str(key)), node.lc.key(key)[0] + 1
            yield from _lines(child, (*at, str(key)))
    elif isinstance(node, CommentedSeq):
        for index, child in enumerate(node):
            yield (*at, index), node.lc.item(index)[0] + 1
            yield from _lines(child, (*at, index))


def _plain(node: Any) -> Any:
    """Built-in types only: the round-trip loader wraps numbers and strings to remember how they were written."""
    if isinstance(node, dict):
        return {str(key): _plain(child) for key, child in node.items()}
    if isinstance(node, list):
        return [_plain(child) for child in node]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _one_line(text: str | None) -> str:
    return " ".join((text or "unreadable").split())
