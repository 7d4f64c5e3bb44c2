"""The base configuration as a tree: its dotted paths, the shorthands of the file, values put in and looked up."""

import copy
import dataclasses
from collections.abc import Iterable
from typing import Any, Final

from tune_newllm.data.config import CorpusConfig
from tune_newllm.models.config import ModelConfig
from tune_newllm.training.config import Configuration, TrainingConfig

SECTIONS: dict[str, type] = {"corpus": CorpusConfig, "model": ModelConfig, "training": TrainingConfig}
"""The base configuration's top-level keys."""
SHORTHANDS = {"training.clip": "schedule", "training.lr_schedule": "name"}
"""Sections that a single word may stand for: `clip: none` is {schedule: none}."""
SWITCHES = {"training.early_stopping"}
"""Sections that the word `none` turns off."""


class Absent:
    """What stands at a path without a value, such as the patience of `early_stopping: none`."""


ABSENT: Final = Absent()


def paths() -> list[str]:
    """Every dotted path of the base configuration, sections such as `training.clip` included."""

    def below(kind: type, prefix: str) -> Iterable[str]:
        for field in dataclasses.fields(kind):
            yield f"{prefix}.{field.name}"
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
            if dataclasses.is_dataclass(default):
                yield from below(type(default), f"{prefix}.{field.name}")

    return [path for section, kind in SECTIONS.items() for path in below(kind, section)]


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Set the value of a dotted path, making the mappings on the way."""
    *parents, last = path.split(".")
    for depth, key in enumerate(parents, 1):
        if not isinstance(tree.get(key), dict):
            tree[key] = expand_section(".".join(parents[:depth]), tree.get(key)) or {}
        tree = tree[key]
    tree[last] = copy.deepcopy(value)


def look_up(configuration: Any, path: str) -> Any:
    """The value at a dotted path of a configuration, `ABSENT` where there is none: below a section turned off."""
    for key in path.split("."):
        configuration = getattr(configuration, key, ABSENT)
    return configuration


def look_inside(section: str, value: Any, path: str) -> Any:
    """The value at `path` where `value`, as the file would write it, stands at `section`: the path itself or one above.

    Keys that a mapping does not give have their defaults.
    """
    found = expand_section(section, value)
    for key in path.removeprefix(section).split(".")[1:]:
        if not isinstance(found, dict):
            return ABSENT
        if key not in found:
            return look_up(Configuration(), path)
        found = found[key]
    return found


def expand(section: str, value: Any) -> Any:
    """Shorthands of one top-level section as the mappings they stand for."""
    if not isinstance(value, dict):
        return value
    return {key: expand_section(f"{section}.{key}", child) for key, child in value.items()}


def expand_section(path: str, value: Any) -> Any:
    """`clip: none` is {schedule: none}, `lr_schedule: cosine` is {name: cosine}, `early_stopping: none` is null."""
    if path in SWITCHES:
        return none_to_null(value)
    if path not in SHORTHANDS or isinstance(value, dict):
        return value
    return {SHORTHANDS[path]: "none" if value is None else value}


def none_to_null(value: Any) -> Any:
    """The word `none` where a key may be turned off."""
    return None if value == "none" else value
