"""Whether every value that a parameter may take is possible where the parameter exists."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pydantic import ValidationError

from tune_newllm.sweep import refusal
from tune_newllm.sweep.activity import giver
from tune_newllm.sweep.existence import settings
from tune_newllm.sweep.space import Parameter
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.training.config import Configuration

MOST_SETTINGS = 64
"""Combinations of the values above a parameter beside which its own range is tried."""
INSIDE = 0.41
"""A probability at which a continuous parameter has no round value, as a key for whole numbers would need."""


def impossible(spec: SweepSpec) -> Iterator[tuple[str, str]]:
    """(parameter, fault), one for each parameter whose range holds an impossible value.

    Parameters are tried one at a time, the others as in the base configuration; but with every value of those above
    (`when`), and with those that exist only now at the middle of their range.
    """
    blamed: set[str] = set()
    for path, parameter in spec.parameters.items():
        for setting in islice(settings(path, spec), MOST_SETTINGS):
            for value in _tried(parameter):
                values = _completed({**setting, path: value}, spec)
                for key, text in faults(values, spec):
                    name = giver(key, values) or path
                    if name not in blamed:
                        blamed.add(name)
                        yield name, f"`{key}`: {text} ({_searched_as(name, values)})"


def faults(values: dict[str, Any], spec: SweepSpec) -> list[tuple[str, str]]:
    """(dotted key, message) of all that is impossible about these values together."""
    try:
        spec.assembled(values)
    except ValidationError as error:
        return refusal.keyed(error, Configuration)
    return []


def _tried(parameter: Parameter) -> list[Any]:
    return parameter.extremes() + ([] if parameter.choices is not None else [parameter.from_unit(INSIDE)])


def _completed(values: dict[str, Any], spec: SweepSpec) -> dict[str, Any]:
    """The values, and those of the parameters that come to exist by them: a piecewise clip needs its table."""
    for path in spec.order:
        parameter = spec.parameters[path]
        if parameter.when and path not in values and spec.is_active(path, values):
            values = {**values, path: parameter.from_unit(0.5)}
    return values


def _searched_as(name: str, values: dict[str, Any]) -> str:
    others = ", ".join(f"{path} = {value!r}" for path, value in values.items() if path != name)
    return f"searched as {name} = {values[name]!r}" + (f" beside {others}" if others else "")
