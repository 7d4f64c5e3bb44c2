"""The files of a sweep folder, which anybody may have written, read without trusting their size, depth or types."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from .tables import configured

MOST_BYTES = 4_000_000
"""Of one file; a sweep's own have a few thousand, and with thousands of `points` a few hundred thousand."""

MOST_NODES = 30_000
"""Values, keys and brackets of a sweep.yaml."""

DEEPEST = 30
"""Mappings and lists within one another."""


def read_mapping(path: Path, warnings: list[str]) -> dict[str, Any]:
    """The content of a JSON or YAML file, `clean`; empty, with a warning, where there is none that can be used."""
    try:
        if not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        text = raw.decode("utf-8")
        content = json.loads(text) if path.suffix == ".json" else _yaml(text)
        if not isinstance(content, Mapping):
            raise ValueError("it holds no keys")
        return dict(clean(content))
    except FileNotFoundError:
        warnings.append(f"{path.name} is missing")
    except RecursionError:
        warnings.append(f"{path.name} cannot be read (it is nested too deep)")
    except (OSError, ValueError, YAMLError) as error:
        warnings.append(f"{path.name} cannot be read ({str(error).splitlines()[0][:200]})")
    return {}


def clean(value: Any, depth: int = 0) -> Any:
    """The same content in JSON's types and in text that can be written; numbers that are not finite become None.

    Raises:
        ValueError: it is nested too deep, or holds a whole number of more than 64 bits.
    """
    if depth > DEEPEST:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    if isinstance(value, Mapping):
        return {clean(str(key)): clean(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean(item, depth + 1) for item in value]
    if isinstance(value, str):
        # JSON can spell halves of a character, which no file can hold.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("it holds a whole number of more than 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def printable(text: str) -> str:
    """A text that cannot give orders to a terminal: control characters become �."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", text)


def _yaml(text: str) -> Any:
    """Looked through before it is built: a few lines of aliases can stand for gigabytes."""
    depth = 0
    for number, event in enumerate(YAML(typ="safe").parse(text)):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise ValueError("it holds an alias (*name), which no sweep.yaml does")
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
        if number > MOST_NODES:
            raise ValueError(f"it holds more than {MOST_NODES:,} values")
    return YAML(typ="safe").load(text)


def _number(value: Any, least: float, most: float = 1e15) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _count(value: Any) -> bool:
    return isinstance(value, int) and _number(value, 1, 10**6)


_SECTIONS = ("corpus", "model", "training", "parameters", "early_terminate", "budget", "resources")
_RULES: dict[str, Callable[[Any], bool]] = {
    "description": lambda value: isinstance(value, str),
    "seeds": _count,
    "run_cap": _count,
    "training.epochs": _count,
    "early_terminate.min_iter": _count,
    "early_terminate.max_iter": _count,
    "early_terminate.s": _count,
    "early_terminate.eta": lambda value: _number(value, 1.01, 1e6),
    "early_terminate.within": lambda value: isinstance(value, str),
    "parameters": lambda value: all(isinstance(rule, Mapping) for rule in value.values()),
    "budget.wall": lambda value: _number(value, 0),
    "budget.device_hours": lambda value: _number(value, 0),
    "budget.epochs": lambda value: _number(value, 1),
    "resources.cpus_per_trial": lambda value: _number(value, 0),
    "resources.gpus_per_trial": lambda value: _number(value, 0),
}
"""What this package relies on in a sweep.yaml. The sweep's own classes check more, and bring torch."""


def well_formed(spec: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """A sweep.yaml without those of its keys that do not hold what a sweep has there; a warning for each."""
    wrong = [key for key in _SECTIONS if spec.get(key) is not None and not isinstance(spec[key], Mapping)]
    kept = {key: value for key, value in spec.items() if key not in wrong}
    found = {path: configured(kept, path) for path in _RULES}
    wrong += [path.partition(".")[0] for path, value in found.items() if value is not None and not _RULES[path](value)]
    warnings += [f"sweep.yaml: `{key}` is not what a sweep has there, left out" for key in dict.fromkeys(wrong)]
    return {key: value for key, value in spec.items() if key not in wrong}
