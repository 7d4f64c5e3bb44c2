"""Random spaces with conditions, under every method: what is suggested holds its active parameters and no other."""

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sweeping import told

from tune_newllm.sweep.history import History
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.study import Study, config_id

POOL = {
    "model.init": {"values": ["he", "orthogonal", "original"]},
    "model.num_layers": {"min": 1, "max": 3},
    "training.clip.schedule": {"values": ["none", "constant"]},
    "training.batch_size": {"values": [8, 16]},
    "model.tied": {"values": [False, True]},
    "training.lr": {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-1},
    "model.dropout": {"min": 0.0, "max": 0.5},
}
FINITE = list(POOL)[:5]


def choices(path):
    return POOL[path].get("values") or list(range(POOL[path]["min"], POOL[path]["max"] + 1))


def holds(condition, value):
    if isinstance(condition, dict):
        return condition["min"] <= value
    return value in condition


def active(path, values, when):
    """Independent of the code under test: by the definition, from the roots up."""
    return all(
        asked in values and active(asked, values, when) and holds(condition, values[asked])
        for asked, condition in when[path].items()
    )


@st.composite
def spaces(draw, finite=False):
    """(paths in the order of the file, conditions by path)."""
    pool = FINITE if finite else list(POOL)
    chain = draw(st.permutations(pool))[: draw(st.integers(2, 5))]
    when = {}
    for index, path in enumerate(chain):
        parents = [one for one in chain[:index] if one in FINITE]
        asked = draw(st.lists(st.sampled_from(parents), max_size=2, unique=True)) if parents else []
        when[path] = {
            one: {"min": draw(st.integers(1, 3))}
            if one == "model.num_layers" and draw(st.booleans())
            else draw(st.lists(st.sampled_from(choices(one)), min_size=1, max_size=2, unique=True))
            for one in asked
        }
    return draw(st.permutations(chain)), when


def make_spec(order, when, **more):
    conditional = {path: {"when": when[path]} for path in order if when[path]}
    parameters = {path: POOL[path] | conditional.get(path, {}) for path in order}
    return SweepSpec.model_validate({"parameters": parameters, "training": {"epochs": 2}, **more})


def suggestions(spec, count, folder):
    """The first configurations, each told a made-up loss before the next is asked for."""
    history = History()
    study = Study(spec, Path(folder) / "journal", history)
    found = []
    while len(found) < count and (suggestion := study.suggest()) is not None:
        values, origin = suggestion
        found.append((values, origin))
        for record in told(len(found) - 1, config_id(values), values, origin, loss=float(len(repr(values)) % 7)):
            history.add(record)
        study.add(history.suggestions[len(found) - 1].trials[0])
        study.update(history.suggestions[len(found) - 1])
    return found


quick = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@quick
@given(space=spaces(), data=st.data())
@pytest.mark.parametrize("method", ["bayes", "random", "quasi"])
def test_a_configuration_holds_its_active_parameters_and_no_other(method, space, data):
    order, when = space
    roots = [path for path in order if path in FINITE and not when[path]]
    more = {"balanced": data.draw(st.sampled_from([None, *roots]))}
    pinned = data.draw(st.sampled_from([*roots, None]))
    if pinned:
        more["points"] = [{pinned: choices(pinned)[-1]}]
    with tempfile.TemporaryDirectory() as folder:
        found = suggestions(make_spec(order, when, method=method, **more), 13, folder)
    for values, _ in found:
        assert set(values) == {path for path in order if active(path, values, when)}
        for path, value in values.items():
            inside = value in choices(path) if path in FINITE else POOL[path]["min"] <= value <= POOL[path]["max"]
            assert inside, (path, value)
    assert len({config_id(values) for values, _ in found}) == len(found)
    if pinned:
        assert (found[0][0][pinned], found[0][1]) == (choices(pinned)[-1], "point")
    assert {origin for _, origin in found[bool(pinned) :]} <= {
        "bayes": {"startup", "sampler"}, "random": {"random"}, "quasi": {"quasi"},
    }[method]  # fmt: skip


@quick
@given(space=spaces(finite=True))
def test_a_grid_holds_each_distinct_configuration_once(space):
    order, when = space
    expected = set()
    for combination in itertools.product(*map(choices, order)):
        whole = dict(zip(order, combination, strict=True))
        expected.add(config_id({path: value for path, value in whole.items() if active(path, whole, when)}))
    with tempfile.TemporaryDirectory() as folder:
        found = [config_id(values) for values, _ in suggestions(make_spec(order, when, method="grid"), 1000, folder)]
    assert len(found) == len(set(found))
    assert set(found) == expected
