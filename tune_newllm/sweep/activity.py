"""Which parameters exist in a configuration, and in which order they must be chosen."""

from collections.abc import Container, Mapping
from typing import Any

from tune_newllm.sweep.space import Parameter
from tune_newllm.sweep.tree import ABSENT, look_inside, look_up
from tune_newllm.training.config import Configuration

Parameters = Mapping[str, Parameter]


def giver(path: str, names: Container[str]) -> str | None:
    """Which name gives a path its value: the path itself or the section around it; None where the base does."""
    while "." in path:
        if path in names:
            return path
        path = path.rpartition(".")[0]
    return None


def parents(path: str, parameters: Parameters) -> list[str]:
    """The parameters on which a parameter's existence hangs directly."""
    givers = (giver(asked, parameters) for asked in parameters[path].when)
    return list(dict.fromkeys(name for name in givers if name is not None))


def ordered(parameters: Parameters) -> list[str]:
    """Parents before children, else as the file has them; without those whose conditions run in a circle."""
    placed: list[str] = []
    while True:
        ready = (p for p in parameters if p not in placed and all(q in placed for q in parents(p, parameters)))
        path = next(ready, None)
        if path is None:
            return placed
        placed.append(path)


def is_active(path: str, values: Mapping[str, Any], parameters: Parameters, base: Configuration) -> bool:
    """Whether a parameter exists beside these values of searched ones.

    A condition on a parameter that does not exist itself, or that has no value yet, does not hold.
    """

    def found(asked: str) -> Any:
        name = giver(asked, parameters)
        if name is None:
            return look_up(base, asked)
        constant = parameters[name].is_constant
        if (name not in values and not constant) or not is_active(name, values, parameters, base):
            return ABSENT
        return look_inside(name, parameters[name].value if constant else values[name], asked)

    return all(condition.holds(found(asked)) for asked, condition in parameters[path].when.items())
