"""Commands on sweeps: search, resume, status, report."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tune_newllm.cli.text import near, place, resume_command, spent_budget, warn, wrapped
from tune_newllm.errors import TuneError

if TYPE_CHECKING:
    from tune_newllm.sweep.engine import Outcome

_set = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the file; a searched key is fixed. May be repeated.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
_quiet = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
_concurrent = click.option("--max-concurrent", type=click.IntRange(1), help="Most trials at once.")


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the sweep; by default the file's, then with -2, -3 ... where it is taken.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("sweeps"),
    show_default=True,
    help="Folder that holds the sweeps.",
)
@_set
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Number of configurations, each trained with every seed; short for --set run_cap=N.",
)
@_concurrent
@click.option("--dry-run", is_flag=True, help="Check the file and show what would be run; write nothing.")
@_json
@_quiet
def search(
    spec: Path,
    name: str | None,
    root: Path,
    overrides: tuple[str, ...],
    trials: int | None,
    max_concurrent: int | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run the sweep that the file SPEC describes, then report it and export its best configuration.

    \b
      python -m tune_newllm search search_spaces/lr_batch.yaml --trials 10 --set training.epochs=4
    """
    from tune_newllm.sweep.loading import load_spec

    extra = [f"run_cap={trials}"] * (trials is not None)
    extra += [f"resources.max_concurrent={max_concurrent}"] * (max_concurrent is not None)
    warnings: list[str] = []
    loaded = load_spec(spec, [*overrides, *extra], warnings)
    warn(warnings)
    if dry_run:
        from tune_newllm.cli.preview import preview

        preview(loaded, as_json)
        return 0
    from tune_newllm.cli.progress import display
    from tune_newllm.data.corpora import prepare
    from tune_newllm.sweep import engine
    from tune_newllm.sweep.folder import free_name, refuse_taken

    if name is not None:
        refuse_taken(root, name)
    corpus = prepare(loaded.widest_corpus, progress=not quiet)
    path = root / (name or free_name(root, spec.stem))
    with _resumable(path), display(loaded, quiet, path) as listener:
        outcome = engine.search(loaded, corpus, path, _command(), listener)
    return _conclude(outcome, as_json)


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change resources.KEY (what a trial gets, for another machine) or budget.KEY. May be repeated.",
)
@_concurrent
@_json
@_quiet
def resume(sweep: Path, overrides: tuple[str, ...], max_concurrent: int | None, as_json: bool, quiet: bool) -> int:
    """Go on with a sweep that was stopped or killed; SWEEP is its folder.

    \b
      python -m tune_newllm resume sweeps/lr_batch
      python -m tune_newllm resume sweeps/lr_batch --set budget.epochs=800
    """
    from tune_newllm.cli.progress import display
    from tune_newllm.sweep import engine
    from tune_newllm.sweep.folder import SweepFolder

    changes = [*overrides, *([f"resources.max_concurrent={max_concurrent}"] if max_concurrent else [])]
    folder = SweepFolder.open(sweep)
    spec = folder.spec(folder.changes(changes))
    with _resumable(sweep, changes), display(spec, quiet, past=folder.read()) as listener:
        outcome = engine.resume(sweep, _command(), listener, changes)
    return _conclude(outcome, as_json, changes if outcome.idle else [])


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@_json
def status(sweep: Path, as_json: bool) -> int:
    """Say where a sweep stands, also while it runs.

    \b
      python -m tune_newllm status sweeps/lr_batch --json
    """
    import analysis

    loaded = analysis.load(sweep)
    warn(loaded.warnings)
    _show(analysis.summary(loaded), analysis.answers(loaded), as_json)
    return 0


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write to; by default the sweep's own.")
@_json
def report(sweep: Path, out: Path | None, as_json: bool) -> int:
    """Write report.html, trials.csv and summary.json, and print the answers.

    \b
      python -m tune_newllm report sweeps/lr_batch
    """
    import analysis

    loaded = analysis.load(sweep)
    warn(loaded.warnings)
    written = analysis.write_report(loaded, out or sweep)
    _show(analysis.summary(loaded), [*analysis.answers(loaded), f"report: {written}"], as_json)
    return 0


@contextmanager
def _resumable(folder: Path, changes: Sequence[str] = ()) -> Iterator[None]:
    """Say how to go on when the user will not even wait for a clean stop; `changes` may not be on record yet."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.exists():
            click.echo(f"stopped at once; go on with: {resume_command(folder, changes)}", err=True)
        raise


def _conclude(outcome: "Outcome", as_json: bool, changes: Sequence[str] = ()) -> int:
    """Export the best trial, write the report, print the answers; the exit code says how the sweep went.

    `changes` are overrides that are not on record, so that the command to go on with has to repeat them.
    """
    import analysis

    folder = near(outcome.folder)
    if not outcome.finished and not outcome.spent:
        click.echo(f"stopped; go on with: {resume_command(folder)}", err=True)
        return 128 + outcome.signal if outcome.signal is not None else 1
    loaded = analysis.load(folder)
    ranked = analysis.best(loaded, 1)
    best = str(ranked.trials.iloc[0]["trial_id"]) if ranked.full_fidelity and not ranked.trials.empty else None
    problem = _present(folder, best, as_json) if outcome.finished or (best and not outcome.idle) else None
    if outcome.spent:
        click.echo(spent_budget(outcome.spent, folder, changes), err=True)
    if problem is not None:
        raise problem
    if outcome.spent:
        return 5
    if best is None:
        click.echo("error: no trial ran to its end, so there is no result; the report says how they ended", err=True)
        return 4
    return 3 if loaded.trials["state"].isin(["failed", "crashed"]).any() else 0


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
    _show(analysis.summary(loaded), lines, as_json)
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
    shutil.rmtree(folder / "best", ignore_errors=True)
    draft.rename(folder / "best")
    return None


def _show(summary: dict[str, Any], lines: list[str], as_json: bool) -> None:
    click.echo(json.dumps(summary, indent=2) if as_json else "\n".join(map(wrapped, lines)))


def _command() -> list[str]:
    """The command line as the user would type it again."""
    return ["python", "-m", "tune_newllm", *sys.argv[1:]]
