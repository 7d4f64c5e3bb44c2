"""A comparison of checkpoints as tables in the terminal."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.evaluation import change, comparable, measure, scores_of, size, splits
from analysis.words import digits
from tune_newllm.cli.text import wrapped

NAME = 20
"""Characters of a checkpoint's name."""


def tables(found: Mapping[str, Any]) -> str:
    """Everything that `evaluate` has gathered, in blocks of at most 80 characters a line."""
    blocks = ["\n".join(wrapped(sentence) for sentence in found["said"]), *_scores(found), _changes(found)]
    blocks += [_texts(found), _passes(found), _readings(found)]
    return "\n\n".join(block for block in blocks if block)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need, the first to the left."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        first, *others = zip(cells, widths, strict=True)
        lines.append((first[0].ljust(first[1]) + "".join(cell.rjust(width + 2) for cell, width in others)).rstrip())
    return lines


def _short(name: str) -> str:
    return name if len(name) <= NAME else f"…{name[1 - NAME :]}"


def _scores(found: Mapping[str, Any]) -> Iterator[str]:
    known = "known to all" if found["words_known_to_all"] else "known ppl"
    head = ("", "loss", "ppl", known, "accuracy", "bits/word", "targets")
    for corpus in found["corpora"]:
        rows = [
            (
                _short(row["checkpoint"]),
                f"{row['loss']:.4f}",
                digits(row["ppl"]),
                digits(row["ppl_known"]),
                f"{row['acc']:.1%}",
                "" if row["bits_per_word"] is None else f"{row['bits_per_word']:.3f}",
                f"{row['targets']:,}",
            )
            for row in scores_of(found, corpus)
        ]
        yield "\n".join([f"{splits(found, corpus)} split, {corpus}", *_table(head, rows)])


def _changes(found: Mapping[str, Any]) -> str:
    """A column for each corpus, and how far each checkpoint is from the first."""
    if len(found["checkpoints"]) < 2 or not comparable(found):
        return ""
    key, name = measure(found)
    value = {(row["checkpoint"], row["corpus"]): row[key] for row in found["scores"]}
    first, *others = [row["name"] for row in found["checkpoints"]]
    rows = [[_short(first), *(digits(value[first, corpus]) for corpus in found["corpora"])]]
    for other in others:
        pairs = [(value[first, corpus], value[other, corpus]) for corpus in found["corpora"]]
        rows.append([_short(other), *(f"{digits(now)} ({change(before, now)})" for before, now in pairs)])
    return "\n".join([f"{name}, and how far it is from the first one's", *_table(["", *found["corpora"]], rows)])


def _texts(found: Mapping[str, Any]) -> str:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    lines = ["how they continue"] if found["texts"] else []
    names = max((len(_short(row["name"])) for row in found["checkpoints"]), default=0)
    for prompt in found["prompts"]:
        lines.append(f"  {prompt!r}")
        for row in (row for row in found["texts"] if row["prompt"] == prompt):
            rest = " ".join(row["text"].removeprefix(" ".join(prompt.split())).removeprefix(prompt).split()) or "(end)"
            begin = f"    {_short(row['checkpoint']).ljust(names)}  "
            lines.append(textwrap.fill(rest, max(width, 60), initial_indent=begin, subsequent_indent=" " * len(begin)))
    return "\n".join(lines)


def _passes(found: Mapping[str, Any]) -> str:
    if not found["passes"]:
        return ""
    batches = sorted({row["batch"] for row in found["passes"]})
    tokens = found["passes"][0]["tokens"]
    head = ["", "parameters", "weights", *(f"{what} {b}" for b in batches for what in ("ms b", "tok/s b"))]
    rows, peaks = [], []
    for checkpoint in found["checkpoints"]:
        measured = {row["batch"]: row for row in found["passes"] if row["checkpoint"] == checkpoint["name"]}
        speeds = [
            text for b in batches for text in (digits(measured[b]["ms"], 3), digits(measured[b]["tokens_per_s"], 3))
        ]
        sizes = [f"{checkpoint['parameters']:,}", size(checkpoint["weight_bytes"])]
        rows.append([_short(checkpoint["name"]), *sizes, *speeds])
        peaks.append(f"{_short(checkpoint['name'])} {size(measured[batches[-1]]['peak_memory_bytes'])}")
    title = f"a pass of {tokens} tokens on {found['device']}, {found['threads']} threads; b: batch size"
    of = "of the whole process, " if found["device"] == "cpu" else ""
    return "\n".join([title, *_table(head, rows), f"peak memory ({of}batch {batches[-1]}): {', '.join(peaks)}"])


def _readings(found: Mapping[str, Any]) -> str:
    if not found["readings"]:
        return ""
    lengths = sorted({row["context"] for row in found["readings"]})
    rows = []
    for checkpoint in found["checkpoints"]:
        mine = [row for row in found["readings"] if row["checkpoint"] == checkpoint["name"]]
        for batch in sorted({row["batch"] for row in mine}):
            at = {row["context"]: row for row in mine if row["batch"] == batch}
            name = _short(checkpoint["name"]) if batch == min(row["batch"] for row in mine) else ""
            rows.append([name, f"ms b {batch}", *(digits(at[n]["ms"], 3) if n in at else "" for n in lengths)])
        at = {row["context"]: row for row in mine if row["batch"] == min(row["batch"] for row in mine)}
        states = [size(at[n]["state_bytes"]).replace(" ", "").removesuffix("iB") if n in at else "" for n in lengths]
        rows.append(["", "state b 1", *states])
    head = ["", "", *(f"{n:,}" for n in lengths)]
    return "\n".join(["the last of so many tokens, read alone after the others", *_table(head, rows)])
