"""Rules of the sweep file that concern several keys at once."""

from collections.abc import Iterable
from typing import Any

from tune_newllm.errors import SpecError
from tune_newllm.sweep import refusal
from tune_newllm.sweep.source import Location
from tune_newllm.sweep.space import Parameter
from tune_newllm.sweep.spec import SweepSpec, paths

NOT_SEARCHED = {
    "training.epochs": "it is the fidelity, equal for every trial",
    "training.seed": "it is what all trials share",
    "training.device": "`resources` decides it",
    "training.micro_batch": "it does not change what is learned",
}


def problems(spec: SweepSpec) -> Iterable[tuple[Location, str]]:
    """Every broken rule: where it stands and what is wrong."""
    for path, parameter in spec.parameters.items():
        yield from _parameter_problems(spec, path, parameter)
    for index, point in enumerate(spec.points):
        for path, value in point.items():
            at = ("points", index, path)
            if path not in spec.searched:
                yield at, f"`{path}` in points is not searched{refusal.nearest(path, spec.searched)}"
            elif not _inside(spec.searched[path], value):
                yield at, f"`{path}` = {value!r} lies outside its searched range; widen the range or move the point"
    if spec.method == "grid":
        endless = [path for path, parameter in spec.searched.items() if parameter.choices is None]
        if endless:
            yield ("method",), f"method grid needs finitely many values: `{endless[0]}` is continuous; give `values`"
    yield from _stratum_problems(spec)


def _parameter_problems(spec: SweepSpec, path: str, parameter: Parameter) -> Iterable[tuple[Location, str]]:
    at = ("parameters", path)
    if path not in paths():
        yield at, f"`{path}` is no path of the configuration{refusal.nearest(path, paths())}"
    elif path.startswith("corpus."):
        yield at, f"`{path}` cannot be searched: losses on different corpora do not compare; make a sweep for each"
    elif path in NOT_SEARCHED:
        yield at, f"`{path}` cannot be searched: {NOT_SEARCHED[path]}"
    elif path == "training.precision" and "auto" in (parameter.choices or ()):
        yield at, "`auto` is decided once for a whole sweep and cannot be one of the values; name the precisions"
    else:
        for value in parameter.extremes():
            try:
                spec.configuration({path: value})
            except SpecError as error:
                yield at, f"{error} (searched as {path} = {value!r})"
                return


def _stratum_problems(spec: SweepSpec) -> Iterable[tuple[Location, str]]:
    for key, path in (("balanced", spec.balanced), ("early_terminate", _within(spec))):
        if path is None:
            continue
        parameter = spec.searched.get(path)
        if parameter is None:
            yield (key,), f"`{path}` is not searched{refusal.nearest(path, spec.searched)}"
        elif parameter.choices is None:
            yield (key,), f"`{path}` must have finitely many values to be kept apart; give it `values`"
    if spec.balanced and spec.method == "grid":
        yield ("balanced",), "a grid is balanced already; remove `balanced` or use method bayes or random"
    rule = spec.early_terminate
    if rule is not None and (rule.min_iter is None) == (rule.max_iter is None):
        yield ("early_terminate",), "give either `min_iter` or `max_iter` (with `s`), in epochs"
    if rule is not None and (rule.s is None) != (rule.max_iter is None):
        yield ("early_terminate",), "`max_iter` and `s` come together: rungs at max_iter / eta^i for i = 1..s"


def _within(spec: SweepSpec) -> str | None:
    return spec.early_terminate.within if spec.early_terminate else None


def _inside(parameter: Parameter, value: Any) -> bool:
    if parameter.choices is not None:
        return value in parameter.choices
    return isinstance(value, int | float) and parameter.low <= value <= parameter.high
