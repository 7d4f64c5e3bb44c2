"""The sweep file as a typed, frozen tree: what it accepts a sweep can run, everything else is refused by line."""

import copy
import dataclasses
import io
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from ruamel.yaml import YAML

from tune_newllm.data.config import CorpusConfig
from tune_newllm.errors import SpecError
from tune_newllm.models.config import ModelConfig
from tune_newllm.records import first_rung, rung_epochs
from tune_newllm.sweep import refusal
from tune_newllm.sweep.space import Parameter
from tune_newllm.training.config import Configuration, TrainingConfig

CONFIGURATION = TypeAdapter(Configuration)
"""Reads a configuration from plain values, and says what is wrong with them."""
SECTIONS: dict[str, type] = {"corpus": CorpusConfig, "model": ModelConfig, "training": TrainingConfig}
"""The base configuration's top-level keys."""


def _none_to_null(value: Any) -> Any:
    return None if value == "none" else value


class Metric(BaseModel):
    """What a trial is judged by: always its lowest val_loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["val_loss"] = "val_loss"
    goal: Literal["minimize"] = "minimize"


class EarlyTerminate(BaseModel):
    """ASHA's rungs: `min_iter` * eta^k epochs, or `max_iter` / eta^i for i = 1..s as in W&B; `within` keeps the rungs
    of each value of a parameter apart."""

    model_config = ConfigDict(extra="forbid", frozen=True)

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


class Resources(BaseModel):
    """What one trial gets and how many run at once. `auto` is resolved before the first trial."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus_per_trial: float = Field(default=1, gt=0)
    gpus_per_trial: float | Literal["auto"] = "auto"
    max_concurrent: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    address: str = "local"


class SweepSpec(BaseModel):
    """A whole sweep. Every key has a default; `parameters` says what is searched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = ""
    corpus: CorpusConfig = CorpusConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    method: Literal["bayes", "random", "grid"] = "bayes"
    metric: Metric = Metric()
    parameters: dict[str, Parameter] = {}
    points: list[dict[str, Any]] = []
    balanced: str | None = None
    early_terminate: Annotated[EarlyTerminate | None, BeforeValidator(_none_to_null)] = None
    run_cap: int | None = Field(default=None, ge=1)
    resources: Resources = Resources()

    @property
    def searched(self) -> dict[str, Parameter]:
        """The parameters with more than one value, by dotted path."""
        return {path: parameter for path, parameter in self.parameters.items() if not parameter.is_constant}

    def configuration(self, values: dict[str, Any] | None = None) -> Configuration:
        """The base configuration with `values` (by dotted path) put in.

        Raises:
            SpecError: the values make an impossible configuration.
        """
        tree = Configuration(self.corpus, self.model, self.training).to_dict()
        constants = {path: parameter.value for path, parameter in self.parameters.items() if parameter.is_constant}
        for path, value in sorted({**constants, **(values or {})}.items()):
            _put(tree, path, value)
        try:
            return CONFIGURATION.validate_python({key: expand(key, tree[key]) for key in SECTIONS})
        except ValidationError as error:
            raise SpecError("; ".join(refusal.plain(error, Configuration))) from None

    def to_yaml(self) -> str:
        """The resolved file: every key spelled out, read back by `load_spec` as an equal spec."""
        tree = self.model_dump(mode="json", exclude_unset=False, exclude={"parameters", "early_terminate"})
        tree["parameters"] = {p: v.model_dump(mode="json", exclude_unset=True) for p, v in self.parameters.items()}
        tree["early_terminate"] = self.early_terminate and self.early_terminate.model_dump(exclude_none=True)
        for section, kind in SECTIONS.items():
            tree[section] = TypeAdapter(kind).dump_python(getattr(self, section), mode="json")
        text = io.StringIO()
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = False
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.dump(tree, text)
        return text.getvalue()


def paths() -> list[str]:
    """Every dotted path of the base configuration, sections such as `training.clip` included."""

    def below(kind: type, prefix: str) -> Iterable[str]:
        for field in dataclasses.fields(kind):
            yield f"{prefix}.{field.name}"
            default = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
            if dataclasses.is_dataclass(default):
                yield from below(type(default), f"{prefix}.{field.name}")

    return [path for section, kind in SECTIONS.items() for path in below(kind, section)]


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for depth, key in enumerate(parents, 1):
        if not isinstance(tree.get(key), dict):
            tree[key] = expand_section(".".join(parents[:depth]), tree.get(key)) or {}
        tree = tree[key]
    tree[last] = copy.deepcopy(value)


def expand(section: str, value: Any) -> Any:
    """Shorthands of one top-level section as the mappings they stand for."""
    if not isinstance(value, dict):
        return value
    return {key: expand_section(f"{section}.{key}", child) for key, child in value.items()}


def expand_section(path: str, value: Any) -> Any:
    """`clip: none` is {schedule: none}, `lr_schedule: cosine` is {name: cosine}, `early_stopping: none` is null."""
    if path == "training.early_stopping":
        return _none_to_null(value)
    key = {"training.clip": "schedule", "training.lr_schedule": "name"}.get(path)
    if key is None or isinstance(value, dict):
        return value
    return {key: "none" if value is None else value}
