"""Sweep files written for W&B Sweeps, read as far as they mean something here; the rest is named in warnings."""

from typing import Any

from tune_newllm.errors import SpecError
from tune_newllm.sweep import refusal
from tune_newllm.sweep.names import NAMES, path_of
from tune_newllm.sweep.rules import NOT_SEARCHED
from tune_newllm.sweep.source import Location, Source
from tune_newllm.sweep.tree import SECTIONS, paths, put

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
COMMON = {"description", "method", "metric", "parameters", "early_terminate", "run_cap"}
"""Top-level keys that W&B and this grammar share; every file of W&B's has `method`."""
IGNORED_KEYS = {
    "metric": {
        "target": "no trial ends the sweep",
        "impute": "failed trials are told as failed",
        "impute_while_running": "running trials are told as running",
    },
    "early_terminate": {"strict": "ASHA decides at each rung"},
}
"""Keys of W&B inside sections that this grammar has too."""


def adopt(source: Source, warnings: list[str]) -> dict[str, str]:
    """Take out what only W&B understands and give parameters their paths; each change is a warning.

    Returns:
        Other names -> the paths they stand for in this file; none unless it was written for W&B.

    Raises:
        SpecError: none of a W&B file's parameters means anything here.
    """

    def warn(at: Location, text: str) -> None:
        warnings.append(refusal.line(source.where(at), text))

    for section, keys in IGNORED_KEYS.items():
        held = source.values.get(section)
        for key in [key for key in keys if isinstance(held, dict) and key in held]:
            warn((section, key), f"`{section}.{key}` is ignored: {keys[key]}")
            del source.values[section][key]
    if not _is_foreign(source.values):
        return {}
    for key in [key for key in source.values if key in ONLY_WANDB]:
        warn((key,), f"`{key}` is ignored: {ONLY_WANDB[key]}")
        del source.values[key]
    _judge_by_val_loss(source, warn)
    return NAMES | _name_paths(source, warn)


def _is_foreign(values: dict[str, Any]) -> bool:
    """Whether a file was written for W&B: by its keys, or because all its parameters have bare names and it has no
    section of ours. `name` alone, which people write anywhere, does not make it one."""
    if values.keys() & ONLY_WANDB.keys() - {"name"}:
        return True
    parameters = values.get("parameters")
    bare = isinstance(parameters, dict) and parameters.keys() & NAMES.keys() and not any("." in n for n in parameters)
    return bool(bare) and ("name" in values or ("method" in values and values.keys() <= COMMON))


def _judge_by_val_loss(source: Source, warn: Any) -> None:
    metric = source.values.get("metric")
    if not isinstance(metric, dict):
        return
    name, goal = metric.get("name", "val_loss"), metric.get("goal", "minimize")
    if (name, goal) != ("val_loss", "minimize"):
        warn(("metric",), f"`metric` is replaced: trials are judged by their lowest val_loss, not {name!r} ({goal})")
        del source.values["metric"]


def _name_paths(source: Source, warn: Any) -> dict[str, str]:
    """Names of parameters as the paths that they stand for; returns which became which."""
    parameters = source.values.get("parameters")
    if not isinstance(parameters, dict):
        return {}
    named: dict[str, Any] = {}
    moves: dict[Location, Location] = {}
    renamed: dict[str, str] = {}
    ignored = set()
    for name, child in parameters.items():
        at, path, place = ("parameters", name), _meant(name), None
        if path is None:
            warn(at, f"`{name}` is ignored: it names nothing here, or more than one thing")
        elif path in renamed.values() or (path != name and path in parameters):
            warn(at, f"`{name}` is ignored: `{path}` is given by another name")
        else:
            if path != name:
                warn(at, f"`{name}` is read as `{path}`")
            renamed[name] = path
            place = _placed(source, named, path, child, warn, at)
        if place is None:
            ignored.add(name)
        else:
            moves[at] = place
    if parameters and len(ignored) == len(parameters):
        known = "learning_rate or training.lr"
        raise SpecError(f"{source.where(('parameters',))}: none of the parameters means anything here; name {known}")
    source.values["parameters"] = named
    _rename_elsewhere(source, NAMES | renamed, ignored, moves)
    source.relocate(moves)
    return renamed


def _meant(name: str) -> str | None:
    """A path for a parameter's name. What has dots and stands for no path is kept, to be refused as a misspelling."""
    ours = name in paths() or name.startswith(tuple(f"{section}." for section in SECTIONS))
    return name if ours else path_of(name) or (name if "." in name else None)


def _rename_elsewhere(
    source: Source, names: dict[str, str], ignored: set[str], moves: dict[Location, Location]
) -> None:
    """Parameters' names in `points`, `balanced`, `early_terminate.within` and `when`."""
    values = source.values
    points = values.get("points")
    points = points if isinstance(points, list) else []
    for index, point in enumerate(points):
        if isinstance(point, dict):
            moves |= {("points", index, name): ("points", index, names[name]) for name in point if name in names}
            points[index] = {names.get(name, name): value for name, value in point.items() if name not in ignored}
    for holder, key in ((values, "balanced"), (values.get("early_terminate"), "within")):
        if isinstance(holder, dict) and isinstance(holder.get(key), str):
            holder[key] = names.get(holder[key], holder[key])
    for child in values["parameters"].values():
        if isinstance(child, dict) and isinstance(child.get("when"), dict):
            child["when"] = {names.get(name, name): wanted for name, wanted in child["when"].items()}


def _placed(source: Source, named: dict[str, Any], path: str, child: Any, warn: Any, at: Location) -> Location | None:
    """Put a parameter where it belongs, and say where: what cannot be searched goes into the base configuration, or is
    ignored (None)."""
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
            return None
    named[path] = child
    return "parameters", path


def _largest(child: dict[str, Any]) -> Any:
    """The largest of a parameter's values or its upper bound; None where there is no such number."""
    values = child.get("values", [child.get("max")])
    numbers = isinstance(values, list) and values and all(isinstance(value, int | float) for value in values)
    return max(values) if numbers else None
