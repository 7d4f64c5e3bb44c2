"""Sweep files written for W&B Sweeps, read as far as they mean something here; the rest is named in warnings."""

from typing import Any

from tune_newllm.sweep.names import path_of
from tune_newllm.sweep.rules import NOT_SEARCHED
from tune_newllm.sweep.source import Location, Source
from tune_newllm.sweep.tree import put

ONLY_WANDB = {
    "program": "the program is tune_newllm",
    "command": "the program is tune_newllm",
    "name": "--name gives the sweep its name",
    "project": "nothing is sent anywhere",
    "entity": "nothing is sent anywhere",
    "controller": "the sweep runs on this machine, or where resources.address says",
    "kind": "every file is a sweep",
    "job": "the program is tune_newllm",
    "image_uri": "trials run in this Python",
    "apiVersion": "there is one version",
    "scheduler": "Ray schedules, `resources` says with what",
    "metrics": "trials are judged by val_loss alone",
}
"""Top-level keys that a file has only when it was written for W&B, and why each is ignored."""
IGNORED_KEYS = {
    "metric": {
        "target": "no trial ends the sweep",
        "impute": "failed trials are told as failed",
        "impute_while_running": "running trials are told as running",
    },
    "early_terminate": {"strict": "ASHA decides at each rung"},
}
"""Keys of W&B inside sections that this grammar has too."""


def adopt(source: Source, warnings: list[str]) -> None:
    """Take out what only W&B understands and give parameters their paths; each change is a warning."""

    def warn(at: Location, text: str) -> None:
        warnings.append(f"{source.where(at)}: {text}")

    for section, keys in IGNORED_KEYS.items():
        held = source.values.get(section)
        for key in [key for key in keys if isinstance(held, dict) and key in held]:
            warn((section, key), f"`{section}.{key}` is ignored: {keys[key]}")
            del source.values[section][key]
    foreign = [key for key in source.values if key in ONLY_WANDB]
    for key in foreign:
        warn((key,), f"`{key}` is ignored: {ONLY_WANDB[key]}")
        del source.values[key]
    if foreign:
        _judge_by_val_loss(source, warn)
        _name_paths(source, warn)


def _judge_by_val_loss(source: Source, warn: Any) -> None:
    metric = source.values.get("metric")
    if not isinstance(metric, dict):
        return
    name, goal = metric.get("name", "val_loss"), metric.get("goal", "minimize")
    if (name, goal) != ("val_loss", "minimize"):
        warn(("metric",), f"`metric` is replaced: trials are judged by their lowest val_loss, not {name!r} ({goal})")
        del source.values["metric"]


def _name_paths(source: Source, warn: Any) -> None:
    """Bare names of parameters as the paths that they stand for."""
    parameters = source.values.get("parameters")
    if not isinstance(parameters, dict):
        return
    named: dict[str, Any] = {}
    moves: dict[Location, Location] = {}
    for name, child in parameters.items():
        at, path = ("parameters", name), path_of(name)
        if path is None:
            warn(at, f"`{name}` is ignored: it names nothing here, or more than one thing")
        elif path in named or (path != name and path in parameters):
            warn(at, f"`{name}` is ignored: `{path}` is given by another name")
        else:
            if path != name:
                warn(at, f"`{name}` is read as `{path}`")
            moves[at] = _placed(source, named, path, child, warn, at)
    source.values["parameters"] = named
    source.relocate(moves)


def _placed(source: Source, named: dict[str, Any], path: str, child: Any, warn: Any, at: Location) -> Location:
    """Put a parameter where it belongs, and say where: what cannot be searched goes into the base configuration."""
    section = path.partition(".")[0]
    constant = isinstance(child, dict) and set(child) - {"distribution"} == {"value"}
    several = isinstance(child, dict) and not constant
    base = source.values.get(section, {})
    if isinstance(base, dict) and (path in NOT_SEARCHED or path.startswith("corpus.")):
        if constant:
            put(source.values, path, child["value"])
            return tuple(path.split("."))
        if several and path == "training.epochs" and _largest(child) is not None:
            put(source.values, path, _largest(child))
            warn(at, f"epochs are not searched: every trial may run the largest number, {_largest(child)}")
            return tuple(path.split("."))
        if several and path in NOT_SEARCHED and path != "training.epochs":
            warn(at, f"`{path}` is ignored, since it cannot be searched: {NOT_SEARCHED[path]}")
            return at
    named[path] = child
    return "parameters", path


def _largest(child: dict[str, Any]) -> Any:
    """The largest of a parameter's values or its upper bound; None where there is no such number."""
    values = child.get("values", [child.get("max")])
    numbers = isinstance(values, list) and values and all(isinstance(value, int | float) for value in values)
    return max(values) if numbers else None
