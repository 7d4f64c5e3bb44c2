"""What the sweep ran with."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from ..load import Sweep
from ..markup import Section
from ..summary import plain
from ..words import cut, shown

LONGEST_FACT = 400
"""Characters that are shown at once."""


def provenance(sweep: Sweep) -> Section:
    facts = list(_flat(plain(sweep.provenance)))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{_folded(text)}</dd>" for name, text in facts)
    body = f"<dl>{listed}</dl>" if listed else '<p class="note">provenance.json is missing.</p>'
    if sweep.warnings:
        notes = "".join(f"<li>{escape(warning)}</li>" for warning in sweep.warnings)
        body += f'<p class="after note">While reading:</p><ul class="note">{notes}</ul>'
    file = sweep.folder / "sweep.yaml"
    if sweep.written and file.is_file():
        text = escape(file.read_text(encoding="utf-8", errors="replace"))
        body += f"<details><summary>sweep.yaml, as resolved</summary><pre><code>{text}</code></pre></details>"
    return Section("provenance", "Provenance", "What the sweep ran with.", body=body)


def _folded(text: str) -> str:
    """Long lists, such as the hashes of all files, fill a screen."""
    if len(text) <= LONGEST_FACT:
        return escape(text)
    return f'<details class="fact"><summary>{escape(cut(text, 80))}</summary>{escape(text)}</details>'


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
