"""What is searched: W&B's parameter grammar, each parameter as a distribution that can be sampled and modelled.

A parameter turns a number u in (0, 1) into a value (`from_unit`), which serves random, quasi-random and start-up
sampling alike, and maps its values to coordinates that Optuna's samplers can model (`distribution`, `to_study`,
`from_study`). Bounds of `log_uniform` are exponents of e, those of `log_uniform_values` are values, as in W&B Sweeps.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tune_newllm.sweep import distributions
from tune_newllm.sweep.conditions import Condition, is_number, normalised, same
from tune_newllm.sweep.distributions import Distribution

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MOST_CHOICES = 1000
"""Finer grids of numbers are treated as continuous and rounded."""
MOST_WIDENED = 10
RAREST = 1e-9
"""Probability of the values next to which unbounded distributions end in the study: six standard deviations."""


class Parameter(BaseModel):
    """One searched parameter, in W&B's words.

    Without `distribution` it follows from the keys: `value` constant, `values` categorical, `min` and `max` uniform
    (integers when both bounds are). A quantised distribution (`q_...`) draws multiples of `q` inside its bounds.
    `when` says what must hold of other paths for the parameter to exist: all of it. `widen` is the number of values
    that a grid may add beyond an edge on which the best one lies (`widening`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

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
    when: dict[str, Condition] = {}
    widen: int | None = Field(default=None, ge=1, le=MOST_WIDENED)

    @model_validator(mode="before")
    @classmethod
    def _infer_distribution(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError("a parameter is a mapping such as {min: 1e-4, max: 1e-2} or {values: [8, 16]}")
        empty = [key for key, value in data.items() if value is None and key != "value"]
        if empty:
            raise ValueError(f"`{empty[0]}` must have a value; leave it out where it has none")
        if "when" in data:
            data = {**data, "when": normalised(data["when"])}
        return data if "distribution" in data else {**data, "distribution": distributions.inferred(data)}

    @model_validator(mode="after")
    def _check(self) -> "Parameter":
        name = self.distribution
        distributions.check_keys(name, self.model_fields_set - {"distribution", "when"})
        distributions.check_spread(name, self.mu, self.sigma)
        if self.values is not None:
            distributions.check_choices(self.values, self.probabilities)
        if self.widen is not None:
            distributions.beyond(self.values or [], self.widen)
        if self.min is not None and self.max is not None:
            distributions.check_bounds(name, self.min, self.max)
            if self._quantised and self._steps[0] > self._steps[1]:
                raise ValueError(f"no multiple of q = {self.q:g} lies in {self.low:g}..{self.high:g}")
        return self

    @property
    def conditions(self) -> str:
        """What must hold for the parameter to exist, in words."""
        return " and ".join(f"`{path}` {condition}" for path, condition in self.when.items())

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
    def beyond(self) -> tuple[list[float], list[float]]:
        """Values that a grid may add below and above those of the file, nearest first."""
        return distributions.beyond(self.values or [], self.widen) if self.widen else ([], [])

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
            lowest = -math.inf if self.distribution in ("normal", "q_normal") else 0.0
            return lowest, 1.0 if "beta" in self.distribution else math.inf
        if not self.is_log or self.distribution.endswith("_values"):
            return self.min, self.max
        if self.distribution == "inv_log_uniform":
            return math.exp(-self.max), math.exp(-self.min)
        return math.exp(self.min), math.exp(self.max)

    def extremes(self) -> list[Any]:
        """Values that show whether the whole range is acceptable.

        The ends of the range, or all choices where they have no order; the quartiles of a distribution whose ends are
        hardly ever drawn (normal, beta).
        """
        if self.choices is not None and not distributions.ordered(self.choices):
            return self.choices
        if self.choices is None and self.min is None:
            return [self.from_unit(0.25), self.from_unit(0.75)]
        return self.ends(self.low, self.high) if self.choices is None else [self.choices[0], self.choices[-1]]

    def ends(self, low: float, high: float) -> list[Any]:
        """The smallest and the largest value in low..high, nothing where there is none."""
        if self.choices is not None:
            inside = [choice for choice in self.choices if is_number(choice) and low <= choice <= high]
            return [min(inside), max(inside)] if inside else []
        low, high = max(low, self.low), min(high, self.high)
        if self._quantised:
            low, high = math.ceil(low / self.q) * self.q, math.floor(high / self.q) * self.q
        elif low == self.low == 0 < high < math.inf:
            # No trial gets 0 itself, which a learning rate, for one, may not be.
            low = RAREST * high
        return [self._snap(bound) for bound in (low, high) if math.isfinite(bound)] if low <= high else []

    def contains(self, value: Any) -> bool:
        """Whether the parameter may take a value."""
        if self.choices is not None:
            return any(same(value, choice) for choice in self.choices)
        if not is_number(value) or not self.low <= value <= self.high:
            return False
        if self._quantised:
            return math.isclose(value, self._snap(value), rel_tol=1e-9, abs_tol=1e-12)
        return value > 0 or "log" not in self.distribution

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
        if self.min is None:
            return distributions.quantile(self.distribution, u, self.mu, self.sigma, self.a, self.b)
        if self.is_log:
            return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.low + u * (self.high - self.low)

    def _probability(self, value: float) -> float:
        """Inverse of `_quantile` for the distributions without bounds."""
        u = distributions.share(self.distribution, value, self.mu, self.sigma, self.a, self.b)
        return min(max(u, RAREST), 1 - RAREST)

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
        if self.widen:
            below, above = self.beyond
            return FloatDistribution(below[-1], above[-1], log=True), float, lambda coordinate: coordinate
        if choices is not None and distributions.ordered(choices):
            # An index keeps the order of 8 < 16 < 32, which a categorical distribution would forget.
            return IntDistribution(0, len(choices) - 1), choices.index, lambda index: choices[index]
        if choices is not None:
            labels = [distributions.label(choice) for choice in choices]
            return CategoricalDistribution(labels), distributions.label, lambda label: choices[labels.index(label)]
        if self.min is None:
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
