"""The record of several sweeps: what each answers, their best curves by epoch, what differs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..best import best
from ..comparison import compare
from ..data_law import data_law
from ..load import Sweep
from ..markdown import bullets, code, commands, paragraph, plain, table
from ..words import counted, fixed
from ..yardstick import conjoined
from .course import Course, course, epochs_shown, phase_table
from .course_words import phase_words
from .environment import moment, span
from .results import data_tables
from .step import again

LONGEST_CELL = 60
"""Characters of an answer that a table holds; longer ones stand below it."""


def several(sweeps: Sequence[Sweep], content: Mapping[str, Any] | None = None) -> str:
    """The record of a comparison.

    Args:
        content: what `compare` found of them; looked for if None.

    Raises:
        ValueError: fewer than two sweeps.
    """
    content = compare(sweeps) if content is None else content
    names: list[str] = content["names"]
    courses = [(name, sweep, _best_course(sweep)) for name, sweep in zip(names, sweeps, strict=True)]
    which = conjoined([f"{plain(name)} ({_about(sweep)})" for name, sweep in zip(names, sweeps, strict=True)])
    blocks = [f"# {plain(conjoined(names))}", paragraph(f"Comparison of {len(sweeps)} sweeps: {which}.")]
    blocks += ["## Findings", bullets(map(plain, content["answers"]))]
    blocks += [*_questions(content), *_curves(courses), *_data(sweeps), *_differences(content)]
    blocks += ["## Next steps", "Each sweep's own record says what its numbers ask for:"]
    return "\n\n".join([*blocks, commands(again("report", sweep.folder, "--markdown") for sweep in sweeps)]) + "\n"


def _about(sweep: Sweep) -> str:
    times = span(sweep)
    return ", ".join([*([moment(times[0])[:10]] if times else []), counted(len(sweep.trials), "trial")])


def _best_course(sweep: Sweep) -> Course | None:
    first = best(sweep, 1).trials["trial_id"].tolist()
    return course(sweep, first[0]) if first else None


def _questions(content: Mapping[str, Any]) -> Iterator[str]:
    """A table of the short answers, then the long ones."""
    yield "## Side by side"
    names, rows = content["names"], content["questions"]
    brief = [row for row in rows if all(len(text) <= LONGEST_CELL for text in row["answers"])]
    cells = [[plain(row["question"]), *map(plain, row["answers"])] for row in brief]
    yield table(["", *map(plain, names)], cells, [False] * (len(names) + 1))
    said = [
        f"**{plain(row['question'])}**, {plain(name)}: {plain(text)}"
        for row in rows
        if row not in brief
        for name, text in zip(names, row["answers"], strict=True)
        if text
    ]
    if said:
        yield bullets(said)


def _curves(courses: Sequence[tuple[str, Sweep, Course | None]]) -> Iterator[str]:
    known = [(name, sweep, one) for name, sweep, one in courses if one is not None]
    if not known:
        return
    yield "## Best trials by epoch"
    shown = sorted({epoch for _, _, one in known for epoch in epochs_shown(one)})
    columns = [dict(zip(one.rows["epoch"], one.rows["val_ppl"], strict=True)) for _, _, one in known]
    rows = [[str(epoch), *(fixed(ppl[epoch]) if epoch in ppl else "" for ppl in columns)] for epoch in shown]
    yield table(["epoch", *(plain(f"{name}, {one.trial['trial_id']}") for name, _, one in known)], rows)
    yield "Validation perplexity after each epoch."
    for name, sweep, one in known:
        yield f"### Phases of {plain(name)}"
        if phases := phase_table(one):
            yield phases
        yield phase_words(sweep, one)


def _data(sweeps: Sequence[Sweep]) -> Iterator[str]:
    found = data_law(sweeps)
    if found is not None and not found.points.empty:
        yield "## Perplexity against data"
        yield from data_tables(found)


def _differences(content: Mapping[str, Any]) -> Iterator[str]:
    yield "## Settings that differ"
    rows = [[code(row["path"]), *map(plain, row["texts"])] for row in content["differences"]]
    if not rows:
        yield paragraph("The sweep files, as resolved, are the same.")
        return
    yield table(["setting", *map(plain, content["names"])], rows, [False] * (len(content["names"]) + 1))
