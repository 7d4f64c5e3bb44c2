"""Distributions against their definitions (W&B Sweeps' words), and the way into Optuna and back."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from tune_newllm.sweep.distributions import DISTRIBUTIONS
from tune_newllm.sweep.space import Parameter

UNITS = (np.arange(4000) + 0.5) / 4000

CONTINUOUS = [
    ({"min": 1.0, "max": 3.0}, stats.uniform(1, 2)),
    ({"distribution": "uniform", "min": -1, "max": 1}, stats.uniform(-1, 2)),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, stats.loguniform(1e-4, 1e-2)),
    ({"distribution": "log_uniform", "min": -9, "max": -2}, stats.loguniform(math.exp(-9), math.exp(-2))),
    ({"distribution": "inv_log_uniform_values", "min": 2, "max": 50}, stats.loguniform(2, 50)),
    ({"distribution": "inv_log_uniform", "min": -3, "max": -1}, stats.loguniform(math.exp(1), math.exp(3))),
    ({"distribution": "normal", "mu": 2, "sigma": 3}, stats.norm(2, 3)),
    ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.e)),
    ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
]


@pytest.mark.parametrize(("keys", "law"), CONTINUOUS)
def test_continuous_distributions_have_the_quantiles_of_their_law(keys, law):
    parameter = Parameter(**keys)
    values = [parameter.from_unit(u) for u in UNITS]
    assert np.allclose(values, law.ppf(UNITS), rtol=1e-6)
    for value in values[::97]:
        assert parameter.from_study(parameter.to_study(value)) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"distribution": "q_uniform", "min": 1, "max": 10, "q": 4}, {4, 8}),
        ({"distribution": "q_log_uniform_values", "min": 16, "max": 100, "q": 16}, {16, 32, 48, 64, 80, 96}),
        ({"distribution": "q_log_uniform", "min": 0, "max": 2, "q": 0.5}, {x / 2 for x in range(2, 15)}),
        ({"distribution": "q_beta", "a": 1, "b": 1, "q": 0.25}, {0.0, 0.25, 0.5, 0.75, 1.0}),
        ({"min": 2, "max": 5}, {2, 3, 4, 5}),
        ({"distribution": "int_uniform", "min": 0, "max": 1999}, set(range(2000))),
        ({"values": [8, "a", None]}, {8, "a", None}),
    ],
)
def test_finite_distributions_reach_every_value_and_no_other(keys, expected):
    parameter = Parameter(**keys)
    values = {parameter.from_unit(u) for u in UNITS}
    assert values == expected
    assert {type(value) for value in values} == {type(value) for value in expected}
    assert {parameter.from_study(parameter.to_study(value)) for value in values} == expected


def test_quantised_normal_rounds_to_multiples_of_q():
    values = [Parameter(distribution="q_normal", mu=10, sigma=20, q=5).from_unit(u) for u in UNITS]
    assert all(value % 5 == 0 for value in values)
    assert min(values) < -40 < 60 < max(values)


@pytest.mark.parametrize("named", [{}, {"distribution": "categorical"}])
def test_probabilities_are_shares(named):
    parameter = Parameter(values=["a", "b", "c"], probabilities=[1, 2, 1], **named)
    values = [parameter.from_unit(u) for u in UNITS]
    assert [values.count(x) / len(values) for x in "abc"] == pytest.approx([0.25, 0.5, 0.25], abs=1e-3)


def test_choices_that_are_no_scalars_pass_through_the_study():
    choices = [{"schedule": "none"}, {"schedule": "constant", "norm": 0.5}]
    parameter = Parameter(values=choices)
    assert [parameter.from_study(parameter.to_study(choice)) for choice in choices] == choices


def test_ordered_numbers_keep_their_order_in_the_study():
    assert [Parameter(values=[8, 32, 128]).to_study(x) for x in (8, 32, 128)] == [0, 1, 2]


@settings(deadline=None)
@given(low=st.floats(1e-6, 1e3), factor=st.floats(1.5, 1e4), q=st.floats(1e-3, 10), u=st.floats(1e-9, 1 - 1e-9))
def test_every_sample_lies_inside_its_bounds(low, factor, q, u):
    high = low * factor
    for name in ("uniform", "log_uniform_values", "q_uniform", "q_log_uniform_values"):
        keys = {"distribution": name, "min": low, "max": high} | ({"q": q} if name.startswith("q_") else {})
        try:
            parameter = Parameter(**keys)
        except ValidationError:
            # No multiple of q lies between such close bounds.
            assert q > high - low
            continue
        value = parameter.from_unit(u)
        assert low * (1 - 1e-9) <= value <= high * (1 + 1e-9)
        assert parameter.distribution_in_study._contains(parameter.to_study(value))


@pytest.mark.parametrize(
    ("keys", "rule"),
    [
        ({"min": 3, "max": 1}, "`min` < `max`"),
        ({"distribution": "log_uniform", "min": 1e-4, "max": 1e-2}, "look like values"),
        ({"distribution": "log_uniform", "min": 16, "max": 512}, "look like values"),
        ({"distribution": "log_uniform", "min": 0, "max": 0.1}, "look like values"),
        ({"distribution": "log_uniform", "min": 1e-3, "max": 2}, "look like values"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "`min` > 0"),
        ({"distribution": "int_uniform", "min": 0.5, "max": 3}, "whole bounds"),
        ({"distribution": "uniform", "min": 1}, "needs `max`, `min`"),
        ({"values": [1, 2], "q": 3}, "takes .*, not `q`"),
        ({"values": []}, "one or more different values"),
        ({"values": [1, 1]}, "one or more different values"),
        ({"values": [1, 1.0]}, "one or more different values"),
        ({"values": [1], "when": {"training.clip": {"min": 3}}}, "a range of `training.clip`, which is a section"),
        ({"values": [1, 2], "probabilities": [1]}, "one number >= 0 for each value"),
        ({"distribution": "q_uniform", "min": 1, "max": 2, "q": 5}, "no multiple of q"),
        ({"distribution": "log_normal", "mu": 600}, "exponents of e, got mu 600"),
        ({"distribution": "normal", "mu": math.inf}, "finite number"),
        ({"values": None}, "`values` must have a value"),
        ({"values": [1], "when": {}}, "`when` is a mapping of paths"),
        ({"values": [1], "when": {"a": []}}, "a condition is a value, a list of values, or"),
        ({"values": [1], "when": {"a": {"mni": 1}}}, "a condition is a value, a list of values, or"),
        ({"values": [1], "when": {"a": {"min": "1"}}}, "a condition is a value, a list of values, or"),
        ({"values": [1], "when": {"a": {"min": 2, "max": 1}}}, "`min` <= `max` must hold, got min 2, max 1"),
        ({"values": [1], "when": {"training.clip": "none", "training.clip.schedule": "none"}}, "`when` asks .* twice"),
        ({}, "needs `value`"),
    ],
)
def test_impossible_parameters_are_refused_with_the_rule(keys, rule):
    with pytest.raises(ValidationError, match=rule):
        Parameter.model_validate(keys)


@st.composite
def parameters(draw):
    """Any distribution with keys that suit it."""
    name = draw(st.sampled_from(DISTRIBUTIONS))
    keys = {"distribution": name} | ({"q": draw(st.sampled_from([0.25, 1, 5]))} if name.startswith("q_") else {})
    if name == "constant":
        return keys | {"value": draw(st.integers())}
    if name.startswith("categorical"):
        values = draw(st.lists(st.integers(0, 99) | st.text(max_size=3) | st.booleans(), min_size=1, unique_by=repr))
        weights = st.lists(st.floats(0.1, 9), min_size=len(values), max_size=len(values))
        return keys | {"values": values} | ({"probabilities": draw(weights)} if "prob" in name else {})
    if "normal" in name:
        return keys | {"mu": draw(st.floats(-5, 5)), "sigma": draw(st.floats(0.1, 3))}
    if "beta" in name:
        return keys | {"a": draw(st.floats(0.5, 5)), "b": draw(st.floats(0.5, 5))}
    exponents = "log" in name and not name.endswith("_values")
    low = draw(st.integers(-3, 0) if exponents else st.integers(1, 50))
    return keys | {"min": low, "max": low + draw(st.integers(10, 12) if exponents else st.integers(10, 3000))}


@settings(deadline=None, max_examples=100)
@given(keys=parameters(), units=st.lists(st.floats(0.01, 0.99), min_size=2, max_size=2))
def test_every_distribution_draws_what_it_contains_in_order_and_remembers_it(keys, units):
    parameter = Parameter(**keys)
    low, high = (parameter.from_unit(u) for u in sorted(units))
    for value in (low, high, *parameter.extremes()):
        assert parameter.contains(value)
        again = parameter.from_study(parameter.to_study(value))
        assert again == (pytest.approx(value, rel=1e-6, abs=1e-9) if isinstance(value, float) else value)
        assert type(again) is type(value)
    if "categorical" not in keys["distribution"]:
        assert low <= high


def test_what_a_parameter_contains():
    assert not Parameter(min=1, max=5000).contains(12.5)
    assert not Parameter(values=[0, 1]).contains(True)
    assert not Parameter(distribution="log_normal").contains(0)
    assert Parameter(distribution="q_uniform", min=0, max=100, q=0.05).contains(0.15)
    assert not Parameter(distribution="q_uniform", min=0, max=100, q=0.05).contains(0.16)
    assert Parameter(distribution="normal").contains(-40)


def test_the_ends_of_a_part_of_the_range():
    assert Parameter(values=[8, 16, 64]).ends(10, 50) == [16, 16]
    assert Parameter(min=1, max=9).ends(4, math.inf) == [4, 9]
    assert Parameter(distribution="q_log_uniform_values", min=10, max=90000, q=10).ends(11, 35) == [20, 30]
    assert Parameter(min=0.5, max=2).ends(3, 4) == []
    assert Parameter(distribution="normal").ends(1, math.inf) == [1]
