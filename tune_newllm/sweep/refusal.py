"""Pydantic's complaints in our words: file, line, key, rule, what was got, nearest valid name."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

from pydantic import BaseModel, ValidationError

from tune_newllm.sweep.source import Location, Source

_UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}

LONGEST_LIST = 12
"""Names that a message lists; of more it gives the nearest alone."""


def nearest(name: str, names: Iterable[str]) -> str:
    """`; did you mean ...?` or, where nothing is near and the list is short, what there is."""
    known = list(names)
    match = _closest(name, known, cutoff=0.5 if len(known) <= LONGEST_LIST else 0.0)
    if match:
        return f"; did you mean `{match}`?"
    return f"; there are {', '.join(f'`{one}`' for one in known)}" if known else ""


def _closest(name: str, known: list[str], cutoff: float) -> str | None:
    """The known name most like this one, whatever the case of its letters."""
    folded = {one.lower(): one for one in known}
    match = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=cutoff)
    return folded[match[0]] if match else None


def plain(error: ValidationError, root: type) -> list[str]:
    """The messages without file and line, for configurations that come from no file."""
    return [f"`{key}`: {text}" if key else text for _, key, text in _problems(error, root)]


def keyed(error: ValidationError, root: type, only: Literal["all", "types"] = "all") -> list[tuple[str, str]]:
    """(dotted key, message) of each problem; `types` leaves out those with values of the right type."""
    return [(key, text) for _, key, text in _problems(error, root, only)]


def located(error: ValidationError, root: type, source: Source) -> list[str]:
    """One line a problem: `file.yaml:12: message`."""
    return [line(source.where(at), f"`{key}`: {text}" if key else text) for at, key, text in _problems(error, root)]


def line(where: str, text: str) -> str:
    """A message on one line, whatever texts of the file it repeats."""
    return f"{where}: {printable(text)}"


def printable(text: str) -> str:
    """A text without line breaks and orders to a terminal."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def _problems(error: ValidationError, root: type, only: str = "all") -> list[tuple[Location, str, str]]:
    """(location, dotted key, message), one for each key: what each branch of a union wanted is joined by `or`."""
    found: dict[Location, str] = {}
    for problem in error.errors():
        if only == "types" and problem["type"] == "value_error":
            continue
        at = _location(problem)
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "value_error" and at[:1] != ("parameters",):
            at, text = _to_field(at, text, root)
        elif problem["type"] == "value_error":
            # Rules of a parameter begin with the key they are about, where there is one.
            key = text.removeprefix("`").partition("`")[0]
            at = (*at, key) if isinstance(problem["input"], dict) and key in problem["input"] else at
        elif problem["type"] in _UNKNOWN_KEY:
            text = f"is no known key{nearest(str(at[-1]), _names_at(root, at[:-1]))}"
        elif text.startswith("Input should be "):
            wanted = text.removeprefix("Input should be ").replace("an object", "a mapping of keys to values")
            before = found.get(at, "").split(", got ", 1)[0]
            got = problem["input"]
            text = f"{before or 'must be'}{' or' if before else ''} {wanted}, got {got!r}{_spelling(got, problem)}"
        found[at] = text
    return [(at, ".".join(map(str, at)), text) for at, text in found.items()]


def _to_field(at: Location, text: str, root: type) -> tuple[Location, str]:
    """Our dataclasses begin a message with the field's name, `lr` or `clip.norm`: take it into the location."""
    name, _, rest = text.partition(" ")
    keys = name.split(".")
    if at and keys[0] == at[-1]:
        keys = keys[1:]
    return ((*at, *keys), rest) if keys and keys[0] in _names_at(root, at) else (at, text)


def _spelling(got: Any, problem: Any) -> str:
    """The nearest of a fixed list of words."""
    if problem["type"] != "literal_error" or not isinstance(got, str):
        return ""
    words = [word.strip("' ") for word in str(problem["ctx"]["expected"]).replace(" or ", ",").split(",")]
    match = _closest(got, words, cutoff=0.5)
    return f"; did you mean `{match}`?" if match else ""


def _location(problem: Any) -> Location:
    """Where the problem is in the file: pydantic's location without the branches of unions.

    What the user may name freely is a key however it is spelled: an unknown key, a parameter, a path under `when`.
    """
    given = problem["loc"]
    last = len(given) - 1 if problem["type"] in _UNKNOWN_KEY else None
    free = {index + 1 for index, part in enumerate(given) if part in ("parameters", "when")}
    return tuple(part for index, part in enumerate(given) if index == last or index in free or not _is_tag(part))


def _is_tag(part: Any) -> bool:
    """Pydantic names the branch of a union, e.g. `literal['auto']`, `int` or a class, inside the location."""
    return isinstance(part, str) and bool(re.match(r"(int|float|str|constrained-\w+|dict|list)$|[A-Z]|.*\[", part))


def _names_at(root: type, loc: Location) -> list[str]:
    """The keys that the mapping at a location may have."""
    kinds: list[Any] = [root]
    for part in loc:
        if not isinstance(part, int):
            kinds = [inner for kind in kinds for inner in _field_kinds(kind, part)]
    return [name for kind in kinds for name in _fields(kind)]


def _field_kinds(kind: Any, name: str) -> Iterator[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel) and name in kind.model_fields:
        yield from _unwrap(kind.model_fields[name].annotation)
    elif dataclasses.is_dataclass(kind):
        yield from (inner for field in dataclasses.fields(kind) if field.name == name for inner in _unwrap(field.type))
    elif getattr(kind, "__origin__", None) is dict:
        yield from _unwrap(get_args(kind)[1])


def _unwrap(annotation: Any) -> Iterator[Any]:
    """The classes inside unions and Annotated."""
    if getattr(annotation, "__origin__", None) is dict or isinstance(annotation, type):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from _unwrap(argument)


def _fields(kind: Any) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
