"""The sweep file as a typed, frozen tree: what it accepts a sweep can run, everything else is refused by line."""

import io
import json
import re
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from ruamel.yaml import YAML

from tune_newllm.data.config import CorpusConfig
from tune_newllm.errors import SpecError
from tune_newllm.models.config import ModelConfig
from tune_newllm.records import first_rung, rung_epochs
from tune_newllm.sweep import activity, refusal
from tune_newllm.sweep.space import Parameter
from tune_newllm.sweep.tree import SECTIONS, expand, none_to_null, put
from tune_newllm.training.config import Configuration, TrainingConfig

CONFIGURATION = TypeAdapter(Configuration)
"""Reads a configuration from plain values, and says what is wrong with them."""
EXACT = 2**53
"""Up to here every whole float is one integer."""
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
DURATION = r"\s*(\d+(?:\.\d+)?)\s*([dhms])"
"""One part of a duration, such as 90m."""


def _seconds(value: Any) -> Any:
    """`1d 12h`, `90m` or `45s` as a number of seconds; a number stays as it is."""
    if not isinstance(value, str):
        return value
    if not re.fullmatch(f"({DURATION})+\\s*", value):
        raise ValueError(f"must be a number of seconds or a duration such as 2h, 90m, 45s or 1d 12h, got {value!r}")
    return sum(float(number) * _SECONDS[unit] for number, unit in re.findall(DURATION, value))


