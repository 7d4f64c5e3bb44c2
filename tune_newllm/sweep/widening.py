"""A grid that goes on beyond its edge where the best value lies on it: `widen` of a parameter."""

import json
from collections.abc import Iterable
from typing import Any

from tune_newllm.sweep.history import Suggestion
from tune_newllm.sweep.spec import SweepSpec

ENDED = {"completed", "diverged", "infeasible", "crashed", "failed"}
"""States after which a configuration has nothing more to say; one that was stopped has no final loss."""


def widened(spec: SweepSpec, suggestions: Iterable[Suggestion]) -> dict[str, Any] | None:
    """The next configuration beyond the edge of the grid (values by path), None while or where there is none.

    The configurations that differ in the widened parameter alone are a group. Once all of the grid in a group have
    ended, and the value with the lowest loss (the mean over its seeds) is the lowest or the highest of the group, the
    value beyond it is next; its result may ask for another one. Only a completed configuration can be the best one.
    It depends on nothing but how the suggestions stand.
    """
    path = widened_path(spec)
    if path is None:
        return None
    groups: dict[str, dict[float, Suggestion]] = {}
    for suggestion in suggestions:
        if path in suggestion.parameters:
            others = {key: value for key, value in suggestion.parameters.items() if key != path}
            groups.setdefault(json.dumps(others, sort_keys=True), {})[suggestion.parameters[path]] = suggestion
    for name, group in groups.items():
        if (value := _beyond_best(spec, path, group)) is not None:
            return {**json.loads(name), path: value}
    return None


def widened_path(spec: SweepSpec) -> str | None:
    """The parameter whose grid may be widened."""
    return next((path for path, parameter in spec.searched.items() if parameter.widen), None)


def most_widened(spec: SweepSpec, configurations: Iterable[dict[str, Any]]) -> int:
    """How many configurations widening adds at most to those of the grid.

    In a group one edge alone can be the best one: a value added beyond it that is no better leaves it the best, now
    inside.
    """
    path = widened_path(spec)
    if path is None:
        return 0
    groups = {json.dumps({**each, path: None}, sort_keys=True) for each in configurations if path in each}
    return len(groups) * (spec.searched[path].widen or 0)


def _beyond_best(spec: SweepSpec, path: str, group: dict[float, Suggestion]) -> float | None:
    """The next value of one group; where both edges are equally good, the one below."""
    parameter = spec.searched[path]
    states = {suggestion.state for suggestion in group.values()}
    if not set(parameter.values or ()) <= group.keys() or not states <= ENDED:
        return None
    losses = {value: each.value for value, each in group.items() if each.state == "completed"}
    known = {value: loss for value, loss in losses.items() if loss is not None}
    best = {value for value, loss in known.items() if loss == min(known.values())}
    edges = (min(group), max(group))
    if not best <= set(edges):
        return None
    sides = [side for edge, side in zip(edges, parameter.beyond, strict=True) if edge in best]
    return next((value for side in sides for value in side if value not in group), None)
