"""Commands that go on with a sweep: resume, extend."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.cli.ending import command, conclude, resumable
from tune_newllm.cli.options import concurrent_option, json_option, quiet_option
from tune_newllm.errors import UsageError

if TYPE_CHECKING:
    from tune_newllm.records import SweepExtended
    from tune_newllm.sweep.engine import Extend
    from tune_newllm.sweep.history import History
    from tune_newllm.sweep.spec import SweepSpec

_sweep = click.argument("sweep", type=click.Path(path_type=Path))
_changes = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change resources.KEY (what a trial gets, for another machine) or budget.KEY. May be repeated.",
)
_force = click.option("--force", is_flag=True, help="Go on although the code of models, training or data has changed.")


@click.command()
@_sweep
@_changes
@concurrent_option
@_force
@json_option
@quiet_option
def resume(
    sweep: Path, overrides: tuple[str, ...], max_concurrent: int | None, force: bool, as_json: bool, quiet: bool
) -> int:
    """Go on with a sweep that was stopped or killed; SWEEP is its folder.

    \b
      python -m tune_newllm resume sweeps/lr_batch
      python -m tune_newllm resume sweeps/lr_batch --set budget.epochs=800
    """
    return _go_on(sweep, _with_concurrent(overrides, max_concurrent), force, as_json, quiet)


@click.command()
@_sweep
@click.option("--trials", metavar="N|+N", help="Configurations in all, or with + so many more than now.")
@click.option("--epochs", type=click.IntRange(1), help="Epochs of a full trial, more than now.")
@click.option(
    "--best",
    type=click.IntRange(1),
    help="With --epochs: how many of the completed configurations go on to them, the best; the others count as "
    "stopped. By default one in early_terminate.eta within each value of early_terminate.within, or all where nothing "
    "stops trials early.",
)
@click.option(
    "--new-schedule",
    is_flag=True,
    help="With --epochs: trials that there are follow their lr_schedule once more, over the epochs to come. By default "
    "it stays at its last value.",
)
@_changes
@concurrent_option
@_force
@json_option
@quiet_option
def extend(
    sweep: Path,
    trials: str | None,
    epochs: int | None,
    best: int | None,
    new_schedule: bool,
    overrides: tuple[str, ...],
    max_concurrent: int | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Give a sweep more configurations or more epochs, and go on with it; SWEEP is its folder.

    \b
      python -m tune_newllm extend sweeps/lr_batch --trials +20
      python -m tune_newllm extend sweeps/lr_batch --epochs 16 --best 5
    """
    from tune_newllm.sweep.extension import extension

    def by(spec: "SweepSpec", history: "History") -> "SweepExtended":
        return extension(spec, history, trials, epochs, best, new_schedule)

    return _go_on(sweep, _with_concurrent(overrides, max_concurrent), force, as_json, quiet, by)


def _with_concurrent(overrides: Sequence[str], max_concurrent: int | None) -> list[str]:
    return [*overrides, *([f"resources.max_concurrent={max_concurrent}"] if max_concurrent else [])]


def _go_on(
    sweep: Path, changes: list[str], force: bool, as_json: bool, quiet: bool, extend: "Extend | None" = None
) -> int:
    from tune_newllm.cli.progress import display
    from tune_newllm.sweep import engine
    from tune_newllm.sweep.folder import SweepFolder

    folder = SweepFolder.open(sweep)
    spec = folder.spec(folder.changes(changes))
    with resumable(sweep, changes):
        with display(spec, quiet, past=folder.read()) as listener:
            outcome = engine.resume(sweep, command(), listener, changes, force=force, extend=extend)
        if outcome.idle and extend is not None:
            raise UsageError(
                "the budget of this sweep is spent, so it was not extended: give --set budget.KEY=VALUE too"
            )
        return conclude(outcome, as_json, changes if outcome.idle else [])
