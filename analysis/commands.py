"""Commands about one trial, in pieces that a page puts together for any of many trials."""

import json
import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from .load import Sweep
from .tables import configured

PROGRAM = "python -m tune_newllm"


def written(value: Any) -> str:
    """A parameter's value as `--set` reads it: YAML that gives the same value again, on one line.

    Tables hold lists and mappings as JSON text, which stays as it is.
    """
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int | float):
        return str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(value)
    text = str(value)
    return text if _is_plain(text) or _is_json(text) else json.dumps(text, ensure_ascii=False)


def word(value: Any) -> str:
    """The same quoted for a shell."""
    return shlex.quote(written(value))


def _is_plain(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z][\w-]*", text, re.ASCII)) and text.lower() not in ("true", "false", "null")


def _is_json(text: str) -> bool:
    try:
        return text[:1] in ("{", "[") and isinstance(json.loads(text), dict | list)
    except ValueError:
        return False


def setting(path: str) -> str:
    """The piece before the value of a setting; a shell joins the two halves."""
    return f" --set {shlex.quote(path)}="


def export_pieces(sweep: Sweep) -> tuple[str, str]:
    """What stands before the trial's name and between it and the same name again."""
    target = shlex.quote(f"exports/{sweep.name}-")
    return f"{PROGRAM} export {shlex.quote(str(sweep.folder))} --trial ", f" --to {target}"


def training_pieces(sweep: Sweep) -> tuple[str, str]:
    """What stands before the settings of a trial, and between them and its name."""
    file = shlex.quote(str(sweep.folder / "sweep.yaml"))
    target = shlex.quote(f"runs/{sweep.name}-")
    return f"{PROGRAM} train {file}", f" --to {target}"


def constants(sweep: Sweep, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a trial was given besides its searched values and its seed, which `train` would not give it.

    These are the parameters of the sweep file with one value, where their conditions hold for the trial, and the
    epochs that an extension set.
    """
    rules = sweep.spec.get("parameters") or {}
    found = {
        path: rule["value"]
        for path, rule in rules.items()
        if isinstance(rule, Mapping) and "value" in rule and _exists(sweep, rule, parameters)
    }
    epochs = configured(sweep.spec, "training.epochs")
    if epochs != configured(sweep.written, "training.epochs") and "training.epochs" not in {*found, *parameters}:
        found["training.epochs"] = epochs
    return found


def _exists(sweep: Sweep, rule: Mapping[str, Any], parameters: Mapping[str, Any]) -> bool:
    """Whether the `when` of a resolved sweep file holds: its conditions are lists of values, or ranges."""

    def holds(path: str, wanted: Any) -> bool:
        value = parameters.get(path, configured(sweep.spec, path))
        if isinstance(wanted, Mapping):
            low, high = wanted.get("min", -math.inf), wanted.get("max", math.inf)
            return isinstance(value, int | float) and low <= value <= high
        return value in wanted

    return all(holds(path, wanted) for path, wanted in (rule.get("when") or {}).items())
