"""The command that trains one configuration, and what a training costs."""

import dataclasses
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.cli.text import warn
from tune_newllm.errors import UsageError

if TYPE_CHECKING:
    from tune_newllm.data.corpora import PreparedCorpus
    from tune_newllm.models import LanguageModel
    from tune_newllm.training.config import Configuration, TrainingConfig
    from tune_newllm.training.run import Run

LOCK_SECONDS = 5.0
"""How long a training waits for another one in its folder."""


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the file.")
@click.option("--epochs", type=click.IntRange(1), help="Short for --set training.epochs=N.")
@click.option(
    "--from", "start", type=click.Path(path_type=Path), help="Begin with this checkpoint's weights and words."
)
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Folder of the run, by default runs/<file's stem>. One that holds this run already is continued.",
)
@click.option("--dry-run", is_flag=True, help="Only print sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def train(
    spec: Path,
    overrides: tuple[str, ...],
    epochs: int | None,
    start: Path | None,
    target: Path | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Train the base configuration of the file SPEC once; what it searches is ignored.

    \b
      python -m tune_newllm train search_spaces/lr_batch.yaml --set training.lr=3e-3 --epochs 2 --to runs/one
    """
    from tune_newllm.sweep.loading import load_spec

    warnings: list[str] = []
    loaded = load_spec(spec, [*overrides, *([f"training.epochs={epochs}"] if epochs else [])], warnings)
    warn(warnings)
    configuration = loaded.model_copy(update={"parameters": {}}).configuration()
    if dry_run:
        from tune_newllm.data.corpora import prepare

        facts = sizes(configuration, prepare(configuration.corpus, progress=True))
        click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(f"{k:20} {v}" for k, v in facts.items()))
        return 0
    folder = target or Path("runs") / spec.stem
    with _opened_run(folder, configuration, start) as run:
        _train(run, as_json)
    return 0


def sizes(configuration: "Configuration", corpus: "PreparedCorpus") -> dict[str, int]:
    """Sizes of a training: parameters, windows, steps."""
    from tune_newllm.models import parameter_count
    from tune_newllm.training.loop import steps_per_epoch

    vocab_size = len(corpus.tokenizer)
    steps = steps_per_epoch(len(corpus.train), configuration.training.batch_size)
    return {
        "parameters": parameter_count(configuration.model, vocab_size),
        "vocabulary": vocab_size,
        "train_windows": len(corpus.train),
        "validation_windows": len(corpus.validation),
        "test_windows": 0 if corpus.test is None else len(corpus.test),
        "steps_per_epoch": steps,
        "steps": steps * configuration.training.epochs,
    }


def trial_seconds(configuration: "Configuration", corpus: "PreparedCorpus", threads: int) -> float:
    """Estimated seconds of all epochs: the median of a few real steps, times their number.

    Args:
        configuration: nothing in it is `auto`.
    """
    import torch

    from tune_newllm.models import build
    from tune_newllm.training.device import resolve_micro_batch
    from tune_newllm.training.loop import train_step
    from tune_newllm.training.state import TrainState

    torch.set_num_threads(threads)
    # Next to no learning rate: the steps shall take their time, not diverge.
    training = dataclasses.replace(configuration.training, lr=1e-9, lr_rule="none", lr_size_rule="none")
    state = TrainState.create(training, build(configuration.model, len(corpus.tokenizer), training.seed))
    micro_batch = resolve_micro_batch(training.micro_batch, state.device)
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        train_step(state, corpus.train[: training.batch_size], None, micro_batch)
        if state.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]) * sizes(configuration, corpus)["steps"]


@contextmanager
def _opened_run(folder: Path, configuration: "Configuration", start: Path | None) -> Iterator["Run"]:
    """A new run, or the one that the folder holds already, which is continued as it was begun; locked meanwhile."""
    from tune_newllm.artifacts.checkpoint import load_checkpoint, read_configuration
    from tune_newllm.data.corpora import prepare
    from tune_newllm.sweep.lock import trial_lock
    from tune_newllm.training.checkpoints import has_begun
    from tune_newllm.training.run import Run

    source = load_checkpoint(start) if start else None
    if source and source.configuration.model != configuration.model:
        raise UsageError(f"--from {start}: it holds {source.configuration.model}; the file must say the same")
    corpus = prepare(configuration.corpus, progress=True, tokenizer=source.tokenizer if source else None)
    if not has_begun(folder):
        configuration = dataclasses.replace(configuration, training=_resolved(configuration, len(corpus.tokenizer)))
    with trial_lock(folder, LOCK_SECONDS):
        if has_begun(folder):
            configuration = _continued(folder, read_configuration(folder), configuration)
        yield Run(folder, configuration, corpus, model=source.model if source else None)


def _resolved(configuration: "Configuration", vocab_size: int) -> "TrainingConfig":
    """The training section with nothing left `auto`."""
    from tune_newllm.models import build
    from tune_newllm.training.choosing import resolve

    def model() -> "LanguageModel":
        return build(configuration.model, vocab_size, configuration.training.seed)

    return resolve(configuration.training, model, vocab_size, configuration.corpus.window)[0]


def _continued(folder: Path, begun: "Configuration", asked: "Configuration") -> "Configuration":
    """What the folder's run was begun with, for the number of epochs asked for now.

    Raises:
        UsageError: anything else was asked for than the folder's run does.
    """
    automatic = {
        key: getattr(begun.training, key)
        for key in ("device", "precision", "micro_batch")
        if getattr(asked.training, key) == "auto"
    }
    wanted = dataclasses.replace(asked, training=dataclasses.replace(asked.training, **automatic))
    allowed = dataclasses.replace(begun, training=dataclasses.replace(begun.training, epochs=asked.training.epochs))
    if wanted != allowed:
        there, now = allowed.to_dict(), wanted.to_dict()
        changed = [f"{part}.{key}" for part in now for key in now[part] if now[part][key] != there[part][key]]
        raise UsageError(
            f"{folder} holds a run with another {', '.join(changed)}: continue it as it was or give a new --to"
        )
    return allowed


def _warn(run: "Run") -> None:
    warn(run.notes)
    run.notes.clear()


def _train(run: "Run", as_json: bool) -> None:
    if run.history:
        click.echo(f"going on after epoch {run.history[-1].epoch}", err=True)
    _warn(run)
    try:
        with closing(run.epochs()) as results:
            for result in results:
                _warn(run)
                click.echo(
                    f"epoch {result.epoch:>3}  train {result.train_loss:.4f}  val {result.val_loss:.4f}  "
                    f"ppl {result.val_ppl:.2f}  acc {result.val_acc:.3f}  {result.tokens_per_s:,.0f} tokens/s  "
                    f"{result.seconds:.1f} s",
                    err=True,
                )
    except KeyboardInterrupt:
        where = f"goes on after epoch {run.saved_epoch}" if run.saved_epoch else "begins anew"
        click.echo(f"stopped; the same command {where}", err=True)
        raise
    best = min(run.history, key=lambda result: result.val_loss)
    if as_json:
        history = [dataclasses.asdict(result) for result in run.history]
        click.echo(json.dumps({"folder": str(run.folder), "best_epoch": best.epoch, "history": history}, indent=2))
    else:
        click.echo(
            f"best epoch {best.epoch}: val_loss {best.val_loss:.4f}, perplexity {best.val_ppl:.2f}, in {run.folder}"
        )
