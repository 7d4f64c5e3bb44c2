"""Which distributions there are, which keys each takes, and what those keys may say: W&B Sweeps' parameter grammar."""

import json
import math
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal, get_args

from tune_newllm.sweep.conditions import is_number, same

Distribution = Literal[
    "constant", "categorical", "categorical_w_probabilities", "uniform", "int_uniform", "q_uniform",
    "log_uniform", "log_uniform_values", "q_log_uniform", "q_log_uniform_values", "inv_log_uniform",
    "inv_log_uniform_values", "normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta",
]  # fmt: skip
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)
LARGEST_EXPONENT = 50
LEAST_WIDENED = 3
"""Values that a grid needs for one of them to lie inside it."""
MOST_SIGMAS = 6.0
"""Further from its mean no normal number is drawn (`space.RAREST`)."""


def keys(distribution: str) -> tuple[set[str], set[str]]:
    """(needed, further allowed) keys of a distribution."""
    if distribution == "constant":
        return {"value"}, set()
    if distribution.startswith("categorical"):
        return (
            ({"values", "probabilities"}, set()) if "prob" in distribution else ({"values"}, {"probabilities", "widen"})
        )
    allowed = {"q"} if distribution.startswith("q_") else set()
    if "normal" in distribution:
        return set(), allowed | {"mu", "sigma"}
    if "beta" in distribution:
        return set(), allowed | {"a", "b"}
    return {"min", "max"}, allowed


def inferred(data: dict[str, Any]) -> str:
    """The distribution of a parameter that names none.

    Raises:
        ValueError: its keys suit none.
    """
    if "values" in data:
        return "categorical_w_probabilities" if "probabilities" in data else "categorical"
    if "min" in data or "max" in data:
        whole = all(isinstance(data.get(key), int) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    if "value" in data:
        return "constant"
    raise ValueError("a parameter needs `value`, `values`, `min` and `max`, or `distribution`")


def check_keys(distribution: str, given: set[str]) -> None:
    """Raise ValueError where a key is missing or does not belong to the distribution."""
    needed, allowed = keys(distribution)
    if not needed <= given:
        raise ValueError(f"{distribution} needs {_list(needed)}, got {_list(given) or 'nothing'}")
    if not given <= needed | allowed:
        raise ValueError(f"{distribution} takes {_list(needed | allowed)}, not {_list(given - needed - allowed)}")


def check_choices(values: list[Any], probabilities: list[float] | None) -> None:
    """Raise ValueError unless the values differ and the probabilities suit them."""
    if not values or any(same(one, other) for one, other in combinations(values, 2)):
        raise ValueError(f"`values` must be one or more different values, got {values!r}")
    if probabilities is not None and (
        len(probabilities) != len(values) or any(p < 0 for p in probabilities) or not sum(probabilities) > 0
    ):
        raise ValueError(f"`probabilities` must be one number >= 0 for each value, got {probabilities!r}")


def beyond(values: list[Any], times: int) -> tuple[list[float], list[float]]:
    """(below, above): the next `times` values on either side of a grid, nearest first.

    Each is the one before it times or divided by the ratio of the grid's two outermost values, to three digits.

    Raises:
        ValueError: the values are not three or more positive numbers, or so close that three digits do not tell the
            next one apart.
    """
    if len(values) < LEAST_WIDENED or not all(is_number(value) and value > 0 for value in values):
        raise ValueError(f"`widen` needs `values` of three or more different numbers > 0, got {values!r}")
    ascending = sorted(values)
    sides: tuple[list[float], list[float]] = [], []
    for side, edge, inner in ((sides[0], *ascending[:2]), (sides[1], *ascending[:-3:-1])):
        ratio = edge / inner
        for _ in range(times):
            before, edge = edge, float(f"{edge * ratio:.3g}")
            if not 0 < edge < math.inf or (edge < before) != (ratio < 1) or edge == before:
                raise ValueError(
                    f"`widen` finds no value of three digits beyond {before:g}; set `values` further apart"
                )
            side.append(edge)
    return sides


def check_bounds(distribution: str, low: float, high: float) -> None:
    """Raise ValueError for bounds that the distribution cannot have, or that look like the other kind of bounds."""
    if not low < high:
        raise ValueError(f"`min` < `max` must hold, got min {low:g}, max {high:g}")
    if distribution == "int_uniform" and not (low.is_integer() and high.is_integer()):
        raise ValueError(f"int_uniform has whole bounds, got min {low:g}, max {high:g}")
    if "log" in distribution and distribution.endswith("_values") and low <= 0:
        raise ValueError(f"{distribution} needs `min` > 0, got {low:g}")
    looks_like_values = 0 <= low < high <= 1 or 0 < low < 0.01 or high > LARGEST_EXPONENT or low < -LARGEST_EXPONENT
    if "log" in distribution and not distribution.endswith("_values") and looks_like_values:
        raise ValueError(
            f"the bounds of {distribution} are exponents of e, but min {low:g}, max {high:g} look like values; "
            f"write distribution: {distribution}_values"
        )


def check_spread(distribution: str, mu: float, sigma: float) -> None:
    """Raise ValueError where `log_normal` would draw numbers that no computer holds: `mu` and `sigma` are exponents."""
    reach = max(abs(mu - MOST_SIGMAS * sigma), abs(mu + MOST_SIGMAS * sigma))
    if "log_normal" in distribution and reach > 10 * LARGEST_EXPONENT:
        raise ValueError(f"`mu` and `sigma` of {distribution} are exponents of e, got mu {mu:g}, sigma {sigma:g}")


def quantile(distribution: str, u: float, mu: float, sigma: float, a: float, b: float) -> float:
    """The value below which the share u of an unbounded distribution or of a beta distribution lies."""
    if "normal" in distribution:
        x = NormalDist(mu, sigma).inv_cdf(u)
        return math.exp(x) if "log" in distribution else x
    from scipy.stats import beta

    return float(beta.ppf(u, a, b))


def share(distribution: str, value: float, mu: float, sigma: float, a: float, b: float) -> float:
    """Inverse of `quantile`."""
    if "normal" in distribution:
        if "log" in distribution:
            value = math.log(value) if value > 0 else -math.inf
        return NormalDist(mu, sigma).cdf(value)
    from scipy.stats import beta

    return float(beta.cdf(value, a, b))


def ordered(choices: list[Any]) -> bool:
    """Whether the values are numbers from small to large."""
    numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)
    return numbers and choices == sorted(choices)


def label(value: Any) -> Any:
    """Optuna's categories are scalars: a mapping or list goes in as its JSON text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _list(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))
