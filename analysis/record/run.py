"""The record of one training by hand."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..load import Sweep
from ..markdown import bullets, commands, paragraph, plain
from ..run_folder import TRIAL
from ..words import counted, digits, duration
from .against import measured_as_published, published
from .course import Course, course, epoch_notes, epoch_table, phase_table
from .course_words import phase_words
from .environment import moment
from .settings import fixed_settings
from .step import again
from .steps import gain


def run_record(run: Sweep, defaults: Mapping[str, Any] | None = None) -> str:
    """The record of what `load_run` read; `defaults` as for the record of a sweep."""
    blocks = [f"# {plain(run.name)}"]
    if run.epochs.empty:
        return "\n\n".join([*blocks, "No epoch has been trained yet.", *fixed_settings(run, defaults or {})]) + "\n"
    one = course(run, TRIAL)
    blocks += [*_opening(one), "## Settings", *fixed_settings(run, defaults or {}), "## Results", epoch_table(one)]
    blocks += [paragraph(epoch_notes(one)), phase_table(one), phase_words(run, one)]
    if measured_as_published(run):
        blocks += ["## Comparison", *published(run, one)]
    blocks += _next(run, one)
    if run.warnings:
        blocks += ["## Left out while reading", bullets(map(plain, run.warnings))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _opening(one: Course) -> Iterator[str]:
    trial, last = one.trial, one.rows.iloc[-1]
    date = moment(float(last["time"]))[:10]
    size = "" if one.parameters is None else f", {one.parameters:,} weights"
    spent = duration(float(trial["seconds"]))
    yield paragraph(f"Experiment record of one training. {date}. {counted(len(one.rows), 'epoch')} in {spent}{size}.")
    yield "## Findings"
    yield bullets(
        [
            f"Lowest validation loss {digits(trial['value'])}, perplexity {digits(trial['ppl'])}, in epoch "
            f"{trial['best_epoch']} of {trial['epochs']}."
        ]
    )


def _next(run: Sweep, one: Course) -> Iterator[str]:
    yield "## Next steps"
    said, epochs = gain(run, one), 2 * int(one.trial["epochs"])
    if said is None:
        yield "The numbers ask for none."
        return
    yield paragraph(f"It was still improving at the end: {said}. With the sweep file it was begun with:")
    yield commands([again("train", Path("SPEC.yaml"), f"--epochs {epochs} --to {run.folder}")])
