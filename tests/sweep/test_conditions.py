"""`when`: which parameters exist, in which order they are chosen, and which conditions are refused."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tune_newllm.errors import SpecError
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import Source, parse_yaml

SPACE = {
    "model.init": {"values": ["he", "original", "orthogonal"]},
    "model.num_layers": {"min": 1, "max": 6},
    "model.dropout": {"min": 0.0, "max": 0.5},
    "training.optimizer": {"values": ["adam", "sgd"]},
    "training.batch_size": {"values": [8, 16, 64]},
    "training.clip.norm": {"distribution": "log_uniform_values", "min": 0.1, "max": 10},
}
ASKED = {
    "model.init": ["he", ["original", "orthogonal"]],
    "model.num_layers": [3, {"min": 2}, {"max": 4}, {"min": 2, "max": 5}],
    "model.dropout": [{"max": 0.2}, {"min": 0.1, "max": 0.4}],
    "training.optimizer": ["adam", ["adam", "sgd"]],
    "training.batch_size": [8, [16, 64], {"min": 9}],
    "training.clip.norm": [{"min": 1}],
    "training.clip.schedule": ["constant", ["none", "linear"]],
    "model.hidden_dim": [512, {"max": 511}],
}
FIXED = {"training.clip.schedule": "constant", "model.hidden_dim": 512}

EXAMPLE = """\
training: {clip: {schedule: constant}}
parameters:
  training.clip.norm: {min: 0.1, max: 2.0, when: {training.clip.schedule: constant, model.init: he}}
  training.clip.schedule: {values: [none, constant, piecewise]}
  training.clip.table:
    values: [[[0, 1.0]], [[0, 0.5], [3, 1]]]
    when: {training.clip: piecewise}
  training.batch_size: {values: [8, 64, 512]}
  training.lr_rule: {values: [none, sqrt-sde], when: {training.batch_size: {max: 64}}}
points: [{training.clip.schedule: constant, training.clip.norm: 1}]
model: {init: he}
"""


def parse(text, *overrides, warnings=None):
    return parse_spec(parse_yaml(text, "x"), overrides, warnings)


@st.composite
def spaces(draw):
    """Parameters with random conditions on others, written in another order than they depend on each other."""
    chain = draw(st.permutations(list(SPACE)))
    parameters = {}
    for index, path in enumerate(chain):
        earlier = [*chain[:index], *FIXED]
        about = draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True))
        when = {asked: draw(st.sampled_from(ASKED[asked])) for asked in about}
        parameters[path] = SPACE[path] | ({"when": when} if when else {})
    return {path: parameters[path] for path in draw(st.permutations(chain))}


def exists(path, values, parameters):
    """The definition, written down once more."""
    for asked, wanted in parameters[path].get("when", {}).items():
        if asked in parameters and not exists(asked, values, parameters):
            return False
        value = FIXED[asked] if asked in FIXED else values[asked]
        if isinstance(wanted, dict):
            if not wanted.get("min", value) <= value <= wanted.get("max", value):
                return False
        elif value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


@settings(deadline=None, max_examples=60)
@given(parameters=spaces(), units=st.lists(st.floats(0.01, 0.99), min_size=len(SPACE), max_size=len(SPACE)))
def test_a_configuration_has_what_exists_and_nothing_else(parameters, units):
    try:
        spec = parse_spec(Source("x", {"parameters": parameters}))
    except SpecError as error:
        # Conditions that exclude each other are refused, and nothing else is wrong with these spaces.
        assume("exclude each other" not in str(error))
        raise
    assert sorted(spec.order) == sorted(parameters)
    chosen = {}
    for path, u in zip(spec.order, units, strict=True):
        if spec.is_active(path, chosen):
            chosen[path] = spec.searched[path].from_unit(u)
    drawn = {path: spec.searched[path].from_unit(u) for path, u in zip(spec.order, units, strict=True)}
    assert set(chosen) == {path for path in parameters if exists(path, drawn, parameters)}
    tree = spec.configuration(chosen).to_dict()
    for path, parameter in spec.searched.items():
        section, *keys = path.split(".")
        value = tree[section]
        for key in keys:
            value = value[key]
        if path in chosen:
            assert parameter.contains(value)
        else:
            with pytest.raises(SpecError, match=f"`{path}` exists only when"):
                spec.configuration({**chosen, path: drawn[path]})


def test_a_table_is_tried_with_the_schedule_it_belongs_to():
    spec = parse(EXAMPLE)
    assert spec.order.index("training.clip.schedule") < spec.order.index("training.clip.norm")
    assert not spec.is_active("training.clip.table", {"training.clip.schedule": "constant"})
    assert spec.is_active("training.clip.table", {"training.clip.schedule": "piecewise"})
    assert parse(spec.to_yaml()) == spec


def test_conditions_look_inside_sections_that_are_searched_or_switched_off():
    text = """\
training: {early_stopping: none}
parameters:
  training.clip: {values: [none, {schedule: linear, norm: 2}]}
  training.lr: {values: [0.1, 0.2], when: {training.clip.schedule: linear, training.clip.norm: 2}}
  model.dropout: {values: [0.0, 0.5], when: {training.clip.norm: {max: 1.5}}}
  model.ctx_dim: {values: [8, 16], when: {training.early_stopping: none}}
  model.embed_dim: {values: [8, 16], when: {training.early_stopping.patience: 10}}
  model.hidden_dim: {value: 64, when: {model.ctx_dim: 8}}
  model.num_layers: {values: [1, 2], when: {model.hidden_dim: 64}}
