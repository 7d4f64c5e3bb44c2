"""The JSON schema against the validator: it refuses nothing that is valid, and sees what is wrong in form."""

import copy
import json

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tune_newllm.cli.main import commands
from tune_newllm.errors import SpecError
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.schema import schema
from tune_newllm.sweep.source import Source

VALIDATOR = jsonschema.Draft202012Validator(schema())

SECTIONS = {
    "description": [""],
    "corpus": [
        {},
        {"name": "toy", "vocab_size": 100, "max_samples": 1e2},
        {"name": "text", "train": ["a"], "validation": "b"},
    ],
    "model": [{}, {"init": "he", "ctx_dim": 8, "dropout": 0, "tied": True}],
    "training": [
        {"clip": "none", "lr_schedule": "cosine", "early_stopping": "none", "micro_batch": 4},
        {"clip": None, "lr_schedule": {"name": "linear", "warmup": 0.1}, "early_stopping": {"patience": 3}},
        {"clip": {"schedule": "piecewise", "table": [[0, 1.0], [5, 2]]}, "precision": "bf16", "lr": 1},
    ],
    "method": ["bayes", "random", "quasi"],
    "metric": [{}, {"name": "val_loss", "goal": "minimize"}, {"name": "val_loss", "target": 3, "impute": "best"}],
    "early_terminate": [
        None,
        "none",
        {"min_iter": 1},
        {"type": "asha", "max_iter": 9, "s": 2, "eta": 2, "strict": True},
    ],
    "seeds": [1, 3],
    "run_cap": [7, None],
    "budget": [{"wall": 60}, {"wall": "1d 2h"}, {"device_hours": 0.5, "epochs": 90, "wall": None}],
    "resources": [{"cpus_per_trial": 2, "gpus_per_trial": "auto"}, {"max_concurrent": 2, "address": "local"}],
}  # fmt: skip
PARAMETERS = {
    "training.lr": [
        {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2},
        {"distribution": "log_normal", "mu": -6, "sigma": 0.5},
        {"value": 0.5},
        {"min": 0.1, "max": 1, "when": {"model.init": ["he", "original"], "model.ctx_dim": {"min": 8}}},
    ],
    "training.batch_size": [{"values": [8, 16]}, {"distribution": "q_uniform", "min": 8, "max": 64, "q": 8}],
    "model.num_layers": [{"min": 1, "max": 4}, {"values": [1, 2], "probabilities": [1, 3]}],
    "model.dropout": [{"distribution": "beta", "a": 2, "b": 9}, {"distribution": "constant", "value": 0.1}],
    "training.clip": [{"values": ["none", {"norm": 2}]}, {"parameters": {"norm": {"min": 0.5, "max": 2.5}}}],
}
WANDB = [
    {
        "program": "fit.py",
        "metric": {"name": "loss", "goal": "maximize"},
        "parameters": {"batch_size": {"value": 4}},
    },
    {"method": "random", "metric": {"name": "loss"}, "parameters": {"lr": {"value": 1}, "conv": {"value": 2}}},
    {"name": "first", "seeds": 2, "parameters": {"lr": {"min": 0.1, "max": 1}}},
]
OTHER_TYPES = [True, "odd", 3.5, [], {}, None, -1]
FREE = {"value", "values", "when"}
"""Below these the schema does not know what fits."""
TEXTS = [("description",), ("balanced",), ("resources", "address")]
TEXTS += [("corpus", key) for key in ("name", "train", "validation")]
"""Where any text has the right form."""


@st.composite
def documents(draw):
    """Sweep files put together from valid parts, some of them W&B's."""
    if draw(st.integers(0, 9)) == 0:
        return copy.deepcopy(draw(st.sampled_from(WANDB)))
    tree = {key: draw(st.sampled_from(some)) for key, some in SECTIONS.items() if draw(st.booleans())}
    chosen = draw(st.lists(st.sampled_from(list(PARAMETERS)), min_size=1, unique=True))
    tree["parameters"] = {path: draw(st.sampled_from(PARAMETERS[path])) for path in chosen}
    if draw(st.booleans()):
        inner = {path.removeprefix("training."): tree["parameters"].pop(path) for path in chosen if "training" in path}
        tree["parameters"]["training"] = {"parameters": inner}
    if "training.lr" in tree["parameters"] and "value" not in tree["parameters"]["training.lr"]:
        tree["balanced"] = draw(st.sampled_from([None, "training.batch_size"]))
    return copy.deepcopy(tree)


