"""What came out: the best configurations, the course of the best trial, the laws, what failed."""

import math
from collections.abc import Iterator, Sequence

import pandas as pd

from ..best import best
from ..data_law import DataLaw, data_law
from ..effect_words import effects_sentences
from ..effects import effects
from ..failures import MEANINGS, failures
from ..load import Sweep
from ..lr_law import LrLaw, Optimum, Recommendation
from ..lr_words import lr_laws, recommendations
from ..markdown import bullets, paragraph, plain, table
from ..rows import FAMILIES, POINTS, TEXTS, extrapolation, family_rows, point_rows
from ..tables import absent, order
from ..words import LONGEST_REASON, STATES, counted, cut, digits, fixed, label, shown
from .course import Course, epoch_notes, epoch_table, phase_table
from .course_words import phase_words

MOST_FAILURES = 10
MOST_SIZES = 16
"""Rows of a table of a law; of more sizes only some are shown."""
MOST_VALUES = 10
"""Of a setting that is given a row or a column for each."""


def results(sweep: Sweep, one: Course | None) -> Iterator[str]:
    """Blocks of Markdown.

    Args:
        one: the course of the best trial; None where no trial has one.
    """
    yield "## Results"
    yield from _best(sweep)
    if one is not None:
        yield from _course(sweep, one)
    yield from _grid(sweep)
    yield from _laws(sweep)
    yield from _data(sweep)
    yield from _families(sweep)
    yield from _effects(sweep)
    yield from _failures(sweep)


def _best(sweep: Sweep) -> Iterator[str]:
    ranking = best(sweep, 10)
    rows = ranking.trials.to_dict("records")
    if not rows:
        return
    yield "### Best configurations"
    seeds, judged = sweep.seeds > 1, ranking.alike is not None
    scaled = any("training.lr" in row and not absent(row["lr"]) and row["lr"] != row["training.lr"] for row in rows)
    sized = sweep.trials["model_size"].nunique() > 1
    head = ["trial", *(["mean loss", "std", "seeds"] if seeds else []), "val loss", "behind", "perplexity", "epochs"]
    head += [*map(plain, map(label, sweep.searched)), *(["trained lr"] if scaled else [])]
    head += [*(["parameters"] if sized else []), "seconds", *([""] if judged else [])]
    cells = [
        [
            plain(row["trial_id"]),
            *([fixed(row["mean"]), _spread(row["deviation"]), str(row["replicates"])] if seeds else []),
            fixed(row["value"]),
            "" if not at else fixed(row["behind"], 2),
            fixed(row["ppl"]),
            str(row["epochs"]),
            *("" if absent(row[path]) else plain(cut(shown(row[path]), LONGEST_REASON)) for path in sweep.searched),
            *([digits(row["lr"])] if scaled else []),
            *(["" if absent(row["model_size"]) else f"{row['model_size']:,}"] if sized else []),
            f"{row['seconds']:,.1f}",
            *(["within the noise" if at and row["alike"] is True else ""] if judged else []),
        ]
        for at, row in enumerate(rows)
    ]
    words = {plain(label(path)) for path in sweep.searched if not _numeric(sweep.trials[path])}
    yield table(head, cells, [bool(name) and name != "trial" and name not in words for name in head])
    guide = "Lowest mean validation loss over the seeds first; val loss and perplexity are those of the trial named, "
    guide = f"{guide}the best of its seeds." if seeds else "Lowest validation loss first."
    if not ranking.full_fidelity:
        guide += " None of these trials has run to its end: the order may change."
    yield paragraph(guide)


def _numeric(values: pd.Series) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values.tolist())


def _spread(deviation: float) -> str:
    return "" if math.isnan(deviation) else fixed(deviation, 2)


def _course(sweep: Sweep, one: Course) -> Iterator[str]:
    name = plain(one.trial["trial_id"])
    yield f"### Course of trial {name}"
    yield epoch_table(one)
    yield paragraph(epoch_notes(one))
    if phases := phase_table(one):
        yield phases
    if words := phase_words(sweep, one):
        yield words


def _grid(sweep: Sweep) -> Iterator[str]:
    """The loss by the two searched settings, where there are two with few values."""
    varied = [path for path in sweep.searched if sweep.trials[path].nunique() > 1]
    full = sweep.trials[sweep.trials["full_fidelity"]]
    if len(varied) != 2 or not all(2 <= full[path].nunique() <= MOST_VALUES for path in varied):
        return
    down, across = sorted(varied, key=lambda path: -full[path].nunique())
    means = full.groupby([down, across])["value"].mean()
    if 3 * len(means) < 2 * full[down].nunique() * full[across].nunique():
        return
    ends = {path: sorted(full[path].unique().tolist(), key=order) for path in varied}
    lowest = means.min()
    yield f"### Loss by {plain(label(down))} and {plain(label(across))}"
    rows = [
        [plain(shown(one)), *(_cell(means.get((one, other)), lowest) for other in ends[across])] for one in ends[down]
    ]
    yield table(
        [plain(label(down)), *(plain(shown(other)) for other in ends[across])], rows, [True] * (len(ends[across]) + 1)
    )
    said = "Validation losses of the trials that ran to their end" + (
        ", means over the seeds" if sweep.seeds > 1 else ""
    )
    said += f"; columns are the {plain(label(across))}."
    if "training.lr" in varied and (full["lr"] != full["training.lr"]).any():
        said += " Learning rates are those of the file, before its rule scales them."
    yield paragraph(said)


