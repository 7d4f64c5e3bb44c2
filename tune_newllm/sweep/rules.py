"""Rules of the sweep file that concern several keys at once."""

import math
import re
from collections.abc import Iterable, Iterator

from tune_newllm.data.hub import CORPORA, PREFIX
from tune_newllm.data.sources import source_of
from tune_newllm.errors import CorpusError
from tune_newllm.sweep import refusal
from tune_newllm.sweep.activity import giver
from tune_newllm.sweep.existence import circle, verdict
from tune_newllm.sweep.names import path_of
from tune_newllm.sweep.ranges import faults, impossible
from tune_newllm.sweep.source import Location
from tune_newllm.sweep.space import Parameter
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.tree import paths

SEARCHED_OF_CORPUS = "corpus.max_samples"
NOT_SEARCHED = {
    "training.epochs": "it is the fidelity, equal for every trial",
    "training.seed": "it is what all trials share; `seeds` repeats each of them",
    "training.device": "`resources` decides it",
    "training.micro_batch": "it does not change what is learned",
    "training.start": "its words number the corpus of all trials; make a sweep for each",
    "training.new_words": "it decides how the corpus of all trials is numbered; make a sweep for each",
}


Finding = tuple[Location, str]
"""Where something stands, and what is wrong or odd about it."""


def problems(spec: SweepSpec, remarks: list[Finding]) -> Iterator[Finding]:
    """Every broken rule; what is odd but allowed goes to `remarks`."""
    yield from _corpus(spec.corpus.name)
    found = [*_names(spec), *_conditions(spec, remarks)]
    # Whole configurations are only looked at once all paths are known and all conditions can hold.
    found = found or [(("parameters", path), text) for path, text in impossible(spec)]
    yield from found
    if not found:
        yield from _points(spec)
    if spec.method == "grid":
        endless = [path for path, parameter in spec.searched.items() if parameter.choices is None]
        if endless:
            yield ("method",), f"method grid needs finitely many values: `{endless[0]}` is continuous; give `values`"
    yield from _widening(spec)
    yield from _strata(spec)
    yield from _rungs(spec, remarks)
    if "budget" in spec.model_fields_set and spec.budget.is_empty:
        yield ("budget",), "`budget` needs one or more of `wall`, `device_hours` and `epochs`"


def _corpus(name: str) -> Iterator[Finding]:
    at = ("corpus", "name")
    try:
        source_of(name)
    except CorpusError as error:
        yield at, f"`corpus.name`: {error}"
    if name.startswith(PREFIX) and not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(:.*)?", name.removeprefix(PREFIX)):
        known = refusal.nearest(name.removeprefix(PREFIX), CORPORA)
        yield at, f"`corpus.name` must be {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME:CONFIG, got {name!r}{known}"


def _names(spec: SweepSpec) -> Iterator[Finding]:
    for path, parameter in spec.parameters.items():
        at = ("parameters", path)
        if path not in paths():
            known = path_of(path)
            near = f"; did you mean `{known}`?" if known else refusal.nearest(path, paths())
            yield at, f"`{path}` is no path of the configuration{near}"
        elif path.startswith("corpus.") and path != SEARCHED_OF_CORPUS:
            yield at, f"`{path}` cannot be searched: losses on different corpora do not compare; make a sweep for each"
        elif path in NOT_SEARCHED:
            yield at, f"`{path}` cannot be searched: {NOT_SEARCHED[path]}"
        elif path.startswith("model.") and path != "model.dropout" and spec.training.start is not None:
            yield at, f"`{path}` cannot be searched beside `training.start`, which decides it; remove one of them"
        elif path == SEARCHED_OF_CORPUS and math.isinf(parameter.high) and not parameter.choices:
            yield at, f"`{path}` needs a largest value, which decides what is prepared, got {parameter.distribution}"
        elif path == "training.precision" and "auto" in (parameter.choices or ()):
            yield at, "`auto` is decided once for a whole sweep and cannot be one of the values; name the precisions"