def places(node, at=()):
    """Every location in a document below its root."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield (*at, key)
        yield from places(child, (*at, key))


def holder(tree, at):
    for key in at[:-1]:
        tree = tree[key]
    return tree


def accepted(tree):
    try:
        parse_spec(Source("x", copy.deepcopy(tree)))
    except SpecError:
        return False
    return True


def agree(tree):
    if accepted(tree):
        problems = [f"{list(error.path)}: {error.message}" for error in VALIDATOR.iter_errors(tree)]
        assert not problems, (tree, problems)


@settings(deadline=None, max_examples=150)
@given(tree=documents(), data=st.data())
def test_what_the_validator_accepts_the_schema_accepts(tree, data):
    agree(tree)
    at = data.draw(st.sampled_from(list(places(tree))))
    node = holder(tree, at)
    match data.draw(st.integers(0, 2)):
        case 0:
            node[at[-1]] = data.draw(st.sampled_from(OTHER_TYPES))
        case 1:
            del node[at[-1]]
        case _:
            other = data.draw(st.sampled_from(list(places(tree))))
            node[at[-1]] = copy.deepcopy(holder(tree, other)[other[-1]])
    agree(tree)


@settings(deadline=None, max_examples=100)
@given(tree=documents(), data=st.data())
def test_both_refuse_unknown_keys_wrong_types_and_wrong_words(tree, data):
    assume(tree not in WANDB)
    known = [at for at in places(tree) if not set(at) & FREE and at[-1] not in ("strict", "target", "impute")]
    at = data.draw(st.sampled_from(known))
    node, old = holder(tree, at), holder(tree, at)[at[-1]]
    if isinstance(old, dict) and data.draw(st.booleans()):
        old["unheard_of"] = 1
    elif at[:2] in TEXTS or not isinstance(old, str | dict):
        node[at[-1]] = [["unheard of"]]
    else:
        node[at[-1]] = data.draw(st.sampled_from(["unheard of", ["unheard of"]]))
    assert not accepted(tree), (at, tree)
    assert not VALIDATOR.is_valid(tree), (at, tree)


@pytest.mark.parametrize(
    "tree",
    [
        {"parameters": {"lr": {"value": 1}}},
        {"method": "random", "seeds": 1, "parameters": {"lr": {"value": 1}}},
        {"name": "x", "parameters": {"training.lr": {"value": 1}}},
        {"parameters": {"training": {"parameters": {"clip": {"parameters": {"nrm": {"value": 1}}}}}}},
        {"parameters": {"training.lr": {"min": 0.1}}},
        {"parameters": {"training.lr": {"min": 0.1, "max": 1, "q": 1}}},
        {"parameters": {"training.lr": {"distribution": "q_uniform", "min": 0.1, "max": 1, "values": [1]}}},
        {"parameters": {"training.lr": {"distribution": "normal", "mu": None}}},
        {"parameters": {"training.lr": {"values": [1], "when": {"model.int": 1}}}},
        {"parameters": {"training.lr": {"values": [1], "when": {"model.init": {"mn": 1}}}}},
        {"training": {"clip": "some"}},
        {"training": {"lr_schedule": None}},
        {"budget": {"wall": "2 weeks"}},
        {"metric": {"name": "accuracy"}},
        {"method": "grid", "parameters": {"training.lr": {"values": [1, 2, 4], "widen": 0}}},
        {"method": "grid", "parameters": {"training.lr": {"values": [1, 2, 4], "widen": None}}},
        {"method": "grid", "parameters": {"training.lr": {"distribution": "constant", "value": 1, "widen": 1}}},
    ],
)
def test_both_refuse(tree):
    assert not accepted(tree)
    assert not VALIDATOR.is_valid(tree)


@pytest.mark.parametrize("named", [{}, {"distribution": "categorical"}])
def test_both_take_a_grid_that_may_be_widened(named):
    tree = {"method": "grid", "parameters": {"training.lr": {**named, "values": [1, 2, 4], "widen": 2}}}
    assert accepted(tree)
    assert VALIDATOR.is_valid(tree)


def test_the_command_prints_a_valid_schema_with_descriptions():
    printed = json.loads(CliRunner().invoke(commands, ["schema"]).stdout)
    jsonschema.Draft202012Validator.check_schema(printed)
    assert printed["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert printed["title"] == "Sweep file of tune_newllm"
    for name in ("ClipConfig", "EarlyTerminate", "Parameter", "Budget"):
        assert len(printed["$defs"][name]["description"]) > 40
    assert "Raises" not in json.dumps(printed)
