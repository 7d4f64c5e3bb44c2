"""Figures as JSON for a page that holds many: shared texts stand in it once, numbers take four bytes, and of very many
points some are drawn."""

import base64
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from plotly.graph_objects import Figure
from plotly.utils import PlotlyJSONEncoder

TEXTS = ("text", "hovertext", "customdata")
"""Where a trace has one text per point."""

MOST_POINTS = 1500
"""Markers of one trace that a browser draws without a pause; of more, every so many-th."""

EXACT = 2.0**24
"""Numbers below keep seven digits in four bytes, whole ones all of them."""


class Texts:
    """The texts of a page's figures; number 0 is none."""

    def __init__(self) -> None:
        self._numbers: dict[str | None, int] = {None: 0}

    def number(self, values: Iterable[str | None]) -> np.ndarray:
        return np.array([self._numbers.setdefault(value, len(self._numbers)) for value in values], dtype="uint32")

    def to_json(self) -> str:
        return safe(json.dumps(list(self._numbers), ensure_ascii=False, separators=(",", ":")))


class Compact(NamedTuple):
    """A figure's JSON, which can stand in a script element, and how many of its points that draws.

    Per-point texts are `{"texts": their numbers in the page's texts}`, to be put back before it is drawn.
    """

    json: str
    drawn: int
    points: int
    """Markers of the figure; not the points of its lines, which are all drawn."""


def compact(figure: Figure, texts: Texts) -> Compact:
    """The figure for a page; its texts are added to those of the page."""
    tree = _smaller(figure.to_dict())
    counts = [_thinned(trace) for trace in tree["data"]]
    for trace in tree["data"]:
        for name in TEXTS:
            values = trace.get(name)
            if isinstance(values, list | tuple | np.ndarray) and all(v is None or isinstance(v, str) for v in values):
                trace[name] = {"texts": packed(texts.number(values))}
    content = safe(json.dumps(tree, cls=PlotlyJSONEncoder, separators=(",", ":")))
    return Compact(content, sum(drawn for drawn, _ in counts), sum(points for _, points in counts))


def _thinned(trace: dict[str, Any]) -> tuple[int, int]:
    """Leave at most `MOST_POINTS` markers in a trace of nothing else; returns how many it holds then, and held."""
    if trace["type"] != "scatter" or trace.get("mode") != "markers":
        return 0, 0
    points = len(_unpacked(trace["x"]))
    if points <= MOST_POINTS:
        return points, points
    places = np.linspace(0, points - 1, MOST_POINTS).round().astype(int)

    def thin(node: Any) -> Any:
        if isinstance(node, dict) and "bdata" not in node:
            return {key: thin(value) for key, value in node.items()}
        values = _unpacked(node)
        if not isinstance(values, list | tuple | np.ndarray) or len(values) != points:
            return node
        return packed(values[places]) if isinstance(node, dict) else [values[place] for place in places]

    trace.update(thin(trace))
    return MOST_POINTS, points


def safe(text: str) -> str:
    """JSON that no browser takes for the end of the script element it stands in."""
    return text.replace("<", "\\u003c")


def _smaller(node: Any) -> Any:
    """The same tree with arrays of eight-byte numbers, which plotly packs, in four bytes where that keeps them."""
    if isinstance(node, list | tuple):
        return [_smaller(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("dtype") == "f8" and "bdata" in node:
        numbers = _unpacked(node)
        if not (np.abs(numbers) >= EXACT).any():
            return node | packed(numbers.astype("<f4"))
        return node
    return {key: _smaller(value) for key, value in node.items()}


def packed(numbers: np.ndarray) -> dict[str, str]:
    """Whole or real numbers as plotly packs them: kind and size of a number, and all of them in base 64."""
    kind = f"{numbers.dtype.kind}{numbers.dtype.itemsize}"
    return {"dtype": kind, "bdata": base64.b64encode(numbers.tobytes()).decode("ascii")}


def _unpacked(node: Any) -> Any:
    """The numbers of a packed array; anything else as it is."""
    if not (isinstance(node, dict) and "bdata" in node):
        return node
    return np.frombuffer(base64.b64decode(node["bdata"]), dtype=f"<{node['dtype']}")
