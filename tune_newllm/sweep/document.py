"""A YAML 1.2 text that nobody vouches for, as plain values and the line on which each of them stands.

Only composed, never constructed: no tag makes an object, and what nests too deep, grows too large by its aliases or has
keys that no message could show is refused before it costs time or memory.
"""

import re
from typing import Any, NoReturn

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scanner import Scanner

Location = tuple[str | int, ...]
MOST_CHARACTERS = 200_000
"""Of a text with its aliases written out."""
MOST_RESOLVED_CHARACTERS = 5 * MOST_CHARACTERS
"""Of the file that a sweep keeps: it spells out what a shorter one left to defaults, on lines of their own."""
LEAST_CHARACTERS = 20
"""What a value counts for at least: reading one takes as long as reading many characters."""
MOST_LEVELS = 30
LONGEST_KEY = 100
LARGEST_WHOLE = 2**63
_TAG = "tag:yaml.org,2002:"
_RULE = "there may be at most {:,} characters with all aliases written out"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
_TEXTS = {"str", "timestamp", "value", "merge"}
"""Kinds of scalars that stay as they are written: there are no dates in a sweep file."""


class DocumentError(Exception):
    """What is wrong with a text; `line` counts from 1."""

    def __init__(self, line: int, problem: str) -> None:
        super().__init__(problem)
        self.line = line


def parse(text: str, most: int = MOST_CHARACTERS) -> tuple[Any, dict[Location, int]]:
    """The values of a text and the line of each key and list item.

    Args:
        text: YAML 1.2.
        most: characters, with all aliases written out.

    Raises:
        DocumentError: it is not valid, too large or too deep, or has values or keys that a sweep file never has.
    """
    if len(text) > most:
        raise DocumentError(1, f"{_RULE.format(most)}, got {len(text):,}")
    yaml = YAML(typ="safe", pure=True)
    yaml.Scanner, yaml.Composer = _Scanner, _Composer
    yaml.max_depth = MOST_LEVELS
    yaml.composer.left = most // LEAST_CHARACTERS
    yaml.composer.warn_double_anchors = False
    try:
        yaml.get_constructor_parser(text)
        root = yaml.composer.get_single_node()
    except MaxDepthExceededError as error:
        _refuse(error.problem_mark, f"values may nest {MOST_LEVELS} levels deep at most; they go deeper here")
    except _TooManyError as error:
        _refuse(error.problem_mark, f"{_RULE.format(most)}, and a value counts for {LEAST_CHARACTERS} at least")
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(line, f"a text has no control characters, got {text[error.position]!r} in it") from None
    except MarkedYAMLError as error:
        _refuse(error.problem_mark or error.context_mark, f"not valid YAML 1.2: {_one_line(error)}")
    except (ValueError, LookupError) as error:
        # What Python's own functions say to numbers and indices that the parser hands them.
        _refuse(yaml.reader, f"not valid YAML 1.2: {_one_line(error)}")
    reader = _Reader(yaml.constructor, most)
    return None if root is None else reader.value(root, (), 0), reader.lines


class _TooManyError(MarkedYAMLError):
    pass


class _Scanner(Scanner):
    """Stops at a depth of brackets, because it looks far ahead of them and takes quadratic time for that."""

    def fetch_flow_collection_start(self, *words: Any, **named: Any) -> None:
        if len(self.flow_context) >= MOST_LEVELS:
            raise MaxDepthExceededError(problem_mark=self.reader.get_mark())
        super().fetch_flow_collection_start(*words, **named)


class _Composer(Composer):
    """Stops at a number of nodes, so that a text of nothing but short values costs no more time than another."""

    left = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise _TooManyError(problem_mark=self.parser.peek_event().start_mark)
        return super().compose_node(parent, index)


