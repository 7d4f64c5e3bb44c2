"""From a sweep file and the command line's overrides to a valid `SweepSpec`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tune_newllm.errors import SpecError
from tune_newllm.sweep import refusal
from tune_newllm.sweep.rules import problems
from tune_newllm.sweep.source import Source, parse_value, read_yaml
from tune_newllm.sweep.spec import SweepSpec, expand, expand_section

LATER = (("when",), ("seeds",), ("budget",), ("corpus", "max_samples"))
"""Keys of the design that no code answers yet."""


def load_spec(path: Path, overrides: Iterable[str] = ()) -> SweepSpec:
    """Read and validate a sweep file.

    Args:
        path: the YAML file.
        overrides: `key=value` texts from the command line; one for a searched parameter fixes it.

    Raises:
        SpecError: every broken rule, one line each, with file, line, key, what was got and the nearest valid name.
    """
    source = read_yaml(path)
    for text in overrides:
        _override(source, text)
    return parse_spec(source)


def parse_spec(source: Source) -> SweepSpec:
    """Validate a parsed file. Raises as `load_spec` does."""
    for at in LATER:
        if _holds(source.values, at):
            raise SpecError(f"{source.where(at)}: `{'.'.join(at)}` is not supported yet; remove it")
    if source.values.get("method") == "quasi":
        raise SpecError(f"{source.where(('method',))}: method `quasi` is not supported yet; use bayes, random or grid")
    tree = {key: expand(key, value) for key, value in source.values.items()}
    try:
        spec = SweepSpec.model_validate(tree)
    except ValidationError as error:
        raise SpecError("\n".join(refusal.located(error, SweepSpec, source))) from None
    broken = [f"{source.where(location)}: {text}" for location, text in problems(spec)]
    if broken:
        raise SpecError("\n".join(broken))
    return spec


def _holds(values: Any, at: tuple[str, ...]) -> bool:
    for key in at:
        if not isinstance(values, dict) or key not in values:
            return False
        values = values[key]
    return True


def _override(source: Source, text: str) -> None:
    path, separator, value = text.partition("=")
    if not separator or not path.strip():
        raise SpecError(f"--set takes key=value, got {text!r}")
    path, parsed = path.strip(), parse_value(value)
    parameters = source.values.get("parameters")
    if isinstance(parameters, dict) and path in parameters:
        _fix(source.values, path)
    keys = path.split(".")
    if keys[0] == "parameters":
        # The names of parameters are dotted themselves: `parameters.training.lr.max` is the key `max` of one.
        named, _, last = path.removeprefix("parameters.").rpartition(".")
        known = isinstance(parameters, dict) and named in parameters
        keys = ["parameters", named, last] if known else ["parameters", path.removeprefix("parameters.")]
    node = source.values
    for depth, key in enumerate(keys[:-1], 1):
        node[key] = expand_section(".".join(keys[:depth]), node.get(key) or {})
        if not isinstance(node[key], dict):
            raise SpecError(f"--set {text}: `{'.'.join(keys[:depth])}` holds {node[key]!r}, which has no keys")
        node = node[key]
    node[keys[-1]] = parsed
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
