"""The sections of the report, in order: the evidence for the answers, then where it comes from."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

import numpy as np

from . import figures
from .best import UNFIT, best
from .failures import MEANINGS, failures
from .figures.style import varied
from .load import Sweep
from .markup import Section, kind, table
from .plateau import plateau_sentence
from .summary import plain
from .tables import absent
from .words import ABSENT, LONGEST_REASON, STATES, counted, cut, export_command, fixed, label, shown


def sections(sweep: Sweep) -> list[Section]:
    """Those sections for which the sweep has anything to show."""
    made = [
        _best_configurations(sweep),
        _parallel(sweep),
        _lr_batch(sweep),
        _slices(sweep),
        _curves(sweep),
        _signals(sweep),
        _survival(sweep),
        _failures(sweep),
        _provenance(sweep),
    ]
    return [section for section in made if section is not None]


def _best_configurations(sweep: Sweep) -> Section | None:
    ranking = best(sweep, 10)
    rows = ranking.trials.to_dict("records")
    if not rows:
        return None
    columns = ["trial", *(["mean val loss", "std", "seeds"] if sweep.seeds > 1 else []), "val loss", "behind"]
    head = [(name, "" if name == "trial" else "number") for name in (*columns, "perplexity", "epochs")]
    head += [(label(path), kind(row[path] for row in rows)) for path in sweep.searched] + [("", "html")]
    cells = [
        [
            row["trial_id"],
            *([fixed(row["mean"]), _spread(row["deviation"]), str(row["replicates"])] if sweep.seeds > 1 else []),
            fixed(row["value"]),
            "" if index == 0 else fixed(row["behind"], 2),
            fixed(row["ppl"]),
            str(row["epochs"]),
            *["" if absent(row[path]) else shown(row[path]) for path in sweep.searched],
            f'<details class="export"><summary>export</summary>{_command(sweep, row["trial_id"])}</details>',
        ]
        for index, row in enumerate(rows)
    ]
    guide = "Lowest validation loss first, among trials that ran to their end."
    if sweep.seeds > 1:
        guide = (
            f"Lowest mean validation loss over {sweep.seeds} seeds first, among trials that ran to their end, with the "
            "standard deviation over the seeds; val loss and perplexity are those of the trial named, the best of its "
            "seeds."
        )
    if not ranking.full_fidelity:
        guide = "Lowest validation loss first. None of these trials has run to its end: the order may change."
    command = f'<p class="after note">Export the best one:</p><pre>{_command(sweep, rows[0]["trial_id"])}</pre>'
    return Section("best", "Best configurations", guide, body=table(head, cells, mark_first=True) + command)


def _spread(deviation: float) -> str:
    return "" if math.isnan(deviation) else fixed(deviation, 2)


def _command(sweep: Sweep, trial_id: str) -> str:
    return f'<code class="command">{escape(export_command(sweep.folder, trial_id))}</code>'


def _parallel(sweep: Sweep) -> Section | None:
    data = figures.parallel_coordinates_data(sweep)
    if data.best is None or not data.high > data.low or len(data.axes) < 2:
        return None
    guide = (
        "Each line is a trial, the orange one the best; colour is the validation loss. "
        "Drag along an axis to keep only the lines that cross there; click the kept range to let go."
        + _on_absence(sweep)
    )
    return Section(
        "parallel",
        "All settings at once",
        guide,
        [figures.parallel_coordinates(sweep)],
        least_width=150 + 105 * len(data.axes),
    )


def _on_absence(sweep: Sweep) -> str:
    some = any(sweep.trials[path].map(absent).any() for path in varied(sweep))
    return f" A trial that does not have a setting stands at “{ABSENT}”." if some else ""


def _lr_batch(sweep: Sweep) -> Section | None:
    if figures.lr_batch_data(sweep) is None:
        return None
    guide = (
        "Each dot is a trial that ran to its end, coloured by its validation loss; small circles were stopped early, "
        "crosses diverged or failed. Rings mark the best trial of each batch size."
    )
    return Section("lr-batch", "Learning rate and batch size", guide, [figures.lr_batch(sweep)])


def _slices(sweep: Sweep) -> Section | None:
    if not varied(sweep) or sweep.trials["value"].isna().all():
        return None
    guide = (
        "The validation loss against one setting at a time. Blue dots ran to their end, grey circles were stopped "
        "early, orange is the best; crosses on the upper edge diverged or failed, triangles there lie above the frame."
        + _on_absence(sweep)
    )
    return Section("slices", "Loss by setting", guide, [figures.slice_figure(sweep, path) for path in varied(sweep)])


def _curves(sweep: Sweep) -> Section | None:
    if sweep.epochs.empty:
        return None
    rungs = "; dotted lines are the rungs at which trials are compared" if _any_rung(sweep) else ""
    guide = (
        f"Validation loss after each epoch, one line per trial, coloured by how it ended{rungs}. Hover for the trial."
    )
    return Section("curves", "Learning curves", guide, [figures.learning_curves(sweep)])


def _any_rung(sweep: Sweep) -> bool:
    return any(row.reached for row in figures.rung_survival_data(sweep))


def _survival(sweep: Sweep) -> Section | None:
    if not _any_rung(sweep):
        return None
    guide = "How many of the trials that reached a rung were let on, and how many were stopped there to save epochs."
    return Section("rungs", "Early stopping", guide, [figures.rung_survival(sweep)])


def _signals(sweep: Sweep) -> Section | None:
    lines, said = figures.signals_data(sweep), plateau_sentence(sweep)
    if not said:
        return None
    drawn = [figures.signal_figure(one) for one in lines]
    captions = [(one.signal.title, one.signal.guide) for one in lines]
    if np.isfinite(figures.plateau_data(sweep).epoch).any():
        drawn.append(figures.plateau_figure(sweep))
        guide = (
            "Until then a trial only knows how often each word occurs. Early is good; what never left has not learned."
        )
        captions.append(("Leaving the unigram plateau", guide))
    which = "the trials that ran to their end" if sweep.trials["full_fidelity"].any() else "the trials"
    full = sweep.trials["full_fidelity"]
    if (full if full.any() else ~sweep.trials["state"].isin(UNFIT)).sum() > figures.MOST_LINES:
        which = f"the {figures.MOST_LINES} best of {which}"
    guide = f"What went on inside {which}, one line per trial, the best one orange."
    return Section(
        "signals", "Learning signals", guide, drawn, captions, body=f'<p class="after note">{escape(said)}</p>'
    )


def _failures(sweep: Sweep) -> Section:
    rows = failures(sweep)
    if not rows:
        return Section("failures", "Failures", "No failures.")
    head = [("trial", ""), ("state", ""), ("reason", "text"), ("epochs", "number")]
    settings = {path: [row.parameters.get(path, math.nan) for row in rows] for path in sweep.searched}
    head += [(label(path), kind(values)) for path, values in settings.items()]
    cells = [
        [
            row.trial_id,
            STATES[row.state],
            cut(row.reason, LONGEST_REASON),
            str(row.epochs),
            *(shown(settings[path][at]) for path in settings),
        ]
        for at, row in enumerate(rows)
    ]
    guide = f"{counted(len(rows), 'trial')} gave no result. Epochs are those finished before the end."
    found = Counter(row.state for row in rows)
    meant = [(f"{found[state]} {STATES[state]}", meaning) for state, meaning in MEANINGS.items() if found[state]]
    listed = "".join(f"<dt>{escape(count)}</dt><dd>{escape(meaning)}</dd>" for count, meaning in meant)
    return Section("failures", "Failures", guide, body=f"<dl>{listed}</dl>{table(head, cells)}")


def _provenance(sweep: Sweep) -> Section:
    facts = list(_flat(plain(sweep.provenance)))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    body = f"<dl>{listed}</dl>" if listed else '<p class="note">provenance.json is missing.</p>'
    if sweep.warnings:
        notes = "".join(f"<li>{escape(warning)}</li>" for warning in sweep.warnings)
        body += f'<p class="after note">While reading:</p><ul class="note">{notes}</ul>'
    file = sweep.folder / "sweep.yaml"
    if sweep.written and file.is_file():
        text = escape(file.read_text(encoding="utf-8", errors="replace"))
        body += f"<details><summary>sweep.yaml, as resolved</summary><pre><code>{text}</code></pre></details>"
    return Section("provenance", "Provenance", "What the sweep ran with.", body=body)


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """One line per group of plain values, groups within groups named `outer · inner`."""
    for key, value in content.items():
        name = f"{prefix}{key.replace('_', ' ')}"
        if not isinstance(value, Mapping):
            yield name, _said(value)
            continue
        leaves = {inner: leaf for inner, leaf in value.items() if not isinstance(leaf, Mapping)}
        if leaves:
            yield name, ", ".join(f"{inner.replace('_', ' ')} {_said(leaf)}" for inner, leaf in leaves.items())
        yield from _flat({inner: leaf for inner, leaf in value.items() if isinstance(leaf, Mapping)}, f"{name} · ")


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else shown(value)
