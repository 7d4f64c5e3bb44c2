"""Where the best value of a setting lies at the end of what was searched, and the search that goes on beyond."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..best import best
from ..data_law import DATA
from ..load import Sweep
from ..words import label, shown
from .bounds import Bounds, bounds, divides
from .step import Step, search, setting

AT_EDGE = 0.05
"""Share of a range from its end within which a best value lies on the edge."""
WIDER = 4.0
"""Times a logarithmic range goes on beyond the edge; a linear one by half its width."""


def widenings(sweep: Sweep) -> Iterator[Step]:
    """The best value of a numeric parameter at the end of what was tried."""
    ranking = best(sweep, 1)
    if not ranking.full_fidelity:
        return
    # As Python's own numbers, which numpy's are not.
    row = {str(name): value for name, value in ranking.trials.to_dict("records")[0].items()}
    rules = sweep.spec.get("parameters") or {}
    # Of data more is always better; its own law says by how much.
    for path in (path for path in sweep.searched if path != DATA):
        value, rule = row[path], rules.get(path)
        if (
            isinstance(value, int | float)
            and not isinstance(value, bool)
            and value == value
            and isinstance(rule, Mapping)
        ):
            wider = _wider(sweep, path, rule, row)
            if wider is None:
                continue
            edge, options = wider
            said = f"The best {label(path)}, {shown(value)}, is the {edge} that was searched."
            settings = [setting(f"parameters.{path}.{key}", given) for key, given in options.items()]
            yield Step(
                f"{said} Widen the search beyond it.", search(sweep, f"wider-{path.rpartition('.')[2]}", *settings)
            )


def _wider(
    sweep: Sweep, path: str, rule: Mapping[str, Any], row: Mapping[str, Any]
) -> tuple[str, dict[str, Any]] | None:
    """Which edge the best value lies on, and what the parameter's rule becomes; None where nothing lies beyond."""
    allowed = bounds(sweep, path, row)
    if isinstance(rule.get("values"), list):
        return _wider_list(rule, row[path], lambda value: allowed.hold(value) and divides(sweep, path, value, row))
    return _wider_range(rule, row[path], allowed)


def _wider_list(
    rule: Mapping[str, Any], value: float, allowed: Callable[[float], bool]
) -> tuple[str, dict[str, Any]] | None:
    """The two values at the edge and two beyond it, in the same ratio, of which those that are allowed."""
    values = sorted({each for each in rule["values"] if isinstance(each, int | float) and not isinstance(each, bool)})
    if len(values) < 3 or len(values) < len(rule["values"]) or value not in (values[0], values[-1]):
        return None
    low = value == values[0]
    near, inner = (values[0], values[1]) if low else (values[-1], values[-2])
    if near <= 0 or inner <= 0:
        return None
    beyond = [near * (near / inner) ** power for power in (1, 2)]
    if all(isinstance(each, int) for each in values):
        beyond = [round(each) for each in beyond if round(each) >= 1]
    else:
        beyond = [float(f"{each:.3g}") for each in beyond]
    wanted = sorted({inner, near, *filter(allowed, beyond)})
    return ("lowest" if low else "highest", {"values": wanted}) if len(wanted) > 2 else None


def _wider_range(rule: Mapping[str, Any], value: float, allowed: Bounds) -> tuple[str, dict[str, Any]] | None:
    low, high = rule.get("min"), rule.get("max")
    if not isinstance(low, int | float) or not isinstance(high, int | float) or not low < high:
        return None
    log = "log" in str(rule.get("distribution")) and low > 0
    place = math.log(value / low) / math.log(high / low) if log and value > 0 else (value - low) / (high - low)
    if AT_EDGE < place < 1 - AT_EDGE:
        return None
    upper = place >= 0.5
    if not upper and low <= 0:
        return None
    if log:
        inner, outer = (high / WIDER, high * WIDER) if upper else (low * WIDER, low / WIDER)
    else:
        half = (high - low) / 2
        inner, outer = (high - half, high + half) if upper else (low + half, low - half)
    edge, whole = high if upper else low, all(isinstance(end, int) for end in (low, high))
    # A setting that is counted is at least 1.
    outer = allowed.reached(edge, max(1, outer) if whole else outer)
    beyond = round(outer) if whole else _rounded(outer, allowed)
    if beyond == edge or not allowed.hold(beyond):
        return None
    span = sorted([max(1, round(inner)) if whole else float(f"{inner:.3g}"), beyond])
    return ("highest" if upper else "lowest") + " or near it", dict(zip(("min", "max"), span, strict=True))


def _rounded(value: float, allowed: Bounds) -> float:
    """In as few digits as can be allowed: 0.9995 is 1 in three."""
    shorter = (float(f"{value:.{digits}g}") for digits in (3, 4, 6, 9))
    return next((each for each in shorter if allowed.hold(each)), value)
