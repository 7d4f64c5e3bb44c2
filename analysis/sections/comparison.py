"""The sections of a report on several sweeps."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .. import figures
from ..load import Sweep
from ..markup import Section, table
from ..tables import configured
from ..words import cut, shown

LONGEST_FACT = 200


def comparison_sections(sweeps: Sequence[Sweep], content: Mapping[str, Any]) -> list[Section]:
    """Those for which the sweeps have anything to show; `content` is what `compare` found."""
    names: list[str] = content["names"]
    caution = ""
    if content["fairness"]["comparable"] is not True:
        caution = " The losses were not measured alike, or it is not known: compare the shapes, not the heights."
    made = [
        _questions(content),
        _settings(content),
        _curves(sweeps, names, caution),
        _anytime(sweeps, names, caution),
        _lr_batch(sweeps, names),
        _provenance(sweeps, names),
    ]
    return [section for section in made if section is not None]


def _questions(content: Mapping[str, Any]) -> Section:
    head = [("", ""), *((name, "text") for name in content["names"])]
    rows = [[row["question"], *row["answers"]] for row in content["questions"]]
    return Section("questions", "Side by side", "The same questions to each sweep.", body=table(head, rows))


def _settings(content: Mapping[str, Any]) -> Section:
    guide = "The keys of the sweep files, as resolved, that are not the same in all."
    if not content["differences"]:
        return Section("settings", "Settings that differ", "The sweep files, as resolved, are the same.")
    head = [("setting", ""), *((name, "text") for name in content["names"])]
    rows = [[row["path"], *row["texts"]] for row in content["differences"]]
    return Section("settings", "Settings that differ", guide, body=table(head, rows))


def _curves(sweeps: Sequence[Sweep], names: Sequence[str], caution: str) -> Section | None:
    if not any(figures.best_curves_data(sweeps, names)):
        return None
    guide = f"Validation loss of the best trial of each sweep after each of its epochs.{caution}"
    return Section("curves", "Best learning curves", guide, [figures.best_curves(sweeps, names)])


def _anytime(sweeps: Sequence[Sweep], names: Sequence[str], caution: str) -> Section | None:
    if not any(figures.anytime_data(sweeps, names)):
        return None
    guide = (
        "The lowest validation loss of any trial so far, against the epochs that all trials of the sweep had trained "
        f"by then: the lower line found more with the same work.{caution}"
    )
    return Section("anytime", "Best loss against work", guide, [figures.anytime(sweeps, names)])


def _lr_batch(sweeps: Sequence[Sweep], names: Sequence[str]) -> Section | None:
    if sum(found is not None for found in figures.lr_batch_overlay_data(sweeps)) < 2:
        return None
    guide = (
        "Large symbols are the best trial of each batch size; small ones are the other trials, faint where they did "
        "not run to their end. Lines are the laws of the best learning rate, with 95 % bands, where one was found."
    )
    return Section("lr-batch", "Learning rate and batch size", guide, [figures.lr_batch_overlay(sweeps, names)])


_FACTS = {
    "begun": "created",
    "git": "git",
    "data": "data.fingerprint",
    "machine": "hardware.name",
    "torch": "versions.torch",
    "command": "command",
}


def _provenance(sweeps: Sequence[Sweep], names: Sequence[str]) -> Section:
    head = [("", ""), *((name, "text") for name in names)]
    rows = [["folder", *(str(sweep.folder) for sweep in sweeps)]]
    for fact, path in _FACTS.items():
        found = [configured(sweep.provenance, path) for sweep in sweeps]
        rows.append([fact, *(_said(value) for value in found)])
    body = table(head, [row for row in rows if any(row[1:])])
    for sweep, name in zip(sweeps, names, strict=True):
        if sweep.warnings:
            notes = "".join(f"<li>{escape(warning)}</li>" for warning in sweep.warnings)
            body += f'<p class="after note">While reading {escape(name)}:</p><ul class="note">{notes}</ul>'
    return Section("provenance", "Provenance", "What the sweeps ran with.", body=body)


def _said(value: Any) -> str:
    if value is None:
        return ""
    return cut(" ".join(map(str, value)) if isinstance(value, list) else shown(value), LONGEST_FACT)
