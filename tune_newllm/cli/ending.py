"""How a command that works on a sweep ends: what it leaves behind, what it says, and its exit code."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tune_newllm.cli.text import near, place, resume_command, spent_budget, warn, wrapped
from tune_newllm.errors import FolderError, TuneError

if TYPE_CHECKING:
    from tune_newllm.sweep.engine import Outcome


@contextmanager
def resumable(folder: Path, changes: Sequence[str] = ()) -> Iterator[None]:
    """Say how to go on when the user will not even wait for a clean stop; `changes` may not be on record yet."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.exists():
            click.echo(f"stopped at once; go on with: {resume_command(folder, changes)}", err=True)
        raise


def conclude(outcome: "Outcome", as_json: bool, changes: Sequence[str] = ()) -> int:
    """Export the best trial, write the report, print the answers; the exit code says how the sweep went.

    `changes` are overrides that are not on record, so that the command to go on with has to repeat them.
    """
    import analysis

    folder = near(outcome.folder)
    if not (outcome.finished or outcome.spent or outcome.failing):
        return _stopped(outcome, folder)
    loaded = analysis.load(folder)
    ranked = analysis.best(loaded, 1)
    best = str(ranked.trials.iloc[0]["trial_id"]) if ranked.full_fidelity and not ranked.trials.empty else None
    whole = outcome.finished or outcome.failing
    problem = _present(folder, best, as_json) if whole or (best and not outcome.idle) else None
    if outcome.spent:
        click.echo(spent_budget(outcome.spent, folder, changes), err=True)
    if outcome.failing:
        click.echo(f"error: the first trials of this run all failed for one reason: {outcome.failing}", err=True)
        command = resume_command(folder)
        click.echo(f"see trials/*/log.txt in {place(folder)}; once that is mended, go on with: {command}", err=True)
    if problem is not None:
        raise problem
    if outcome.spent:
        return 5
    if best is None:
        click.echo("error: no trial ran to its end, so there is no result; the report says how they ended", err=True)
        return 4
    return 3 if loaded.trials["state"].isin(["failed", "crashed"]).any() else 0


def _stopped(outcome: "Outcome", folder: Path) -> int:
    """Say why a sweep stopped before its end, and how to go on."""
    command = resume_command(folder)
    if outcome.halted is not None:
        click.echo(f"error: {outcome.halted}; then go on with: {command}", err=True)
        return 2
    click.echo(f"stopped; go on with: {command}", err=True)
    return 1 if outcome.signal is None else 128 + outcome.signal


def _present(folder: Path, best: str | None, as_json: bool) -> TuneError | None:
    """Export the best trial if there is one, write the report and print the answers; returns why the export failed."""
    import analysis

    problem = _export_best(folder, best) if best else None
    loaded = analysis.load(folder)
    written = analysis.write_report(loaded, folder)
    lines = [*analysis.answers(loaded), "", f"report    {place(written)}"]
    lines += [f"look      python -m webbrowser {written.resolve().as_uri()}"]
    if best and problem is None:
        lines += [
            f"best      {place(folder)}/best",
            f"try it    python -m tune_newllm generate {place(folder)}/best --prompt 'the value of'",
        ]
    show(analysis.summary(loaded), lines, as_json)
    warn(loaded.warnings)
    return problem


def _export_best(folder: Path, trial: str) -> TuneError | None:
    """Export into `best/`, in place of what an earlier run exported there; returns what went wrong."""
    import shutil

    from tune_newllm.cli.checkpoints import export_trial

    draft = folder / ".best"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        export_trial(folder, trial, draft)
    except TuneError as error:
        return error
    except OSError as error:
        return FolderError(f"the best trial cannot be exported to {folder} ({error.strerror}): make room, then resume")
    shutil.rmtree(folder / "best", ignore_errors=True)
    draft.rename(folder / "best")
    return None


def show(summary: dict[str, Any], lines: list[str], as_json: bool) -> None:
    """Print the answers on stdout, or the summary as JSON."""
    click.echo(json.dumps(summary, indent=2) if as_json else "\n".join(map(wrapped, lines)))


def command() -> list[str]:
    """The command line as the user would type it again."""
    return ["python", "-m", "tune_newllm", *sys.argv[1:]]
