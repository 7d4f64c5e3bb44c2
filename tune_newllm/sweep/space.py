"""What is searched: W&B's parameter grammar, each parameter as a distribution that can be sampled and modelled.

A parameter turns a number u in (0, 1) into a value (`from_unit`), which serves random, quasi-random and start-up
sampling alike, and maps its values to coordinates that Optuna's samplers can model (`distribution`, `to_study`,
`from_study`). Bounds of `log_uniform` are exponents of e, those of `log_uniform_values` are values, as in W&B Sweeps.
"""

import json
import math
from collections.abc import Callable
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Distribution = Literal[
    "constant", "categorical", "categorical_w_probabilities", "uniform", "int_uniform", "q_uniform",
    "log_uniform", "log_uniform_values", "q_log_uniform", "q_log_uniform_values", "inv_log_uniform",
    "inv_log_uniform_values", "normal", "q_normal", "log_normal", "q_log_normal", "beta", "q_beta",
]  # fmt: skip
LARGEST_EXPONENT = 50
MOST_CHOICES = 1000
"""Finer grids of numbers are treated as continuous and rounded."""


class Parameter(BaseModel):
    """One searched parameter, in W&B's words.

    Without `distribution` it follows from the keys: `value` constant, `values` categorical, `min` and `max` uniform
    (integers when both bounds are).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    distribution: Distribution = "constant"
    value: Any = None
    values: list[Any] | None = None
    probabilities: list[float] | None = None
    min: float | None = None
    max: float | None = None
    mu: float = 0.0
    sigma: float = Field(default=1.0, gt=0)
    a: float = Field(default=1.0, gt=0)
    b: float = Field(default=1.0, gt=0)
    q: float = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _infer_distribution(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("a parameter is a mapping such as {min: 1e-4, max: 1e-2} or {values: [8, 16]}")
        if "parameters" in data:
            raise ValueError("nested `parameters` are not supported yet: write the dotted path as one key")
        if "when" in data:
            raise ValueError("`when` is not supported yet")
        return data if "distribution" in data else {**data, "distribution": _inferred(data)}

    @model_validator(mode="after")
    def _check(self) -> "Parameter":
        needed, allowed = _keys(self.distribution)
        given = self.model_fields_set - {"distribution"}
        if not needed <= given:
            raise ValueError(f"{self.distribution} needs {_list(needed)}, got {_list(given) or 'nothing'}")
        if not given <= needed | allowed:
            extra = given - needed - allowed
            raise ValueError(f"{self.distribution} takes {_list(needed | allowed)}, not {_list(extra)}")
        if self.values is not None:
            _check_choices(self.values, self.probabilities)
        if self.min is not None and self.max is not None:
            self._check_bounds(self.min, self.max)
        return self

    def _check_bounds(self, low: float, high: float) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"`min` < `max` must hold, got min {_short(low)}, max {_short(high)}")
        name = self.distribution
        if name == "int_uniform" and not (low.is_integer() and high.is_integer()):
            raise ValueError(f"int_uniform has whole bounds, got min {_short(low)}, max {_short(high)}")
        if "log" in name and name.endswith("_values") and low <= 0:
            raise ValueError(f"{name} needs `min` > 0, got {_short(low)}")
        looks_like_values = 0 < low < high <= 1 or high > LARGEST_EXPONENT or low < -LARGEST_EXPONENT
        if "log" in name and not name.endswith("_values") and looks_like_values:
            raise ValueError(
                f"the bounds of {name} are exponents of e, but min {_short(low)}, max {_short(high)} look like values; "
                f"write distribution: {name}_values"
            )
        if self._quantised and self._steps[0] > self._steps[1]:
            raise ValueError(f"no multiple of q = {_short(self.q)} lies in {_short(self.low)}..{_short(self.high)}")

    @property
    def is_constant(self) -> bool:
        """Nothing to search: a single value."""
        return self.distribution == "constant"

    @cached_property
    def choices(self) -> list[Any] | None:
        """Every value, in the order of the file, when there are finitely many; else None."""
        if self.is_constant:
            return [self.value]
        if self.values is not None:
            return self.values
        if self.distribution == "int_uniform" and self.high - self.low < MOST_CHOICES:
            return list(range(int(self.low), int(self.high) + 1))
        if self.distribution == "q_uniform":
            lowest, highest = (int(step) for step in self._steps)
            if highest - lowest < MOST_CHOICES:
                return [self._snap(step * self.q) for step in range(lowest, highest + 1)]
        return None

    @property
    def low(self) -> float:
        """Lower bound as a value."""
        return self._bounds[0]

    @property
    def high(self) -> float:
        """Upper bound as a value."""
        return self._bounds[1]

    @property
    def is_log(self) -> bool:
        """Whether the parameter is searched on a logarithmic scale."""
        return "log_uniform" in self.distribution

    @property
    def _quantised(self) -> bool:
        return self.distribution.startswith("q_") or self.distribution == "int_uniform"

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        if self.min is None or self.max is None:
            return (0.0, 1.0) if "beta" in self.distribution else (-math.inf, math.inf)
        if not self.is_log or self.distribution.endswith("_values"):
            return self.min, self.max
        if self.distribution == "inv_log_uniform":
            return math.exp(-self.max), math.exp(-self.min)
        return math.exp(self.min), math.exp(self.max)

    def extremes(self) -> list[Any]:
        """Values that show whether the whole range is acceptable: its ends, or all choices where they have no order."""
        if self.choices is not None:
            return [self.choices[0], self.choices[-1]] if _ordered(self.choices) else self.choices
        return [self._snap(bound) for bound in self._bounds if math.isfinite(bound)]

    def from_unit(self, u: float) -> Any:
        """The value at probability u, 0 < u < 1."""
        if self.probabilities is not None and self.values is not None:
            total, reached = sum(self.probabilities), 0.0
            for choice, weight in zip(self.values, self.probabilities, strict=True):
                reached += weight / total
                if u < reached:
                    return choice
            return self.values[-1]
        if self.choices is not None:
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        return self._snap(self._quantile(u))

    def _quantile(self, u: float) -> float:
        name = self.distribution
        if "normal" in name:
            x = NormalDist(self.mu, self.sigma).inv_cdf(u)
            return math.exp(x) if "log" in name else x
        if "beta" in name:
            from scipy.stats import beta

            return float(beta.ppf(u, self.a, self.b))
        if self.is_log:
            return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.low + u * (self.high - self.low)

    def _probability(self, value: float) -> float:
        """Inverse of `_quantile` for the unbounded families, kept inside (0, 1)."""
        if "normal" in self.distribution:
            x = math.log(value) if "log" in self.distribution and value > 0 else value
            u = NormalDist(self.mu, self.sigma).cdf(x)
        else:
            from scipy.stats import beta

            u = float(beta.cdf(value, self.a, self.b))
        return min(max(u, 1e-9), 1 - 1e-9)

    def _snap(self, value: float) -> float | int:
        """Nearest multiple of q within the bounds where the distribution has one."""
        if not self._quantised:
            return value
        lowest, highest = self._steps
        snapped = round(float(min(max(round(value / self.q), lowest), highest)) * self.q, 12)
        return int(snapped) if self.q.is_integer() else snapped

    @property
    def _steps(self) -> tuple[float, float]:
        """Lowest and highest multiple of q inside the bounds."""
        lowest = math.ceil(self.low / self.q) if math.isfinite(self.low) else -math.inf
        highest = math.floor(self.high / self.q) if math.isfinite(self.high) else math.inf
        return lowest, highest

    @cached_property
    def _coordinates(self) -> "tuple[BaseDistribution, Callable[[Any], Any], Callable[[Any], Any]]":
        """How Optuna sees the parameter: its distribution, value -> coordinate, coordinate -> value."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        choices = self.choices
        if choices is not None and _ordered(choices):
            # An index keeps the order of 8 < 16 < 32, which a categorical distribution would forget.
            return IntDistribution(0, len(choices) - 1), choices.index, lambda index: choices[index]
        if choices is not None:
            labels = [_label(choice) for choice in choices]
            return CategoricalDistribution(labels), _label, lambda label: choices[labels.index(label)]
        if "normal" in self.distribution or "beta" in self.distribution:
            return FloatDistribution(0.0, 1.0), self._probability, self.from_unit
        low, high = self.low, self.high
        # A multiple of q may miss a bound by the last digit.
        return (
            FloatDistribution(low, high, log=self.is_log),
            lambda value: min(max(float(value), low), high),
            self._snap,
        )

    @property
    def distribution_in_study(self) -> "BaseDistribution":
        """Optuna's distribution over this parameter's coordinates."""
        return self._coordinates[0]

    def to_study(self, value: Any) -> Any:
        """The coordinate of a value: its index in an ordered list, its label, its probability, or itself."""
        return self._coordinates[1](value)

    def from_study(self, coordinate: Any) -> Any:
        """The value at a coordinate."""
        return self._coordinates[2](coordinate)