def as_json(tree: dict[str, Any]) -> str:
    """The values as JSON, which pydantic reads strictly: no text for a number, no 1 for true.

    A whole number may be written 1e5 all the same.
    """
    return json.dumps(_whole(tree), default=str)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        # There 1.0 differs from 1: bounds without a point are drawn from whole numbers.
        return {key: child if key in ("parameters", "points") else _whole(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_whole(child) for child in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < EXACT else value


class Metric(BaseModel):
    """What a trial is judged by: always its lowest val_loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["val_loss"] = "val_loss"
    goal: Literal["minimize"] = "minimize"


class EarlyTerminate(BaseModel):
    """ASHA's rungs: `min_iter` * eta^k epochs, or `max_iter` / eta^i for i = 1..s as in W&B; `within` keeps the rungs
    of each value of a parameter apart."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    type: Literal["asha", "hyperband"] = "asha"
    min_iter: int | None = Field(default=None, ge=1)
    max_iter: int | None = Field(default=None, ge=1)
    s: int | None = Field(default=None, ge=1)
    eta: float = Field(default=3, gt=1)
    within: str | None = None

    @property
    def first(self) -> float:
        """Epochs before the first rung."""
        return first_rung(self.min_iter, self.max_iter, self.s, self.eta)

    def rungs(self, epochs: int) -> list[int]:
        """Epochs after which ASHA decides, ascending, all below `epochs`."""
        return rung_epochs(self.first, self.eta, epochs)


class Budget(BaseModel):
    """What the whole sweep may use up before it stops, resumably: whichever comes first.

    `wall` is in seconds in which the sweep ran, resumes added up; `device_hours` counts each device of each trial;
    `epochs` those of all trials.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    wall: Annotated[Annotated[float, Field(gt=0)] | None, BeforeValidator(_seconds)] = None
    device_hours: float | None = Field(default=None, gt=0)
    epochs: int | None = Field(default=None, ge=1)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is limited."""
        return self == Budget()


class Resources(BaseModel):
    """What one trial gets and how many run at once. `auto` is resolved before the first trial."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    cpus_per_trial: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    gpus_per_trial: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    max_concurrent: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    address: str = "local"
    retries: int = Field(default=3, ge=0)
    """How often a trial whose process was lost is taken up again, counted anew after each epoch that it finishes."""
    keep_checkpoints: int = Field(default=20, ge=1)
    """Ended trials whose weights and training state are kept, the best ones; unfinished trials keep theirs always."""

    @property
    def cpus(self) -> float:
        """Processors of a trial; one, the least it may get, where that is not decided yet."""
        return 1 if self.cpus_per_trial == "auto" else self.cpus_per_trial


class SweepSpec(BaseModel):
    """A whole sweep. Every key has a default; `parameters` says what is searched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    method: Literal["bayes", "random", "quasi", "grid"] = "bayes"
    metric: Metric = Metric()
    parameters: dict[str, Parameter] = {}
    points: list[dict[str, Any]] = []
    balanced: str | None = None
    early_terminate: Annotated[EarlyTerminate | None, BeforeValidator(none_to_null)] = None
    seeds: int = Field(default=1, ge=1)
    run_cap: int | None = Field(default=None, ge=1)
    budget: Budget = Budget()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _sections_fit(self) -> "SweepSpec":
        """Refuse sections of the base configuration that exclude each other."""
        Configuration(self.corpus, self.model, self.training)
        return self

    @property
    def searched(self) -> dict[str, Parameter]:
        """The parameters with more than one value, by dotted path."""
        return {path: parameter for path, parameter in self.parameters.items() if not parameter.is_constant}

    @property
    def order(self) -> list[str]:
        """The searched paths in an order to choose values in: a parameter after those its conditions are about."""
        return [path for path in activity.ordered(self.parameters) if path in self.searched]

    def is_active(self, path: str, values: dict[str, Any]) -> bool:
        """Whether the parameter at `path` exists beside the searched values chosen so far.

        Unsearched paths of its conditions are looked up in the base configuration; a condition on a parameter that does
        not exist itself, or has no value yet, does not hold.
        """
        return activity.is_active(path, values, self.parameters, self.base)

    @property
    def base(self) -> Configuration:
        """The base configuration, without the constants of `parameters`."""
        return Configuration(self.corpus, self.model, self.training)

    @property
    def unsearched(self) -> Configuration:
        """What is trained where nothing is searched: the base configuration with those constants of `parameters` whose
        conditions hold in it.

        Raises:
            SpecError: that is an impossible configuration.
        """
        constants = {path: parameter for path, parameter in self.parameters.items() if parameter.is_constant}
        return self.model_copy(update={"parameters": constants}).configuration()

    @property
    def widest_corpus(self) -> CorpusConfig:
        """The corpus that holds what every trial trains on: with the largest searched `max_samples`."""
        parameter = self.parameters.get("corpus.max_samples")
        if parameter is None:
            return self.corpus
        sizes = parameter.extremes() + ([self.corpus.max_samples] if parameter.when else [])
        return replace(self.corpus, max_samples=None if None in sizes else max(sizes))

    def configuration(self, values: dict[str, Any] | None = None) -> Configuration:
        """The base configuration with `values` (by dotted path) put in.

        Raises:
            SpecError: the values make an impossible configuration, or one of their parameters does not exist in it.
        """
        given = values or {}
        for path in given:
            if path in self.parameters and not self.is_active(path, given):
                raise SpecError(f"`{path}` exists only when {self.parameters[path].conditions}")
        try:
            return self.assembled(given)
        except ValidationError as error:
            raise SpecError("; ".join(refusal.plain(error, Configuration))) from None

    def assembled(self, values: dict[str, Any]) -> Configuration:
        """As `configuration`, for values known to exist together. Raises pydantic's ValidationError."""
        tree = self.base.to_dict()
        constants = {p: v.value for p, v in self.parameters.items() if v.is_constant and self.is_active(p, values)}
        for path, value in sorted({**constants, **values}.items()):
            put(tree, path, value)
        return CONFIGURATION.validate_json(as_json({key: expand(key, tree[key]) for key in SECTIONS}), strict=True)

    def to_yaml(self) -> str:
        """The resolved file: every key spelled out, read back by `load_spec` as an equal spec."""
        tree = self.model_dump(mode="json", exclude={"parameters", "early_terminate", "budget"})
        tree["parameters"] = {p: v.model_dump(mode="json", exclude_unset=True) for p, v in self.parameters.items()}
        tree["early_terminate"] = self.early_terminate and self.early_terminate.model_dump(exclude_none=True)
        if not self.budget.is_empty:
            tree["budget"] = self.budget.model_dump(exclude_none=True)
        for section, kind in SECTIONS.items():
            tree[section] = TypeAdapter(kind).dump_python(getattr(self, section), mode="json")
        text = io.StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(tree, text)
        return text.getvalue()
