"""Whether each parameter with conditions (`when`) can exist at all, and beside which values."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import ValidationError

from tune_newllm.sweep import refusal
from tune_newllm.sweep.activity import giver, ordered, parents
from tune_newllm.sweep.conditions import Condition
from tune_newllm.sweep.space import Parameter
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.tree import look_inside, look_up, paths
from tune_newllm.training.config import Configuration


class Verdict(NamedTuple):
    """On the conditions of one parameter: what is wrong with them, and what is only worth saying."""

    faults: list[str]
    remarks: list[str]


def settings(path: str, spec: SweepSpec) -> Iterator[dict[str, Any]]:
    """Values of the parameters above `path` beside which it exists: the ends of every range that is asked for."""
    above = _above(path, spec)
    asked = [item for name in [*above, path] for item in spec.parameters[name].when.items()]

    def extend(values: dict[str, Any], rest: list[str]) -> Iterator[dict[str, Any]]:
        if not rest:
            if spec.is_active(path, values):
                yield values
        elif not spec.is_active(rest[0], values):
            yield from extend(values, rest[1:])
        else:
            on_it = [condition for where, condition in asked if where == rest[0]]
            for value in _telling(spec.parameters[rest[0]], on_it):
                yield from extend({**values, rest[0]: value}, rest[1:])

    return extend({}, [name for name in spec.order if name in above])


def circle(parameters: dict[str, Parameter]) -> list[str]:
    """Parameters each of which exists only when the next does, the last one being the first again; none as a rule."""
    placed = ordered(parameters)
    walk = [path for path in parameters if path not in placed][:1]
    while walk and walk[-1] not in walk[:-1]:
        walk.append(next(name for name in parents(walk[-1], parameters) if name not in placed))
    return walk[walk.index(walk[-1]) :] if walk else []


def verdict(path: str, spec: SweepSpec) -> Verdict:
    """What is to be said of a parameter's conditions, each for itself and then all together."""
    found = Verdict([], [])
    for asked, condition in spec.parameters[path].when.items():
        name = giver(asked, spec.parameters)
        if asked not in paths():
            near = refusal.nearest(asked, paths())
            found.faults.append(f"asks in `when` for `{asked}`, which is no path of the configuration{near}")
        elif name is not None and not spec.parameters[name].is_constant:
            _judge_searched(found, asked, condition, spec, name)
        else:
            fixed = look_up(spec.base, asked) if name is None else look_inside(name, spec.parameters[name].value, asked)
            _judge_fixed(found, asked, condition, spec, fixed)
    if not found.faults and not found.remarks and next(settings(path, spec), None) is None:
        absent = [name for name in _above(path, spec) if next(settings(name, spec), None) is None]
        if absent:
            found.remarks.append(f"never exists, because `{absent[0]}` does not")
        else:
            found.faults.append(f"can never exist: {spec.parameters[path].conditions}, which exclude each other")
    return found


def _judge_searched(found: Verdict, asked: str, condition: Condition, spec: SweepSpec, name: str) -> None:
    """A condition on a searched parameter, or on a key inside one."""
    takes = [look_inside(name, value, asked) for value in _telling(spec.parameters[name], [condition])]
    if not any(map(condition.holds, takes)):
        found.faults.append(f"can never exist: `{asked}` {condition}, but that is none of the values of `{name}`")
        return
    idle = [v for v in condition.values or [] if not any(map(Condition.model_validate(v).holds, takes))]
    if idle:
        found.remarks.append(f"asks in `when` for `{asked}` = {idle[0]!r}, which is none of the values of `{name}`")


def _judge_fixed(found: Verdict, asked: str, condition: Condition, spec: SweepSpec, fixed: Any) -> None:
    """A condition on a key that is the same in all trials."""
    if fixed == "auto":
        found.faults.append(f"asks in `when` for `{asked}`, which is auto until the sweep starts; give it a value")
        return
    for value in condition.values or []:
        try:
            spec.assembled({asked: value})
        except ValidationError as error:
            texts = [text for key, text in refusal.keyed(error, Configuration, "types") if key == asked]
            if texts:
                found.faults.append(f"asks in `when` for an impossible `{asked}`: it {texts[0]}")
                return
    if not condition.holds(fixed):
        found.remarks.append(f"never exists: `{asked}` {condition}, but the configuration has {fixed!r}")


def _above(path: str, spec: SweepSpec) -> list[str]:
    """The searched parameters on which a parameter's existence hangs, at whatever distance."""
    found: list[str] = []
    waiting = parents(path, spec.parameters)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.append(name)
            waiting += parents(name, spec.parameters)
    return [name for name in found if name in spec.searched]


def _telling(parameter: Parameter, conditions: list[Condition]) -> list[Any]:
    """Values that tell whether a mixture of conditions can hold: the ends of the range and of each condition."""
    found = list(parameter.extremes())
    for condition in conditions:
        if condition.values is None:
            found += parameter.ends(*condition.bounds)
        found += [value for value in condition.values or [] if parameter.contains(value)]
    return [value for index, value in enumerate(found) if value not in found[:index]]