def _inferred(data: dict[str, Any]) -> str:
    if "values" in data:
        return "categorical_w_probabilities" if "probabilities" in data else "categorical"
    if "min" in data or "max" in data:
        whole = all(isinstance(data.get(key), int) for key in ("min", "max"))
        return "int_uniform" if whole else "uniform"
    if "value" in data:
        return "constant"
    raise ValueError("a parameter needs `value`, `values`, `min` and `max`, or `distribution`")


def _keys(distribution: str) -> tuple[set[str], set[str]]:
    """(needed, further allowed) keys of a distribution."""
    if distribution == "constant":
        return {"value"}, set()
    if distribution.startswith("categorical"):
        return {"values"} | ({"probabilities"} if "prob" in distribution else set()), set()
    allowed = {"q"} if distribution.startswith("q_") else set()
    if "normal" in distribution:
        return set(), allowed | {"mu", "sigma"}
    if "beta" in distribution:
        return set(), allowed | {"a", "b"}
    return {"min", "max"}, allowed


def _check_choices(values: list[Any], probabilities: list[float] | None) -> None:
    labels = [_label(value) for value in values]
    if not values or len(set(map(repr, labels))) < len(values):
        raise ValueError(f"`values` must be one or more different values, got {values!r}")
    if probabilities is not None and (
        len(probabilities) != len(values) or any(p < 0 for p in probabilities) or not sum(probabilities) > 0
    ):
        raise ValueError(f"`probabilities` must be one number >= 0 for each value, got {probabilities!r}")


def _ordered(choices: list[Any]) -> bool:
    numbers = all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in choices)
    return numbers and choices == sorted(choices)


def _label(value: Any) -> Any:
    """Optuna's categories are scalars: a mapping or list goes in as its JSON text."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value


def _list(names: set[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _short(value: float) -> str:
    return f"{value:g}"