"""
    warnings = []
    spec = parse(text, warnings=warnings)
    linear = {"training.clip": {"schedule": "linear", "norm": 2}}
    assert [spec.is_active("training.lr", given) for given in ({}, {"training.clip": "none"}, linear)] == [0, 0, 1]
    assert [spec.is_active("model.dropout", given) for given in ({"training.clip": "none"}, linear)] == [True, False]
    assert spec.is_active("model.ctx_dim", {})
    assert len(warnings) == 1
    assert warnings[0].startswith("x:7: `model.embed_dim` never exists")
    assert [spec.configuration({"model.ctx_dim": size}).model.hidden_dim for size in (8, 16)] == [64, 512]
    assert [spec.is_active("model.num_layers", {"model.ctx_dim": size}) for size in (8, 16)] == [True, False]


def test_fixing_a_parameter_decides_what_hangs_on_it():
    warnings = []
    spec = parse(EXAMPLE, "training.clip.schedule=none", warnings=warnings)
    assert not spec.is_active("training.clip.norm", {})
    assert spec.points == []
    assert [line.split(": ", 1)[0] for line in warnings] == ["x:3", "x:7"]
    assert parse(EXAMPLE, "training.clip.schedule=constant").points == [{"training.clip.norm": 1}]
    assert parse(EXAMPLE, "model.init=original").points == [{"training.clip.schedule": "constant"}]
    assert parse(EXAMPLE, "parameters.training.batch_size.values=[16]", "training.batch_size=128").searched.keys() == {
        "training.clip.norm", "training.clip.schedule", "training.clip.table", "training.lr_rule",
    }  # fmt: skip


def test_what_never_exists_or_asks_for_values_never_taken_is_a_warning():
    text = """\
parameters:
  model.dropout: {values: [0.0, 0.5], when: {model.init: original}}
  model.ctx_dim: {values: [8, 16], when: {model.dropout: 0.5}}
  model.embed_dim: {values: [8, 16], when: {training.batch_size: [8, 9]}}
  training.batch_size: {values: [8, 16]}
"""
    warnings = []
    parse(text, warnings=warnings)
    assert warnings == [
        "x:2: `model.dropout` never exists: `model.init` is original, but the configuration has 'orthogonal'",
        "x:3: `model.ctx_dim` never exists, because `model.dropout` does not",
        "x:4: `model.embed_dim` asks in `when` for `training.batch_size` = 9, which is none of the values of "
        "`training.batch_size`",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("{training.clip.schedule: constant, model", "{training.clip.norm: 3, model", 3,
         "circle: `training.clip.norm` -> `training.clip.norm`"),
        ("{values: [8, 64, 512]}", "{values: [8, 64], when: {training.lr_rule: none}}", 8,
         "circle: `training.batch_size` -> `training.lr_rule` -> `training.batch_size`"),
        ("model.init: he", "training.precision: fp32", 3, "`training.precision`, which is auto until the sweep starts"),
        ("model.init: he", "model.int: he", 3, "`model.int`, which is no path.*`model.init`"),
        ("model.init: he", "model.init: hee", 3, "impossible `model.init`: it must be .* got 'hee'; did you mean `he`"),
        ("training.clip: piecewise", "training.clip: linear", 7, "can never exist: .* is linear, but that is none"),
        ("{max: 64}", "{min: 513}", 9, "can never exist: `training.batch_size` is at least 513, but"),
        ("{max: 64}", "{min: 9, max: 63}", 9, "can never exist: `training.batch_size` lies in 9..63, but"),
        ("{max: 64}", "{mx: 64}", 9, "a condition is a value, a list of values, or .*, got {'mx': 64}"),
        ("{max: 64}", "{training.clip: none}", 9, "a condition is a value"),
        ("when: {training.clip: piecewise}", "when: piecewise", 7, "`when` is a mapping of paths"),
        ("{training.clip: piecewise}", "{training.clip: piecewise, training.clip.norm: 1}", 7, "exclude each other"),
        ("[0, 0.5], [3, 1]", "[1, 0.5], [3, 1]", 5, "`training.clip.table`: .* beside training.clip.schedule"),
        ("{max: 64}", "{min: 64}", 8, "`training.batch_size`: .* beside training.lr_rule = 'sqrt-sde'"),
        ("clip.schedule: constant, training", "clip.schedule: none, training", 10,
         "`training.clip.norm` exists only when .*; let the point say so, or leave"),
        ("[{training.clip.schedule: constant, ", "[{", 10, "`training.clip.norm` exists only when"),
        ("points: [", "balanced: training.lr_rule\npoints: [", 10, "must exist in every trial to be dealt evenly"),
    ],
)  # fmt: skip
def test_impossible_conditions_are_refused_with_line_and_rule(old, new, line, words):
    assert old in EXAMPLE
    with pytest.raises(SpecError, match=words) as caught:
        parse(EXAMPLE.replace(old, new, 1))
    assert str(caught.value).startswith(f"x:{line}:")


def test_a_point_that_gives_everything_must_be_possible():
    text = """\
parameters: {training.batch_size: {values: [8, 512]}, training.lr_rule: {values: [none, sqrt-sde]}}
points: [{training.batch_size: 8, training.lr_rule: sqrt-sde}, {training.batch_size: 512, training.lr_rule: sqrt-sde}]
"""
    with pytest.raises(
        SpecError, match=r"x:2: this point is no possible configuration: `training.batch_size`: must be"
    ):
        parse(text)
