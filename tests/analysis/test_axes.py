"""Parameters as axes: where values lie and what the ticks say."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis.figures.axes import axis, linear_ticks, log_ticks
from analysis.words import ABSENT


def test_a_logarithmic_range_shows_its_own_values() -> None:
    rule = {"distribution": "log_uniform_values", "min": 1e-4, "max": 3e-2}
    line = axis(pd.Series([1e-3, 1e-2, 2e-4]), "training.lr", rule)
    assert line.kind == "log"
    assert line.positions.tolist() == pytest.approx([-3, -2, math.log10(2e-4)])
    assert line.tick_text == ["0.0001", "0.0003", "0.001", "0.003", "0.01", "0.03"]
    assert line.ticks == pytest.approx([math.log10(float(text)) for text in line.tick_text])
    assert (line.low, line.high) == pytest.approx((-4, math.log10(3e-2)))
    assert line.missing is None


def test_listed_values_are_evenly_spaced_in_order_of_size() -> None:
    line = axis(pd.Series([128, 8, 32, 8]), "training.batch_size", {"values": [8, 32, 128]})
    assert line.kind == "category"
    assert line.positions.tolist() == [2, 0, 1, 0]
    assert line.tick_text == ["8", "32", "128"]


def test_absent_values_lie_below_all_others_and_none_is_a_value_of_its_own() -> None:
    line = axis(pd.Series(["b", math.nan, None, "a"], dtype="object"), "x", {})
    assert line.tick_text == [ABSENT, "none", "a", "b"] or line.tick_text == [ABSENT, "a", "b", "none"]
    assert line.missing == line.low == line.positions[1] < min(np.delete(line.positions, 1))
    numbers = axis(pd.Series([1.0, math.nan, 3.0]), "x", {"distribution": "uniform", "min": 1, "max": 3})
    assert numbers.positions.tolist() == [1.0, numbers.missing, 3.0]
    assert (numbers.tick_text[0], numbers.ticks[0], numbers.low) == (ABSENT, numbers.missing, numbers.missing)


def test_a_single_value_has_an_axis() -> None:
    line = axis(pd.Series([3.0, 3.0]), "x")
    assert line.low < line.positions[0] < line.high
    assert line.tick_text == ["3"]


def test_whole_numbers_have_whole_ticks() -> None:
    assert axis(pd.Series([2, 4]), "epochs").tick_text == ["2", "3", "4"]


def test_bounds_stated_as_exponents_are_not_taken_for_values() -> None:
    line = axis(pd.Series([0.5, 2.0]), "x", {"distribution": "log_uniform", "min": -9.0, "max": 3.0})
    assert (line.low, line.high) == pytest.approx((math.log10(0.5), math.log10(2.0)))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-4, 3e-2, [1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2]),
        (3.2e-4, 2.9e-3, [5e-4, 1e-3, 2e-3]),
        (1, 1e6, [1, 10, 100, 1e3, 1e4, 1e5, 1e6]),
        (2.5, 3.5, [2.5, 3.5]),
    ],
)
def test_log_ticks(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == ticks


def test_linear_ticks() -> None:
    assert linear_ticks(4.1, 4.85) == [4.2, 4.4, 4.6, 4.8]
    assert linear_ticks(0, 0.5) == [0, 0.1, 0.2, 0.3, 0.4, 0.5]
