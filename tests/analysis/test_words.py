"""Numbers and names as a reader sees them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from analysis.words import ABSENT, counted, cut, digits, duration, export_command, fixed, label, listed, shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00316227, "0.003162"),
        (1e-4, "0.0001"),
        (3.1623e-5, "3.162e-5"),
        (1e-5, "1e-5"),
        (4.2, "4.2"),
        (4.21379, "4.214"),
        (12345.6, "12,350"),
        (4096, "4096"),
        (50_000, "50,000"),
        (2_739_432, "2.739e6"),
        (0.0, "0"),
        (-0.5, "-0.5"),
        (999_999.0, "1,000,000"),
        (math.inf, "inf"),
        (np.int64(128), "128"),
    ],
)
def test_digits(value: float, text: str) -> None:
    assert digits(value) == text


def test_columns_keep_their_zeros() -> None:
    assert [fixed(4.2), fixed(69.9), fixed(108.0), fixed(12345.6)] == ["4.200", "69.90", "108.0", "12,346"]
    assert [fixed(0.0123, 2), fixed(0.3, 2)] == ["0.012", "0.30"]


def test_values_as_a_person_writes_them() -> None:
    values = [None, True, math.nan, 32.0, np.int64(16), 0.1, "he", [[0, 0.5]]]
    assert [shown(value) for value in values] == ["none", "true", ABSENT, "32", "16", "0.1", "he", "[[0, 0.5]]"]
    mapping = {"schedule": "piecewise", "by": "step", "table": [[0, 0.5]]}
    assert shown(mapping) == shown(json.dumps(mapping)) == "piecewise, by step, table [[0, 0.5]]"
    assert shown("{not a mapping") == "{not a mapping"


def test_durations() -> None:
    assert [duration(s) for s in (0.4, 48, 580, 11_100)] == ["0 s", "48 s", "9 min 40 s", "3 h 5 min"]
    assert {duration(s) for s in (None, math.inf, math.nan)} == {"an unknown time"}


def test_names_and_counts() -> None:
    assert [label("training.lr"), label("training.micro_batch")] == ["learning rate", "micro batch"]
    assert [counted(1, "trial"), counted(1000, "trial")] == ["1 trial", "1,000 trials"]


def test_long_texts_and_lists_are_cut() -> None:
    assert cut("one\n two", 7) == "one two"
    assert [cut(text, 12) for text in ("one two. three four", "x" * 20)] == ["one two…", "x" * 11 + "…"]
    assert listed(list("abc")) == "a, b, c"
    assert listed(list("abcdefghijklmno")) == "a, b, c, d, e, f, g, h, i, j, k, l and 3 more"


def test_the_export_command_survives_a_shell() -> None:
    command = export_command(Path("my sweeps/a"), "t0001")
    assert command == "python -m tune_newllm export 'my sweeps/a' --trial t0001 --to exports/a-t0001"
