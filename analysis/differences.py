"""Which settings differ between sweeps."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .load import Sweep
from .words import cut, digits, shown

LONGEST_SETTING = 120
"""Characters of a setting that a table shows."""

_UNCOMPARED = ("name", "description", "parameters", "points")


class Difference(NamedTuple):
    path: str
    texts: list[str]
    """How each of the sweeps has it, empty where it has not, "not known" without a sweep file that can be read."""


def differences(sweeps: Sequence[Sweep]) -> list[Difference]:
    """The keys of the resolved sweep files that are not the same in all, in the order of the files.

    What extensions changed counts as changed; a searched key is described by its range.
    """
    found = [_settings(sweep) if sweep.spec else None for sweep in sweeps]
    paths = dict.fromkeys(path for settings in found if settings for path in settings)
    rows = [
        Difference(path, ["not known" if settings is None else settings.get(path, "") for settings in found])
        for path in paths
    ]
    return [row for row in rows if len({*row.texts} - {"not known"}) > 1]


def _settings(sweep: Sweep) -> dict[str, str]:
    kept = {key: value for key, value in sweep.spec.items() if key not in _UNCOMPARED}
    settings = dict(_flat(kept))
    for path, rule in (sweep.spec.get("parameters") or {}).items():
        settings[path] = range_words(rule)
    points = sweep.spec.get("points")
    settings["points"] = f"{len(points)} of them" if isinstance(points, list) and points else "none"
    return {path: cut(text, LONGEST_SETTING) for path, text in settings.items()}


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", shown(value)


def range_words(rule: Any) -> str:
    """A parameter's range in few words."""
    if not isinstance(rule, Mapping):
        return shown(rule)
    when = f", when {' and '.join(f'{p} is {_wanted(v)}' for p, v in _flat_when(rule))}" if rule.get("when") else ""
    if "value" in rule:
        return f"{shown(rule['value'])}{when}"
    if isinstance(rule.get("values"), list):
        return f"searched: {', '.join(map(shown, rule['values']))}{when}"
    low, high = rule.get("min"), rule.get("max")
    if isinstance(low, int | float) and isinstance(high, int | float):
        scale = " (log)" if "log" in str(rule.get("distribution")) else ""
        return f"searched: {digits(low)} to {digits(high)}{scale}{when}"
    return f"searched: {json.dumps(dict(rule), default=str)}"


def _wanted(value: Any) -> str:
    return " or ".join(map(shown, value)) if isinstance(value, list) else shown(value)


def _flat_when(rule: Mapping[str, Any]) -> list[tuple[str, Any]]:
    when = rule["when"]
    return list(when.items()) if isinstance(when, Mapping) else [("", when)]
