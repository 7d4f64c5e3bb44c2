"""From a sweep file and the command line's overrides to a valid `SweepSpec`."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from tune_newllm.errors import SpecError
from tune_newllm.sweep import refusal
from tune_newllm.sweep.existence import circle
from tune_newllm.sweep.nesting import flatten
from tune_newllm.sweep.overrides import override, without_lost_points
from tune_newllm.sweep.rules import Finding, problems
from tune_newllm.sweep.source import Source, read_yaml
from tune_newllm.sweep.spec import SweepSpec, as_json
from tune_newllm.sweep.tree import expand
from tune_newllm.sweep.wandb import adopt


def load_spec(path: Path, overrides: Iterable[str] = (), warnings: list[str] | None = None) -> SweepSpec:
    """Read and validate a sweep file.

    Args:
        path: the YAML file.
        overrides: `key=value` texts from the command line; one for a searched parameter fixes it.
        warnings: takes what is odd but allowed, one line each: keys ignored, parameters that never exist.

    Raises:
        SpecError: every broken rule, one line each, with file, line, key, what was got and the nearest valid name.
    """
    return parse_spec(read_yaml(path), overrides, warnings)


def parse_spec(source: Source, overrides: Iterable[str] = (), warnings: list[str] | None = None) -> SweepSpec:
    """Validate a parsed file, whose values are changed on the way. Arguments and errors are those of `load_spec`."""
    told: list[str] = [] if warnings is None else warnings
    flatten(source)
    aliases = adopt(source, told)
    overridden = [path for text in overrides for path in override(source, text, aliases)]
    flatten(source)
    spec = structured(source)
    if not circle(spec.parameters):
        spec = without_lost_points(spec, overridden)
    remarks: list[Finding] = []
    broken = [refusal.line(source.where(at), text) for at, text in problems(spec, remarks)]
    if broken:
        raise SpecError("\n".join(broken))
    told += [refusal.line(source.where(at), text) for at, text in remarks]
    return spec


def structured(source: Source) -> SweepSpec:
    """The file as a typed tree: every key known, every value of its type, the rules between keys not yet looked at.

    Raises:
        SpecError: as `load_spec`.
    """
    tree = {key: expand(key, value) for key, value in source.values.items()}
    try:
        return SweepSpec.model_validate_json(as_json(tree), strict=True)
    except ValidationError as error:
        raise SpecError("\n".join(refusal.located(error, SweepSpec, source))) from None
