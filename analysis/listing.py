"""All trials with their settings and the commands about each, in columns that a page filters and shows in part."""

import json
import os
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from . import commands
from .figures.compact import packed, safe
from .figures.parallel import parallel_coordinates_data
from .figures.style import leader
from .load import Sweep
from .markup import kind, table
from .tables import absent
from .words import STATES, counted, fixed, label, shown

ROWS = 50
"""Shown at once, and the further ones that a click adds."""


class Column(NamedTuple):
    """One property of all trials, each of its values once."""

    head: str
    """Empty where only commands use it."""
    kind: str
    """`number` or nothing, as the classes of tables."""
    texts: list[str]
    """As the table shows the values."""
    at: list[int]
    """Of each trial the place of its value in `texts` and `words`."""
    option: str = ""
    """What stands before the value in a command."""
    words: list[str] | None = None
    """The values quoted for a shell; empty where the trial has none. None: commands do not use the column."""


class Listing(NamedTuple):
    """The trials of a sweep; rows are in order of suggestion, as the lines of the parallel coordinates are."""

    order: list[int]
    """Rows by rising loss, those without one last."""
    best: int | None
    """The row of the best trial."""
    columns: list[Column]
    commands: list[tuple[str, list[str | int]]]
    """What each is for, and its pieces; a number stands for that column's option and the trial's word."""
    kept: list[int] | None
    """Of each trial 1 where its weights are in the sweep's folder, else 0; None: the folder holds no trials."""
    axes: dict[str, np.ndarray]
    """Of each axis of the parallel coordinates, by its path: the positions of all trials."""


def listing(sweep: Sweep) -> Listing:
    """Every trial of the sweep."""
    trials = sweep.trials
    columns = [
        _column("trial", trials["trial_id"], str, word=shlex.quote),
        _column("state", trials["state"], STATES.__getitem__),
        _column("val loss", trials["value"], lambda value: "" if absent(value) else fixed(value), "number"),
        _column("perplexity", trials["ppl"], lambda value: "" if absent(value) else fixed(value), "number"),
        _column("epochs", trials["epochs"], str, "number"),
    ]
    for path in sweep.searched:
        values = trials[path]
        numeric = kind(value for value in values.tolist() if not absent(value))
        column = _column(label(path), values, lambda value: "" if absent(value) else shown(value), numeric, _word)
        columns.append(column._replace(option=commands.setting(path)))
    hidden = _unsearched(sweep)
    places = [*range(5, 5 + len(sweep.searched) + len(hidden))]
    export, train = commands.export_pieces(sweep), commands.training_pieces(sweep)
    made: list[tuple[str, list[str | int]]] = [
        ("Export its weights", [export[0], 0, export[1], 0]),
        ("Train it again, to the last epoch", [train[0], *places, train[1], 0]),
    ]
    order = np.argsort(trials["value"].to_numpy(dtype="float64"), kind="stable").tolist()
    first = leader(sweep)
    best = None if first is None else trials["trial_id"].tolist().index(first)
    axes = {line.path: line.positions for line in parallel_coordinates_data(sweep).axes}
    return Listing(order, best, [*columns, *hidden], made, _kept(sweep), axes)


def _column(
    head: str,
    values: pd.Series,
    text: Callable[[Any], str],
    kind: str = "",
    word: Callable[[Any], str] | None = None,
) -> Column:
    # Values of different types may be equal, as 1 and True are.
    found: dict[Any, Any] = {}
    keys = [(type(value), "" if absent(value) else value) for value in values.tolist()]
    for key, value in zip(keys, values.tolist(), strict=True):
        found.setdefault(key, value)
    places = {key: place for place, key in enumerate(found)}
    words = None if word is None else [word(value) for value in found.values()]
    return Column(head, kind, [text(value) for value in found.values()], [places[key] for key in keys], words=words)


def _word(value: Any) -> str:
    return "" if absent(value) else commands.word(value)


def _unsearched(sweep: Sweep) -> list[Column]:
    """Columns of what commands name besides the searched settings."""
    rows = sweep.trials[sweep.searched].to_dict("records")
    present = [{str(path): value for path, value in row.items() if not absent(value)} for row in rows]
    given = [
        commands.constants(sweep, values) | {"training.seed": seed}
        for values, seed in zip(present, sweep.trials["seed"].tolist(), strict=True)
    ]
    paths = dict.fromkeys(path for values in given for path in values)
    columns = {path: pd.Series([values.get(path, np.nan) for values in given], dtype="object") for path in paths}
    return [
        _column("", values, lambda value: "", word=_word)._replace(option=commands.setting(path))
        for path, values in columns.items()
    ]


def _kept(sweep: Sweep) -> list[int] | None:
    folder = sweep.folder / "trials"
    if not folder.is_dir():
        return None
    # Anybody may have named the trials: os.path says False where Path complains about a name.
    return [int(os.path.isfile(folder / trial / "model.safetensors")) for trial in sweep.trials["trial_id"]]


def listing_html(sweep: Sweep) -> str:
    """The table's first rows, and all of it as data for the page's script, which filters it and shows commands."""
    found = listing(sweep)
    shown = [column for column in found.columns if column.head]
    rows = [[column.texts[column.at[row]] for column in shown] for row in found.order[:ROWS]]
    count = f"Showing {len(rows):,} of {counted(len(found.order), 'trial')}, lowest loss first."
    return (
        f'<div id="listing"><p class="after note" id="listed" aria-live="polite">{count}</p>'
        f"{table([(column.head, column.kind) for column in shown], rows)}"
        '<p><button type="button" id="more" hidden>Show more</button></p>'
        f'<script type="application/json" id="data-trials">{_json(found)}</script></div>\n'
    )


def _json(found: Listing) -> str:
    def numbers(values: list[int]) -> Any:
        return packed(np.array(values, dtype="uint32"))

    columns = [column._asdict() | {"at": numbers(column.at)} for column in found.columns]
    axes = {path: packed(positions.astype("float32")) for path, positions in found.axes.items()}
    content = found._asdict() | {"order": numbers(found.order), "columns": columns, "axes": axes, "rows": ROWS}
    return safe(json.dumps(content, ensure_ascii=False, separators=(",", ":")))