class _Reader:
    """Turns composed nodes into values, and counts what they would take without aliases."""

    def __init__(self, constructor: Any, most: int) -> None:
        self.lines: dict[Location, int] = {}
        self._constructor = constructor
        self._most = self._left = most

    def value(self, node: Node, at: Location, level: int) -> Any:
        """A node as plain value; `at` is where it stands and `level` how deep, merges included."""
        self._spend(node, at, level)
        if isinstance(node, ScalarNode):
            return self._scalar(node, at)
        if node.tag not in (f"{_TAG}map", f"{_TAG}seq"):
            _refuse(node.start_mark, _tag_unknown(node, at))
        if isinstance(node, SequenceNode):
            for index, child in enumerate(node.value):
                self.lines[(*at, index)] = child.start_mark.line + 1
            return [self.value(child, (*at, index), level + 1) for index, child in enumerate(node.value)]
        assert isinstance(node, MappingNode)
        pairs = self._pairs(node, at, level)
        for name, (key, _) in pairs.items():
            self.lines[(*at, name)] = key.start_mark.line + 1
        return {name: self.value(child, (*at, name), level + 1) for name, (_, child) in pairs.items()}

    def _spend(self, node: Node, at: Location, level: int) -> None:
        # An alias has forgotten where it stood: the top-level key around it is what can be named.
        line = self.lines.get(at[:1], node.start_mark.line + 1)
        if level > MOST_LEVELS:
            raise DocumentError(line, f"{_key(at[:1])}values may nest {MOST_LEVELS} levels deep at most, with aliases")
        self._left -= max(LEAST_CHARACTERS, len(node.value) if isinstance(node, ScalarNode) else 0)
        if self._left < 0:
            raise DocumentError(line, f"{_key(at[:1])}{_RULE.format(self._most)}; use fewer aliases or values")

    def _pairs(self, node: MappingNode, at: Location, level: int) -> dict[str, tuple[Node, Node]]:
        """Key and value by the key's name, what `<<` merges into the mapping included."""
        merged: dict[str, tuple[Node, Node]] = {}
        own: dict[str, tuple[Node, Node]] = {}
        for key, child in node.value:
            if key.tag == f"{_TAG}merge":
                for each in child.value if isinstance(child, SequenceNode) else [child]:
                    if not isinstance(each, MappingNode):
                        _refuse(key.start_mark, f"{_key(at)}`<<` merges mappings, got {_shown(each)}")
                    self._spend(each, at, level + 1)
                    merged = self._pairs(each, at, level + 1) | merged
                continue
            name = _name(key, at)
            if name in own:
                _refuse(key.start_mark, f"`{_dotted((*at, name))}` is given twice; keep one")
            own[name] = key, child
            self._spend(key, at, level)
        return merged | own

    def _scalar(self, node: ScalarNode, at: Location) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        if kind in _TEXTS:
            if odd := _CONTROL.search(node.value):
                _refuse(node.start_mark, f"{_key(at)}a text has no control characters, got {odd[0]!r} in it")
            return str(node.value)
        if kind == "null":
            return None
        if kind not in ("bool", "int", "float"):
            _refuse(node.start_mark, _tag_unknown(node, at))
        try:
            value = getattr(self._constructor, f"construct_yaml_{kind}")(node)
        except (ValueError, LookupError):
            _refuse(node.start_mark, f"{_key(at)}must be what YAML 1.2 calls {kind}, got {_shown(node)}")
        if kind == "int" and abs(value) >= LARGEST_WHOLE:
            _refuse(node.start_mark, f"{_key(at)}a whole number lies within -2^63..2^63, got {_shown(node)}")
        return value


def possible_key(text: str) -> bool:
    """Whether a message can show a text as a key, and no path by it is too long."""
    return 0 < len(text) <= LONGEST_KEY and text.isprintable()


def _name(key: Node, at: Location) -> str:
    if not isinstance(key, ScalarNode) or not possible_key(key.value):
        rule = f"a key is a word of 1 to {LONGEST_KEY} printable characters"
        _refuse(key.start_mark, f"{_key(at)}{rule}, got {_shown(key)}")
    return str(key.value)


def _tag_unknown(node: Node, at: Location) -> str:
    return f"{_key(at)}the tag {str(node.tag)[:LONGEST_KEY]!r} means nothing here; remove it"


def _shown(node: Node) -> str:
    if not isinstance(node, ScalarNode):
        return "a list" if isinstance(node, SequenceNode) else "a mapping"
    return repr(node.value) if len(node.value) <= LONGEST_KEY else f"{node.value[:LONGEST_KEY]!r} and so on"


def _key(at: Location) -> str:
    return f"`{_dotted(at)}`: " if at else ""


def _dotted(at: Location) -> str:
    text = ".".join(map(str, at))
    return text if len(text) <= 2 * LONGEST_KEY else f"{text[:LONGEST_KEY]}...{text[-LONGEST_KEY:]}"


def _refuse(mark: Any, problem: str) -> NoReturn:
    raise DocumentError(mark.line + 1 if mark is not None else 1, problem) from None


def _one_line(error: Exception) -> str:
    text = error.problem or error.context if isinstance(error, MarkedYAMLError) else str(error)
    return " ".join((text or "unreadable").split())