def _cell(mean: float | None, lowest: float) -> str:
    if mean is None:
        return ""
    return f"**{fixed(mean)}**" if mean == lowest else fixed(mean)


def _laws(sweep: Sweep) -> Iterator[str]:
    for law in lr_laws(sweep):
        if not any(each.position == "inside" for each in law.optima):
            continue
        name = {"training.batch_size": "batch size"}.get(law.against, "number of parameters")
        yield f"### Best learning rate by {name}"
        head, rows = [name, "best measured", "95 %", "trials", "by the law", "95 %", ""], list(_law_rows(law))
        step = math.ceil(len(rows) / MOST_SIZES)
        yield table(
            head, [row for at, row in enumerate(rows) if at % step == 0 or row is rows[-1]], [*[True] * 6, False]
        )
        if step > 1:
            yield paragraph(f"Of {len(rows)} sizes every {step}th and the last.")
        if law.interval is not None:
            formula = f"{digits(law.coefficient)} · {name}^{law.exponent:.2f}"
            yield paragraph(f"By the law: {formula}. A trial scatters by {digits(law.noise, 2)} nats around it.")


def _law_rows(law: LrLaw) -> Iterator[list[str]]:
    measured = {each.size: each for each in law.optima}
    advised = dict(recommendations(law))
    for size in sorted({*measured, *advised}):
        one, advice = measured.get(size), advised.get(size)
        note = "" if advice is None or advice.beyond <= 1 else f"{digits(advice.beyond, 2)} times beyond the data"
        yield [
            digits(int(size) if float(size).is_integer() else size),
            "" if one is None else _measured(one),
            _between(one),
            "" if one is None else str(one.trials),
            "" if advice is None else digits(advice.lr, 2),
            _between(advice),
            note,
        ]


def _between(one: Optimum | Recommendation | None) -> str:
    if one is None or one.interval is None:
        return ""
    return f"{digits(one.interval.low, 2)} to {digits(one.interval.high, 2)}"


def _measured(one: Optimum) -> str:
    return digits(one.lr, 3) if one.position == "inside" else one.position


def _data(sweep: Sweep) -> Iterator[str]:
    found = data_law(sweep)
    if found is None or found.points.empty:
        return
    yield "### Perplexity against data"
    yield from data_tables(found)


def data_tables(found: DataLaw) -> Iterator[str]:
    """The points of a law of data, and what it says of more."""
    yield _table(POINTS, point_rows(found))
    head, rows = extrapolation(found)
    if rows:
        yield "What the law says of more data, should it go on to hold there, which no measurement shows:"
        yield _table(head, rows)


def _families(sweep: Sweep) -> Iterator[str]:
    rows = family_rows(sweep)
    if rows:
        yield "### Families of models"
        yield _table(FAMILIES, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table(head, [[*map(plain, row)] for row in rows], [name not in TEXTS for name in head])


def _effects(sweep: Sweep) -> Iterator[str]:
    found = effects(sweep)
    if found.reason or not sweep.searched:
        return
    yield "### What each setting does"
    rows = [
        [plain(one.label), f"{digits(one.span, 2)} nats", "< 0.0001" if one.p < 1e-4 else digits(one.p, 2)]
        for one in sorted(found.effects, key=lambda one: -one.span)
    ]
    if rows:
        yield table(["setting", "moves the loss by up to", "p"], rows)
    # The first sentence says what the table does.
    if said := effects_sentences(found)[1:]:
        yield bullets(map(plain, said))


def _failures(sweep: Sweep) -> Iterator[str]:
    rows = failures(sweep)
    if not rows:
        return
    yield "### Failures"
    cells = [
        [plain(row.trial_id), STATES[row.state], str(row.epochs), plain(cut(row.reason, LONGEST_REASON))]
        for row in rows[:MOST_FAILURES]
    ]
    yield table(["trial", "state", "epochs", "reason"], cells, [False, False, True, False])
    if len(rows) > MOST_FAILURES:
        yield paragraph(f"And {counted(len(rows) - MOST_FAILURES, 'further trial')}.")
    found = {row.state for row in rows}
    yield bullets(f"{STATES[state]}: {plain(meaning)}" for state, meaning in MEANINGS.items() if state in found)
