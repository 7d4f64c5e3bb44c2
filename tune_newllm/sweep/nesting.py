"""Nested `parameters`, W&B's way to group names: flattened to dotted paths."""

from typing import Any

from tune_newllm.errors import SpecError
from tune_newllm.sweep.document import possible_key
from tune_newllm.sweep.source import Location, Source


def flatten(source: Source) -> None:
    """Write `training: {parameters: {lr: ...}}` as `training.lr: ...`, each still known by its line.

    Raises:
        SpecError: a group has keys beside `parameters`, or two spellings name the same path.
    """
    parameters = source.values.get("parameters")
    if not isinstance(parameters, dict):
        return
    flat: dict[str, Any] = {}
    moves: dict[Location, Location] = {}

    def walk(group: dict[str, Any], prefix: str, at: Location) -> None:
        for name, child in group.items():
            path, here = f"{prefix}{name}", (*at, name)
            if not possible_key(path):
                raise SpecError(f"{source.where(here)}: `{path}` is too long for a path of the configuration")
            if isinstance(child, dict) and "parameters" in child:
                walk(_inside(source, child, path, here), f"{path}.", (*here, "parameters"))
            elif path in flat:
                raise SpecError(f"{source.where(here)}: `{path}` is given twice; keep one")
            else:
                flat[path] = child
                moves[here] = ("parameters", path)

    walk(parameters, "", ("parameters",))
    source.values["parameters"] = flat
    source.relocate(moves)


def _inside(source: Source, group: dict[str, Any], path: str, here: Location) -> dict[str, Any]:
    others = [key for key in group if key != "parameters"]
    if others:
        raise SpecError(
            f"{source.where((*here, others[0]))}: `parameters` under `{path}` only joins names and stands alone, "
            f"got `{others[0]}` beside it; write that at each of them"
        )
    inner = group["parameters"]
    if not isinstance(inner, dict) or not inner:
        rule = f"`parameters` under `{path}` must be a mapping of one or more names"
        raise SpecError(f"{source.where(here)}: {rule}, got {inner!r}")
    return inner
