"""The sweep file's grammar as a JSON schema, for editors: made from the same classes that validate the file.

Whatever `load_spec` accepts, the schema accepts. It knows keys, types and words; rules between keys (`min` < `max`,
conditions in a circle) are the validator's alone.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from tune_newllm.sweep import distributions
from tune_newllm.sweep.names import NAMES
from tune_newllm.sweep.spec import DURATION, SweepSpec
from tune_newllm.sweep.tree import SECTIONS, SHORTHANDS, SWITCHES, paths
from tune_newllm.sweep.wandb import COMMON, IGNORED_KEYS, ONLY_WANDB

Schema = dict[str, Any]
DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCALAR: Schema = {"type": ["string", "number", "boolean", "null"]}


def schema() -> Schema:
    """The whole schema."""
    tree = SweepSpec.model_json_schema()
    classes = tree["$defs"]
    for kind in [tree, *classes.values()]:
        kind["description"] = _prose(kind.get("description", ""))
        for field in kind.get("properties", {}).values():
            field.pop("title", None)
    _add_words(tree, classes)
    classes["Budget"]["properties"]["wall"] = {
        "description": "seconds, or a duration such as 2h, 90m, 45s or 1d 12h",
        "anyOf": [
            {"type": "number", "exclusiveMinimum": 0},
            {"type": "string", "pattern": f"^({DURATION})+\\s*$"},
            {"type": "null"},
        ],
    }
    classes["Condition"] = _condition()
    classes["Parameter"] = _parameter(classes["Parameter"])
    for prefix in _groups():
        classes[f"parameters{prefix and '.'}{prefix}"] = _group(prefix)
    _admit_wandb(tree, classes)
    return {"$schema": DIALECT, **tree, "title": "Sweep file of tune_newllm"}


def _add_words(tree: Schema, classes: Schema) -> None:
    """Words that stand for mappings: `clip: none`, `early_stopping: none`."""
    for path in [*SHORTHANDS, *SWITCHES]:
        section, name = path.split(".")
        fields = classes[SECTIONS[section].__name__]["properties"]
        branches = fields[name].pop("anyOf", None) or [{"$ref": fields[name].pop("$ref")}]
        words = ["none"]
        if path in SHORTHANDS:
            inner = classes[branches[0]["$ref"].rpartition("/")[2]]["properties"]
            words = inner[SHORTHANDS[path]]["enum"]
        fields[name]["anyOf"] = [*branches, {"enum": [*words, *([None] if "none" in words else [])]}]
    tree["properties"]["early_terminate"]["anyOf"].append({"const": "none"})


def _condition() -> Schema:
    bounds = {"min": {"type": "number"}, "max": {"type": "number"}}
    return {
        "description": "what must hold of a path: one value, one of several, or a number in a range, ends included",
        "anyOf": [
            SCALAR,
            {"type": "array", "items": SCALAR, "minItems": 1},
            {"type": "object", "properties": bounds, "minProperties": 1, "additionalProperties": False},
        ],
    }


def _parameter(fields: Schema) -> Schema:
    """One parameter: its keys depend on `distribution`, which without that key follows from the others."""
    known = {key: _without_null(field) if key != "value" else field for key, field in fields["properties"].items()}
    known["distribution"].pop("default")
    known["when"] |= {"minProperties": 1, "propertyNames": {"enum": paths()}}
    named: Schema = {"required": ["distribution"]}
    by_name = [
        {
            "if": {**named, "properties": {"distribution": {"const": name}}},
            "then": _keys(*distributions.keys(name)),
        }
        for name in distributions.DISTRIBUTIONS
    ]
    constant, values, weighed = _keys({"value"}, set()), {"values"}, {"values", "probabilities"}
    told = [constant, _keys(values, {"widen"}), _keys(weighed, set()), _keys({"min", "max"}, set())]
    inferred = {"if": {"not": named}, "then": {"anyOf": told}}
    return {**fields, "properties": known, "allOf": [*by_name, inferred]}


def _keys(needed: set[str], allowed: set[str]) -> Schema:
    return {
        "required": sorted(needed),
        "propertyNames": {"enum": sorted({"distribution", "when"} | needed | allowed)},
    }


def _without_null(field: Schema) -> Schema:
    """A field that may be left out but not be empty."""
    (kept,) = [branch for branch in field.get("anyOf", [{}]) if branch.get("type") != "null"]
    return {key: value for key, value in {**field, **kept}.items() if key != "anyOf" and value is not None}


def _groups() -> Iterator[str]:
    """Prefixes under which parameters may be nested: none, and every section."""
    yield ""
    yield from sorted({path.rpartition(".")[0] for path in paths()})


def _group(prefix: str) -> Schema:
    """The parameters below a prefix, each by the rest of its path, or nested once more."""
    start = f"{prefix}." if prefix else ""
    one: Schema = {"$ref": "#/$defs/Parameter"}
    below = {path.removeprefix(start): one for path in paths() if path.startswith(start)}
    for section in _groups():
        if section.startswith(start) and section != prefix:
            name = section.removeprefix(start)
            nested: Schema = {
                "type": "object",
                "properties": {"parameters": {"$ref": f"#/$defs/parameters.{section}"}},
                "required": ["parameters"],
                "additionalProperties": False,
            }
            below[name] = {"anyOf": [below[name], nested]} if name in below else nested
    return {"type": "object", "properties": below, "additionalProperties": False}


def _admit_wandb(tree: Schema, classes: Schema) -> None:
    """Keys that are ignored with a warning; a file written for W&B may name parameters and metric freely."""
    for section, keys in IGNORED_KEYS.items():
        name = {"metric": "Metric", "early_terminate": "EarlyTerminate"}[section]
        classes[name]["properties"] |= {key: _ignored(why) for key, why in keys.items()}
    fields: Schema = tree["properties"] | {key: _ignored(why) for key, why in ONLY_WANDB.items()}
    ours: Schema = {"parameters": {"$ref": "#/$defs/parameters"}, "metric": fields["metric"], "name": False}
    theirs: Schema = {"parameters": {"type": "object"}, "metric": {"type": "object"}}
    bare: Schema = {
        "required": ["parameters"],
        "properties": {"parameters": {"propertyNames": {"pattern": r"^[^.]*$"}, "anyOf": _one_of(NAMES)}},
        "anyOf": [{"required": ["name"]}, {"required": ["method"], "propertyNames": {"enum": sorted(COMMON)}}],
    }
    foreign: Schema = {"anyOf": [*_one_of(key for key in ONLY_WANDB if key != "name"), bare]}
    tree["properties"] = {**fields, "parameters": {"type": "object"}, "metric": {"type": "object"}}
    tree |= {"if": foreign, "then": {"properties": theirs}, "else": {"properties": ours}}


def _one_of(keys: Iterable[str]) -> list[Schema]:
    return [{"required": [key]} for key in keys]


def _ignored(why: str) -> Schema:
    return {"description": f"of W&B, ignored: {why}", "deprecated": True}


def _prose(text: str) -> str:
    """A docstring's own words, without its lists of arguments and errors."""
    return " ".join(re.split(r"\n\s*Raises:", text)[0].split())
