"""What was searched, and what was held fixed."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..best import best
from ..differences import range_words
from ..load import Sweep
from ..markdown import bullets, code, plain, table
from ..tables import absent, configured
from ..words import counted, cut, digits, duration, label, shown

LONGEST_VALUE = 80

_SECTIONS = ("corpus", "model", "training")


def settings(sweep: Sweep, defaults: Mapping[str, Any]) -> list[str]:
    """Tables of the searched settings and of the others.

    Args:
        defaults: of `corpus`, `model` and `training`; what equals them is left out. Empty: nothing is.
    """
    made = ["## Settings"]
    if searched := _searched(sweep):
        made += [searched]
    if search := _search(sweep):
        made += [bullets(search)]
    return made + fixed_settings(sweep, defaults)


def fixed_settings(sweep: Sweep, defaults: Mapping[str, Any]) -> list[str]:
    """A table of what is not searched."""
    if not sweep.spec:
        return ["The file of settings is missing or cannot be read, so they are not known."]
    rows = list(_fixed(sweep, defaults))
    if not rows:
        return ["All else is the default."] if defaults else []
    what = "Fixed, where it is not the default:" if defaults else "Fixed:"
    head = ["setting", "value", *(["default"] if defaults else [])]
    return [what, table(head, [row[: len(head)] for row in rows], [False] * len(head))]


def _searched(sweep: Sweep) -> str:
    rules = sweep.spec.get("parameters") or {}
    first = best(sweep, 1).trials.to_dict("records")
    rows = []
    for path in sweep.searched:
        text = range_words(rules[path]).removeprefix("searched: ") if path in rules else "not in sweep.yaml"
        value = shown(first[0][path]) if first and not absent(first[0][path]) else ""
        rows.append([code(path), plain(cut(text, LONGEST_VALUE)), plain(cut(value, LONGEST_VALUE))])
    return table(["searched", "range", "best"], rows, [False, False, True]) if rows else ""


def _search(sweep: Sweep) -> list[str]:
    """How it was searched."""
    spec, said = sweep.spec, []
    if isinstance(method := spec.get("method"), str):
        asked = spec.get("run_cap")
        cap = f", {counted(asked, 'configuration')}" if isinstance(asked, int) else ""
        seeds = f", {sweep.seeds} seeds of each" if sweep.seeds > 1 else ""
        said.append(f"Method {plain(method)}{cap}{seeds}.")
    if isinstance(path := spec.get("balanced"), str):
        said.append(f"Trials were dealt evenly over the {plain(label(path))}.")
    rule = spec.get("early_terminate")
    if isinstance(rule, Mapping):
        parts = [f"{plain(key.replace('_', ' '))} {plain(shown(value))}" for key, value in rule.items()
                 if value is not None and key != "type"]  # fmt: skip
        said.append(f"Early stopping by {plain(shown(rule.get('type') or 'asha'))}: {', '.join(parts)}.")
    limits = spec.get("budget")
    known = {key: value for key, value in limits.items() if value} if isinstance(limits, Mapping) else {}
    if known:
        parts = [duration(value) if key == "wall" else f"{digits(value)} {plain(key.replace('_', ' '))}"
                 for key, value in known.items()]  # fmt: skip
        said.append(f"Budget: {', '.join(parts)}.")
    points = spec.get("points")
    if isinstance(points, list) and points:
        said.append(f"{counted(len(points), 'configuration')} given to be tried first.")
    return said


def _fixed(sweep: Sweep, defaults: Mapping[str, Any]) -> Iterator[list[str]]:
    """Path, value and default of what is not searched."""
    rules = sweep.spec.get("parameters") or {}
    constant = {path: rule for path, rule in rules.items() if isinstance(rule, Mapping) and "value" in rule}
    for section in _SECTIONS:
        for path in _leaves(sweep.spec.get(section), section):
            value, usual = configured(sweep.spec, path), configured(defaults, path)
            hidden = any(path == each or path.startswith(f"{each}.") for each in sweep.searched)
            if not hidden and (value != usual if defaults else value is not None):
                yield [code(path), *(plain(cut(shown(each), LONGEST_VALUE)) for each in (value, usual))]
        for path, rule in constant.items():
            if path.startswith(f"{section}."):
                texts = (range_words(rule), shown(configured(defaults, path)))
                yield [code(path), *(plain(cut(text, LONGEST_VALUE)) for text in texts)]


def _leaves(content: Any, prefix: str) -> Iterator[str]:
    if not isinstance(content, Mapping):
        return
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}"