def _conditions(spec: SweepSpec, remarks: list[Finding]) -> Iterator[Finding]:
    round_trip = circle(spec.parameters)
    if round_trip:
        way = " -> ".join(f"`{path}`" for path in round_trip)
        yield ("parameters", round_trip[0], "when"), f"conditions run in a circle: {way}; remove one of them"
        return
    for path in spec.parameters:
        found = verdict(path, spec)
        at = ("parameters", path, "when")
        yield from ((at, f"`{path}` {text}") for text in found.faults)
        remarks += [(at, f"`{path}` {text}") for text in found.remarks]


def _points(spec: SweepSpec) -> Iterator[Finding]:
    for index, point in enumerate(spec.points):
        broken = [((*("points", index), path), text) for path, text in _point_problems(spec, point)]
        yield from broken
        whole = all(path in point for path in spec.order if spec.is_active(path, point))
        if whole and not broken:
            for key, text in faults(point, spec):
                yield ("points", index), f"this point is no possible configuration: `{key}`: {text}"


def _point_problems(spec: SweepSpec, point: dict[str, object]) -> Iterable[tuple[str, str]]:
    for path, value in point.items():
        if path not in spec.searched:
            yield path, f"`{path}` in points is not searched{refusal.nearest(path, spec.searched)}"
        elif not spec.searched[path].contains(value):
            yield path, f"`{path}` = {value!r} lies outside its searched range; widen the range or move the point"
        elif not spec.is_active(path, point):
            conditions = spec.searched[path].conditions
            yield path, f"`{path}` exists only when {conditions}; let the point say so, or leave `{path}` out of it"


def _widening(spec: SweepSpec) -> Iterator[Finding]:
    paths_widened = [path for path, parameter in spec.searched.items() if parameter.widen]
    for index, path in enumerate(paths_widened):
        at = ("parameters", path, "widen")
        if spec.method != "grid":
            yield at, f"`widen` is for method grid, got {spec.method}; give `{path}` a wider range instead"
        if spec.early_terminate is not None:
            yield at, "`widen` compares trials at their end; remove `early_terminate`, which stops them before"
        if index:
            yield (
                at,
                f"one parameter can be widened, and `{paths_widened[0]}` is already; remove `widen` from one of them",
            )
        if not path.startswith("training.") or path == "training.batch_size":
            yield at, f"`{path}` cannot be widened: data and memory are prepared for the values of the file; list more"
        for other, parameter in spec.parameters.items():
            if any(giver(asked, [path]) for asked in parameter.when):
                yield at, f"`{path}` cannot be widened: whether `{other}` exists depends on its values"


def _strata(spec: SweepSpec) -> Iterator[Finding]:
    within = spec.early_terminate.within if spec.early_terminate else None
    for at, path in ((("balanced",), spec.balanced), (("early_terminate", "within"), within)):
        parameter: Parameter | None = spec.searched.get(path or "")
        if path is None:
            continue
        if parameter is None:
            yield at, f"`{path}` is not searched{refusal.nearest(path, spec.searched)}"
        elif parameter.choices is None:
            yield at, f"`{path}` must have finitely many values to be kept apart; give it `values`"
        elif parameter.when and at == ("balanced",):
            yield at, f"`{path}` must exist in every trial to be dealt evenly; remove its `when`"
    if spec.balanced and spec.method == "grid":
        yield ("balanced",), "a grid is balanced already; remove `balanced` or use method bayes, random or quasi"


def _rungs(spec: SweepSpec, remarks: list[Finding]) -> Iterator[Finding]:
    rule, at = spec.early_terminate, ("early_terminate",)
    if rule is None:
        return
    if (rule.min_iter is None) == (rule.max_iter is None):
        yield at, "give either `min_iter` or `max_iter` (with `s`), in epochs"
    if (rule.s is None) != (rule.max_iter is None):
        yield at, "`max_iter` and `s` come together: rungs at max_iter / eta^i for i = 1..s"
    epochs = spec.training.epochs
    if not rule.rungs(epochs):
        text = f"stops no trial: it decides from epoch {math.ceil(rule.first)} on, and trials end with epoch {epochs}"
        remarks.append(((*at, "min_iter" if rule.min_iter else "max_iter"), f"`early_terminate` {text}"))
