"""`when:` as the file writes it: what must hold of other paths for a parameter to exist."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, model_serializer, model_validator

from tune_newllm.sweep.tree import SHORTHANDS, SWITCHES, none_to_null

_FORMS = "a condition is a value, a list of values, or {min: ..., max: ...} with either or both"


class Condition(BaseModel):
    """What must hold of one path: its value is one of `values`, or a number in `min`..`max`, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: list[Any] | None = None
    min: float | None = None
    max: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, data: Any) -> Any:
        if isinstance(data, dict):
            if not data or not data.keys() <= {"min", "max"} or not all(map(is_number, data.values())):
                raise ValueError(f"{_FORMS}, got {data!r}")
            if data.get("min", -math.inf) > data.get("max", math.inf):
                raise ValueError(f"`min` <= `max` must hold, got min {data['min']:g}, max {data['max']:g}")
            return data
        values = data if isinstance(data, list) else [data]
        if not values or any(isinstance(value, dict | list) for value in values):
            raise ValueError(f"{_FORMS}, got {data!r}")
        return {"values": values}

    @model_serializer
    def _write(self) -> Any:
        if self.values is not None:
            return self.values
        return {key: bound for key, bound in (("min", self.min), ("max", self.max)) if bound is not None}

    def holds(self, value: Any) -> bool:
        """Whether a value satisfies the condition."""
        if self.values is not None:
            return any(same(value, wanted) for wanted in self.values)
        low, high = self.bounds
        return is_number(value) and low <= value <= high

    @property
    def bounds(self) -> tuple[float, float]:
        """The range, infinite where a side is open."""
        return -math.inf if self.min is None else self.min, math.inf if self.max is None else self.max

    def __str__(self) -> str:
        if self.values is not None:
            return "is " + " or ".join("none" if value is None else str(value) for value in self.values)
        if self.min is None or self.max is None:
            return f"is at most {self.max:g}" if self.min is None else f"is at least {self.min:g}"
        return f"lies in {self.min:g}..{self.max:g}"


def normalised(when: Any) -> Any:
    """The mapping under `when` with shorthands spelled out: `training.clip: none` asks for `training.clip.schedule`.

    Raises:
        ValueError: it is no mapping, empty, asks for a path twice, or for a range of a section.
    """
    if not isinstance(when, dict) or not when:
        raise ValueError(f"`when` is a mapping of paths to values, such as {{model.init: he}}, got {when!r}")
    found: dict[str, Any] = {}
    for path, wanted in when.items():
        if isinstance(wanted, dict) and path in {*SHORTHANDS, *SWITCHES}:
            raise ValueError(f"`when` asks for a range of `{path}`, which is a section; ask for a key inside it")
        if path in SHORTHANDS:
            path = f"{path}.{SHORTHANDS[path]}"
            wanted = ["none" if value is None else value for value in wanted] if isinstance(wanted, list) else wanted
            wanted = "none" if wanted is None else wanted
        elif path in SWITCHES:
            wanted = [none_to_null(value) for value in wanted] if isinstance(wanted, list) else none_to_null(wanted)
        if path in found:
            raise ValueError(f"`when` asks for `{path}` twice")
        found[path] = wanted
    return found


def is_number(value: Any) -> bool:
    """A finite number; YAML's true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def same(one: Any, other: Any) -> bool:
    """Equal as the file sees it: 1 and 1.0 are, 1 and true are not."""
    return isinstance(one, bool) == isinstance(other, bool) and one == other
