"""Commands that begin a sweep and that read one: search, status, report."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.cli.ending import command, conclude, resumable, show
from tune_newllm.cli.options import concurrent_option, json_option, quiet_option
from tune_newllm.cli.presets import preset_option, preset_settings
from tune_newllm.cli.text import warn
from tune_newllm.errors import FolderError, UsageError

if TYPE_CHECKING:
    from analysis import Sweep


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
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the file; a searched key is fixed. May be repeated.",
)
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Number of configurations, each trained with every seed; short for --set run_cap=N.",
)
@preset_option
@concurrent_option
@click.option("--dry-run", is_flag=True, help="Check the file and show what would be run; write nothing.")
@json_option
@quiet_option
def search(
    spec: Path,
    name: str | None,
    root: Path,
    overrides: tuple[str, ...],
    trials: int | None,
    preset: str | None,
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
    if preset:
        chosen = preset_settings(spec, overrides, preset, dry_run, search=True)
        overrides = (*(f"{key}={value}" for key, value in chosen.items()), *overrides)
    warnings: list[str] = []
    loaded = load_spec(spec, [*overrides, *extra], warnings)
    warn(warnings)
    if dry_run:
        from tune_newllm.cli.preview import preview

        preview(loaded, as_json, spec.parent)
        return 0
    from tune_newllm.cli.progress import display
    from tune_newllm.cli.starting import prepared
    from tune_newllm.sweep import engine
    from tune_newllm.sweep.folder import free_name, refuse_taken

    if name is not None:
        refuse_taken(root, name)
    corpus, start = prepared(loaded.widest_corpus, loaded.base, spec.parent, progress=not quiet)
    path = root / (name or free_name(root, spec.stem))
    with resumable(path):
        with display(loaded, quiet, path) as listener:
            outcome = engine.search(loaded, corpus, path, command(), listener, start)
        return conclude(outcome, as_json)


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@json_option
def status(sweep: Path, as_json: bool) -> int:
    """Say where a sweep stands, also while it runs.

    \b
      python -m tune_newllm status sweeps/lr_batch --json
    """
    _one_thread()
    import analysis

    loaded = analysis.load(sweep)
    warn(loaded.warnings)
    # Loading Optuna takes longer than all else that is asked of a sweep.
    show(analysis.summary(loaded, importances=False), analysis.answers(loaded), as_json)
    return 0


@click.command()
@click.argument("sweeps", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder to write to; by default the sweep's own, of several sweeps NAME-vs-NAME-report.",
)
@click.option(
    "--markdown",
    is_flag=False,
    flag_value="",
    metavar="[FILE.md]",
    help="Also write the experiment record as Markdown, by default record.md beside report.html; of a folder that "
    "`train` left only that.",
)
@json_option
def report(sweeps: tuple[Path, ...], out: Path | None, markdown: str | None, as_json: bool) -> int:
    """Write report.html, trials.csv and summary.json, and print the answers.

    Where the sweep's folder cannot be written to they go to NAME-report/ in the working directory. Of several sweeps
    report.html and summary.json compare them: the same questions side by side.

    \b
      python -m tune_newllm report sweeps/lr_batch
      python -m tune_newllm report sweeps/lr_batch --markdown
      python -m tune_newllm report sweeps/lr_batch sweeps/lr_batch-2
    """
    _one_thread()
    if markdown and Path(markdown).suffix != ".md":
        raise UsageError(f"--markdown takes a file whose name ends in .md, got {markdown}: name sweeps before it")
    if len(sweeps) > 1:
        return _report_several(sweeps, out, markdown, as_json)
    import analysis

    sweep = sweeps[0]
    if analysis.is_run(sweep):
        _refuse_run(sweep, markdown, as_json)
        run = analysis.load_run(sweep)
        warn(run.warnings)
        click.echo("\n".join(_record([run], markdown, out or sweep)))
        return 0
    loaded = analysis.load(sweep)
    warn(loaded.warnings)
    try:
        written = analysis.write_report(loaded, out or sweep)
    except FolderError as error:
        if out is not None:
            raise
        here = Path(f"{loaded.name}-report")
        warn([f"{sweep} cannot be written to ({error.__cause__}), so the report goes to {here}/"])
        written = analysis.write_report(loaded, here)
    lines = [*analysis.answers(loaded), f"report: {written}", *_record([loaded], markdown, written.parent)]
    show(analysis.summary(loaded), lines, as_json)
    return 0


def _refuse_run(folder: Path, markdown: str | None, as_json: bool) -> None:
    """Of one training there is the record and nothing else."""
    if markdown is None:
        raise UsageError(f"{folder} holds one training, no sweep: add --markdown to get its record")
    if as_json:
        raise UsageError(f"--json is for sweeps, and {folder} holds one training: leave it out")


def _record(loaded: "Sequence[Sweep]", markdown: str | None, beside: Path) -> list[str]:
    """Write the experiment record where it was asked for, and say where it is."""
    if markdown is None:
        return []
    import analysis
    from tune_newllm.training.config import Configuration

    path = Path(markdown) if markdown else beside / "record.md"
    sweeps = loaded[0] if len(loaded) == 1 else loaded
    return [f"record: {analysis.write_record(sweeps, path, Configuration().to_dict(), beside)}"]


def _one_thread() -> None:
    """Have numpy compute with one thread, unless it is loaded or the user chose otherwise.

    The threads of its OpenBLAS wait for each other by spinning, which takes seconds for every small matrix while
    trainings use all processors.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _report_several(sweeps: tuple[Path, ...], out: Path | None, markdown: str | None, as_json: bool) -> int:
    """Write the report that compares sweeps, and print its answers and the sweeps' own side by side."""
    import analysis
    from tune_newllm.cli.side_by_side import side_by_side

    if len({sweep.resolve() for sweep in sweeps}) < len(sweeps):
        raise UsageError("a sweep is named twice: name each once")
    if runs := [str(sweep) for sweep in sweeps if analysis.is_run(sweep)]:
        raise UsageError(
            f"several folders must be sweeps to be compared, and {', '.join(runs)} hold one training each: `evaluate` "
            "compares trainings, `report --markdown` writes the record of one at a time"
        )
    loaded = [analysis.load(sweep) for sweep in sweeps]
    for each in loaded:
        warn(f"{each.name}: {warning}" for warning in each.warnings)
    content = analysis.compare(loaded)
    written = analysis.write_comparison(loaded, out)
    lines = [*content["answers"], "", side_by_side(content["names"], content["questions"]), "", f"report: {written}"]
    lines += _record(loaded, markdown, written.parent)
    show(content, lines, as_json)
    return 0
