"""What `train` shows and writes while it trains: a line an epoch and, under a name, the experiment's own files."""

import dataclasses
import importlib.util
import json
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.cli.text import near, place, warn

if TYPE_CHECKING:
    from tune_newllm.training.loop import EpochResult
    from tune_newllm.training.run import Run

DRAW_SECONDS = 60.0
"""Curves are drawn anew so often at most, and at the end."""


def follow(run: "Run", name: str | None, as_json: bool) -> None:
    """Train on to the end, and say how it went.

    Args:
        run: new or begun.
        name: of the experiment; None for no files but the run's own.
        as_json: print one JSON object instead of a sentence.
    """
    if run.history:
        _say_where_it_stands(run)
    _warn(run)
    named = _Named(name, run) if name else None
    try:
        with closing(run.epochs()) as results:
            for result in results:
                if named:
                    named.take_in(result)
                _warn(run)
                click.echo(_line(result, run), err=True)
    except KeyboardInterrupt:
        where = f"goes on after epoch {run.saved_epoch}" if run.saved_epoch else "begins anew"
        click.echo(f"stopped; the same command {where}", err=True)
        raise
    best = min(run.history, key=lambda result: result.val_loss)
    if as_json:
        history = [dataclasses.asdict(result) for result in run.history]
        content = {"folder": str(run.folder), "best_epoch": best.epoch, "history": history}
        click.echo(json.dumps(content | (named.files() if named else {}), indent=2))
        return
    click.echo(f"best epoch {best.epoch}: val_loss {best.val_loss:.4f}, perplexity {best.val_ppl:.2f}, in {run.folder}")
    if named:
        click.echo(named.said())


def _say_where_it_stands(run: "Run") -> None:
    """What a run that has begun does next, on stderr."""
    epoch = run.history[-1].epoch
    if run.finished == "epochs":
        click.echo(f"all {epoch} epochs are trained; --epochs {2 * epoch} would give it more", err=True)
    elif run.finished == "patience":
        more = "more with --set training.early_stopping.patience=N, or --new-schedule, would go on"
        click.echo(f"patience ran out after epoch {epoch}; {more}", err=True)
    else:
        click.echo(f"going on after epoch {epoch}", err=True)
        if run.lr_share == 0:
            warn(["its learning rate has fallen to 0, so it learns nothing more; --new-schedule begins another course"])


def _warn(run: "Run") -> None:
    warn(run.notes)
    run.notes.clear()


def _line(result: "EpochResult", run: "Run") -> str:
    best = "  best" if run.best()[0] == result.epoch else ""
    return (
        f"epoch {result.epoch:>3}  train {result.train_loss:.4f}  val {result.val_loss:.4f}  "
        f"ppl {result.val_ppl:.2f}  acc {result.val_acc:.3f}  lr {result.lr:.3g}  "
        f"{result.tokens_per_s:,.0f} tokens/s  {result.seconds:.1f} s{best}"
    )


class _Named:
    """An experiment's files, and its curves, which are drawn behind the training."""

    def __init__(self, name: str, run: "Run") -> None:
        from tune_newllm.artifacts.experiment import Experiment

        self._run = run
        self._drawn = time.monotonic()
        self._pictures = bool(importlib.util.find_spec("matplotlib"))
        if not self._pictures:
            warn(["no picture of the curves, only their page: pip install 'tune-newllm[curves]' brings matplotlib"])
        self._experiment: Experiment = Experiment(name, run)
        if run.finished:
            self._draw()

    def take_in(self, result: "EpochResult") -> None:
        """After an epoch."""
        self._experiment.take_in(result)
        if self._run.finished or time.monotonic() - self._drawn > DRAW_SECONDS:
            self._drawn = time.monotonic()
            self._draw()

    @property
    def _page(self) -> Path:
        return self._experiment.file("_training_curves.html")

    def _draw(self) -> None:
        progress = self._experiment.known()

        def draw() -> None:
            import analysis

            analysis.write_training(progress, self._page)
            if self._pictures:
                analysis.write_training_picture(progress, self._page.with_suffix(".png"))

        self._run.later(draw)

    def files(self) -> dict[str, str]:
        """For a script: the name and the paths of its files."""
        made = {"best": self._experiment.best, "final": self._experiment.file("_final")}
        made |= {"progress": self._experiment.progress, "curves": self._page}
        return {"name": self._experiment.name} | {key: str(path) for key, path in made.items()}

    def said(self) -> str:
        """For a reader: where things are, and the command that quantises the best weights."""
        name, best = self._experiment.name, place(self._experiment.best)
        picture = " and .png" if self._pictures else ""
        quantised = place(self._run.folder.with_name(f"{name}_int8"))
        return (
            f"\nbest      {near(self._experiment.best)}\ncurves    {near(self._page)}{picture}\n"
            f"try it    python -m tune_newllm evaluate {best}\n"
            f"int8      python -m tune_newllm export {best} --int8 --to {quantised}"
        )
