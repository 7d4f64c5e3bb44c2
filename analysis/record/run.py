"""The record of one training by hand."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tune_newllm.records import SweepStarted

from ..load import Sweep
from ..markdown import bullets, commands, paragraph, plain, table
from ..phases import MUCH_LOWER
from ..run_folder import TRIAL
from ..tables import configured
from ..words import counted, digits, duration
from .against import LOSSES, loss_row, measured_as_published, published
from .course import Course, course, epoch_notes, epoch_table, phase_table
from .course_words import phase_words
from .environment import environment, moment
from .settings import fixed_settings
from .step import again
from .steps import gain


def run_record(run: Sweep, defaults: Mapping[str, Any] | None = None) -> str:
    """The record of what `load_run` read; `defaults` as for the record of a sweep."""
    blocks = [f"# {plain(run.name)}"]
    if run.epochs.empty:
        return "\n\n".join([*blocks, "No epoch has been trained yet.", *fixed_settings(run, defaults or {})]) + "\n"
    one = course(run, TRIAL)
    blocks += [*_opening(run, one), "## Settings", *fixed_settings(run, defaults or {}), *environment(run)]
    blocks += ["## Results", epoch_table(one), paragraph(epoch_notes(one)), phase_table(one), phase_words(run, one)]
    blocks += [*_comparison(run, one), *_next(run, one)]
    if run.warnings:
        blocks += ["## Left out while reading", bullets(map(plain, run.warnings))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _opening(run: Sweep, one: Course) -> Iterator[str]:
    trial, last = one.trial, one.rows.iloc[-1]
    date = moment(float(last["time"]))[:10]
    size = "" if one.parameters is None else f", {one.parameters:,} weights"
    spent, how_far = duration(float(trial["seconds"])), _how_far(run, one)
    yield paragraph(f"Experiment record of one training. {date}. {how_far[0].upper()}{how_far[1:]} in {spent}{size}.")
    yield "## Findings"
    yield bullets(
        [
            f"Lowest validation loss {digits(trial['value'])}, perplexity {digits(trial['ppl'])}, in epoch "
            f"{trial['best_epoch']} of {trial['epochs']}."
        ]
    )


def _how_far(run: Sweep, one: Course) -> str:
    done = len(one.rows)
    if one.trial["state"] != "stopped":
        return counted(done, "epoch")
    word = "running, so far" if run.running else "stopped after"
    return f"{word} {done:,} of {counted(configured(run.spec, 'training.epochs'), 'epoch')}"


def _comparison(run: Sweep, one: Course) -> Iterator[str]:
    alike, lowest = measured_as_published(run), float(one.trial["value"])
    if not alike and math.isnan(one.frequencies):
        return
    yield "## Comparison"
    if not math.isnan(one.frequencies):
        frequencies = loss_row("word frequencies alone", one.frequencies, lowest)
        yield table(LOSSES, [frequencies, loss_row("this training", lowest, None)])
    if alike:
        yield from published(run, one)


def _next(run: Sweep, one: Course) -> Iterator[str]:
    yield "## Next steps"
    if run.running:
        yield "The training goes on."
    elif one.trial["state"] == "stopped":
        options = ["--epochs", str(configured(run.spec, "training.epochs"))]
        yield from _again(run, f"It {_how_far(run, one)}.", options)
    elif (more := gain(run, one)) is None:
        yield "The numbers ask for none."
    else:
        said, options = f"It was still improving at the end: {more}.", ["--epochs", str(2 * int(one.trial["epochs"]))]
        lr = one.rows["lr"]
        if lr.iloc[-1] < MUCH_LOWER * lr.max():
            # Given more epochs a run goes on with the learning rate at which its schedule ended.
            said += " Its learning rate had fallen by then, so the further epochs need a new course of it."
            options.append("--new-schedule")
        yield from _again(run, said, options)


def _again(run: Sweep, said: str, options: list[str]) -> Iterator[str]:
    """The command that the run was begun with, with these options; one to be completed where that is not on record."""
    to = ["--to", str(run.folder)]
    begun = [event.command for event in run.events if isinstance(event, SweepStarted)]
    if begun:
        yield paragraph(f"{said} With the command that began it, from the same working directory:")
        yield commands([shlex.join([*_without(begun[0]), *options, *to])])
    else:
        yield paragraph(f"{said} With the sweep file that it was begun with, and every --set that was given then:")
        yield commands([again("train", Path("SPEC.yaml"), shlex.join([*options, *to]))])


def _without(command: Sequence[str]) -> list[str]:
    """A command line of `train` without what is given anew."""
    kept, words = list[str](), iter(command)
    for word in words:
        name, given, _ = word.partition("=")
        if name in ("--epochs", "--to"):
            if not given:
                next(words, None)
        elif word not in ("--new-schedule", "--json"):
            kept.append(word)
    return kept
