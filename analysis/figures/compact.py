"""Figures as JSON for a page that holds many: texts that they share stand in it once, numbers take four bytes."""

import base64
import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from plotly.graph_objects import Figure
from plotly.utils import PlotlyJSONEncoder

TEXTS = ("text", "hovertext", "customdata")
"""Where a trace has one text per point."""

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


def compact(figure: Figure, texts: Texts) -> str:
    """The figure's JSON. Per-point texts become `{"texts": their numbers in texts}`, to be put back before it is drawn.

    It can stand in a script element.
    """
    tree = _smaller(figure.to_dict())
    for trace in tree["data"]:
        for name in TEXTS:
            values = trace.get(name)
            if isinstance(values, list | tuple | np.ndarray) and all(v is None or isinstance(v, str) for v in values):
                trace[name] = {"texts": packed(texts.number(values))}
    return safe(json.dumps(tree, cls=PlotlyJSONEncoder, separators=(",", ":")))


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
        numbers = np.frombuffer(base64.b64decode(node["bdata"]), dtype="<f8")
        if not (np.abs(numbers) >= EXACT).any():
            return node | packed(numbers.astype("<f4"))
        return node
    return {key: _smaller(value) for key, value in node.items()}


def packed(numbers: np.ndarray) -> dict[str, str]:
    """Whole or real numbers as plotly packs them: kind and size of a number, and all of them in base 64."""
    kind = f"{numbers.dtype.kind}{numbers.dtype.itemsize}"
    return {"dtype": kind, "bdata": base64.b64encode(numbers.tobytes()).decode("ascii")}
