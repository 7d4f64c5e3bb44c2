"""Figures as the page holds them: the same numbers and texts, in less room."""

import base64
import json
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from analysis.body import body
from analysis.figures.compact import MOST_POINTS, Compact, Texts, compact
from analysis.markup import Section

EVIL = "</script><script>alert(1)</script><!--"


def unpacked(node: dict[str, str]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(node["bdata"]), dtype=node["dtype"])


def opened(made: Compact, texts: Texts) -> list[dict[str, Any]]:
    """The traces as the page's script reads them."""
    shared = json.loads(texts.to_json())
    traces: list[dict[str, Any]] = json.loads(made.json)["data"]
    for trace in traces:
        for name in ("text", "customdata"):
            if name in trace:
                trace[name] = [shared[at] for at in unpacked(trace[name]["texts"])]
    return traces


def test_texts_of_several_figures_stand_in_the_page_once() -> None:
    texts = Texts()
    ids = np.array(["a", "a", None, "b"], dtype="object")
    first = compact(go.Figure(go.Scatter(x=[1, 2, 3, 4], text=ids)), texts)
    second = compact(go.Figure(go.Scatter(x=[1, 2, 3, 4], customdata=ids)), texts)
    assert opened(first, texts)[0]["text"] == opened(second, texts)[0]["customdata"] == ["a", "a", None, "b"]
    assert json.loads(texts.to_json()) == [None, "a", "b"]


def test_numbers_keep_seven_digits_and_whole_ones_all() -> None:
    numbers = np.array([4.123456789, 1e-5, np.nan, 16_777_215.0])
    large = np.array([4.5, 123_456_789.0])
    figure = go.Figure([go.Scatter(x=numbers, y=numbers), go.Scatter(x=large, y=large)])
    traces = opened(compact(figure, Texts()), Texts())
    assert traces[0]["y"]["dtype"] == "f4"
    assert unpacked(traces[0]["y"]).tolist() == pytest.approx(numbers.tolist(), rel=1e-7, nan_ok=True)
    assert unpacked(traces[0]["y"])[3] == 16_777_215
    assert unpacked(traces[1]["y"]).tolist() == large.tolist()


def test_of_too_many_markers_some_are_left_with_all_that_belongs_to_them() -> None:
    count = 10_000
    at = np.arange(count, dtype="float64")
    marker = {"color": at, "size": 5, "symbol": [["circle", "x"][n % 2] for n in range(count)]}
    texts = Texts()
    names = np.array([f"trial {n}" for n in range(count)], dtype="object")
    points = go.Scatter(x=at, y=2 * at, text=names, mode="markers", marker=marker)
    line = go.Scatter(x=at, y=at, mode="lines")
    made = compact(go.Figure([points, line]), texts)
    thin, whole = opened(made, texts)
    x = unpacked(thin["x"])
    assert (made.drawn, made.points, len(x)) == (MOST_POINTS, count, MOST_POINTS)
    assert (x[0], x[-1]) == (0, count - 1)
    assert set(np.diff(x)) == {6, 7}
    assert (unpacked(thin["y"]) == 2 * x).all()
    assert (unpacked(thin["marker"]["color"]) == x).all()
    assert thin["text"] == [f"trial {n:.0f}" for n in x]
    assert thin["marker"]["symbol"] == [["circle", "x"][int(n) % 2] for n in x]
    assert len(unpacked(whole["x"])) == count
    assert "Drawn are 1,500 of 10,000 points" in body(
        [Section("a", "A", "", [go.Figure([points, line]).update_layout(height=90)])]
    )


def test_no_text_ends_the_script_it_stands_in() -> None:
    texts = Texts()
    figure = go.Figure(go.Scatter(x=[1], text=[EVIL], name=EVIL), {"title": {"text": EVIL}})
    made = compact(figure, texts)
    assert "<" not in made.json + texts.to_json()
    assert json.loads(made.json)["layout"]["title"]["text"] == EVIL
    assert opened(made, texts)[0]["text"] == [EVIL]
