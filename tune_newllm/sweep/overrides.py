"""`--set path=value`: one key of the file replaced; a searched one is fixed."""

from collections.abc import Mapping
from typing import Any

from tune_newllm.errors import SpecError
from tune_newllm.sweep.activity import giver
from tune_newllm.sweep.document import LONGEST_KEY, possible_key
from tune_newllm.sweep.refusal import printable
from tune_newllm.sweep.source import Source, parse_value
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.tree import expand_section, none_to_null


def override(source: Source, text: str, aliases: Mapping[str, str]) -> list[str]:
    """Put one override into the file's values; returns the paths it sets, those of searched parameters included.

    Args:
        source: the file.
        text: `path=value`.
        aliases: other names -> the paths they stand for in this file.

    Raises:
        SpecError: the text is no `path=value`, or the path leads through a value that has no keys, or into a section
            that is searched as a whole.
    """
    path, separator, value = text.partition("=")
    path = path.strip()
    if not separator or not possible_key(path):
        raise SpecError(f"--set takes key=value, got {text[:LONGEST_KEY]!r}")
    parsed, text = parse_value(value), printable(text)
    path = aliases.get(path, path)
    parameters = source.values.get("parameters")
    names = list(parameters) if isinstance(parameters, dict) else []
    whole = giver(path.rpartition(".")[0], names)
    if whole:
        raise SpecError(f"--set {text}: `{whole}` stands in `parameters` as a whole; set that or parameters.{whole}")
    fixed = [name for name in names if giver(name, {path})]
    for name in fixed:
        _fix(source.values, name)
    keys = path.split(".")
    if keys[0] == "parameters" and len(keys) > 1:
        # The names of parameters are dotted themselves: `parameters.training.lr.max` is the key `max` of one.
        inner = path.removeprefix("parameters.")
        named, _, last = inner.rpartition(".")
        named = aliases.get(named, named)
        keys = ["parameters", named, last] if named in names else ["parameters", aliases.get(inner, inner)]
    _put(source, keys, parsed, text)
    return [*fixed, path]


def without_lost_points(spec: SweepSpec, overridden: list[str]) -> SweepSpec:
    """The sweep whose points no longer give parameters that exist no more because of an override."""

    def lost(path: str, point: dict[str, Any]) -> bool:
        known = path in spec.searched and not spec.is_active(path, point)
        return known and _hangs_on(path, overridden, spec)

    kept = [{path: value for path, value in point.items() if not lost(path, point)} for point in spec.points]
    return spec.model_copy(update={"points": [point for point in kept if point]}) if overridden else spec


def _hangs_on(path: str, names: list[str], spec: SweepSpec) -> bool:
    """Whether a parameter's conditions ask, directly or not, for one of the names."""
    for asked in spec.parameters[path].when:
        above = giver(asked, spec.parameters)
        if giver(asked, names) or (above and _hangs_on(above, names, spec)):
            return True
    return False


def _put(source: Source, keys: list[str], value: Any, text: str) -> None:
    node = source.values
    for depth, key in enumerate(keys[:-1], 1):
        held = none_to_null(expand_section(".".join(keys[:depth]), node.get(key, {})))
        node[key] = {} if held is None else held
        if not isinstance(node[key], dict):
            raise SpecError(f"--set {text}: `{'.'.join(keys[:depth])}` holds {node[key]!r}, which has no keys")
        node = node[key]
    node[keys[-1]] = value
    for depth in range(1, len(keys)):
        source.lines.setdefault(tuple(keys[:depth]), 0)
    source.lines[tuple(keys)] = 0


def _fix(values: dict[str, Any], path: str) -> None:
    """Take a parameter out of the search, and with it whatever only made sense while it was searched."""
    del values["parameters"][path]
    if values.get("balanced") == path:
        del values["balanced"]
    rule = values.get("early_terminate")
    if isinstance(rule, dict) and rule.get("within") == path:
        del rule["within"]
    points = values.get("points")
    for point in points if isinstance(points, list) else []:
        if isinstance(point, dict):
            point.pop(path, None)
