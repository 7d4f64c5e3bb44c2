"""The command that trains one configuration."""

import dataclasses
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.cli.continuing import EPOCHS, as_continued
from tune_newllm.cli.cost import settings, sizes
from tune_newllm.cli.experiment import follow
from tune_newllm.cli.presets import preset_option, preset_settings
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
    "--from",
    "start",
    type=click.Path(path_type=Path),
    help="Begin with this checkpoint's weights, and number the corpus by its words or pieces.",
)
@click.option("--new-words", type=click.IntRange(1), help="Give so many words that it does not know rows of their own.")
@click.option(
    "--to",
    "target",
    type=click.Path(path_type=Path),
    help="Folder of the run, by default runs/<name or file's stem>. One that holds this run already is continued.",
)
@click.option(
    "--name",
    help="Of the experiment: keep best, every fifth and last weights, progress and curves under it. `auto` makes one, "
    "such as new_llm_wikitext_ctx512_layers12.",
)
@preset_option
@click.option(
    "--new-schedule",
    is_flag=True,
    help="The run in the folder goes on with the lr and lr_schedule given now, laid out over the epochs to come.",
)
@click.option("--dry-run", is_flag=True, help="Only print sizes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
def train(
    spec: Path,
    overrides: tuple[str, ...],
    epochs: int | None,
    start: Path | None,
    new_words: int | None,
    target: Path | None,
    name: str | None,
    preset: str | None,
    new_schedule: bool,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Train the base configuration of the file SPEC once; what it searches is ignored, and of `parameters` only the
    constants (`value: ...`) count, each under its conditions.

    \b
      python -m tune_newllm train search_spaces/lr_batch.yaml --set training.lr=3e-3 --epochs 2 --to runs/one
    """
    from tune_newllm.sweep.activity import giver
    from tune_newllm.sweep.loading import load_spec

    warnings: list[str] = []
    chosen = preset_settings(spec, overrides, preset, dry_run, search=False) if preset else {}
    asked = [f"{key}={value}" for key, value in chosen.items()] + list(overrides)
    loaded = load_spec(spec, [*asked, *([f"training.epochs={epochs}"] if epochs else [])], warnings)
    warn(warnings)
    configuration = loaded.unsearched
    configuration = _started(configuration, spec.parent, start, new_words)
    name = _name(name, configuration, chosen)
    if dry_run:
        from tune_newllm.cli.starting import prepared

        corpus, _ = prepared(configuration.corpus, configuration, spec.parent, progress=True)
        facts = sizes(configuration, corpus) | settings(configuration, len(corpus.tokenizer))
        click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(f"{k:20} {v}" for k, v in facts.items()))
        return 0
    folder = target or Path("runs") / (name or spec.stem)
    named = {text.partition("=")[0].strip() for text in overrides}
    unasked = set(chosen) if epochs or giver("training.epochs", named) else {*chosen, EPOCHS}
    with _opened_run(folder, configuration, new_schedule, unasked) as run:
        follow(run, name, as_json)
    return 0


def _name(asked: str | None, configuration: "Configuration", chosen: Collection[str]) -> str | None:
    """The name of the experiment, if it is to have one.

    Args:
        chosen: keys whose values nobody asked for; a precision among them is no part of the name.
    """
    if asked is None:
        return None
    from tune_newllm.artifacts.names import name_of, require_name

    if asked != "auto":
        return require_name(asked)
    return name_of(configuration, precision="training.precision" not in chosen)


def _started(configuration: "Configuration", base: Path, start: Path | None, new_words: int | None) -> "Configuration":
    """The configuration with the checkpoint that is to be begun with by a path that holds from anywhere.

    Args:
        base: folder of the file, at which its own path of a checkpoint begins.
        start: given on the command line, as is `new_words`.
    """
    training = configuration.training
    if start is None and training.start is not None:
        start = base / Path(training.start).expanduser()
    if start is None:
        if new_words:
            raise UsageError("--new-words adds to the words of a checkpoint: give it with --from")
        return configuration
    where, words = str(start.resolve()), new_words or training.new_words
    return dataclasses.replace(configuration, training=dataclasses.replace(training, start=where, new_words=words))


@contextmanager
def _opened_run(
    folder: Path, configuration: "Configuration", new_schedule: bool, unasked: Collection[str]
) -> Iterator["Run"]:
    """A new run, or the one that the folder holds already, which is continued as it was begun; locked meanwhile.

    Args:
        unasked: keys whose values nobody asked for on the command line: a run keeps those that it was begun with, and
            the larger number of epochs.
    """
    from tune_newllm.artifacts.checkpoint import read_configuration
    from tune_newllm.cli.starting import prepared
    from tune_newllm.data.corpora import as_prepared, prepare
    from tune_newllm.data.vocabulary import load_tokenizer
    from tune_newllm.sweep.lock import trial_lock
    from tune_newllm.training.checkpoints import has_begun
    from tune_newllm.training.gpt2_embedding import as_had
    from tune_newllm.training.run import Run

    begun = has_begun(folder)
    if new_schedule and not begun:
        raise UsageError(f"--new-schedule goes on with a run, and {folder} holds none: leave it out or give its --to")
    if begun and configuration.training.start is not None:
        # It has the tokenizer, with the new words, and needs the checkpoint no more.
        corpus, start = prepare(configuration.corpus, progress=True, tokenizer=load_tokenizer(folder)), None
    else:
        corpus, start = prepared(configuration.corpus, configuration, folder, progress=True)
    model = configuration.model
    if start is None:  # with one the embedding is the start's
        model = as_had(model, corpus.tokenizer, read_configuration(folder).model if begun else None)
    configuration = dataclasses.replace(configuration, corpus=as_prepared(configuration.corpus, corpus), model=model)
    if not begun:
        configuration = dataclasses.replace(configuration, training=_resolved(configuration, len(corpus.tokenizer)))
    with trial_lock(folder, LOCK_SECONDS):
        asked, before = configuration.training, None
        if has_begun(folder):
            before = read_configuration(folder)
            free = {"training.lr", "training.lr_schedule"} if new_schedule else set()
            configuration = as_continued(folder, before, configuration, free | set(unasked))
            configuration = dataclasses.replace(configuration, training=_resolved(configuration, len(corpus.tokenizer)))
        taken = start.begin(configuration, len(corpus.tokenizer)) if start else None
        run = Run(folder, configuration, corpus, taken)
        most = run.configuration.training.micro_batch
        if before is None:
            _note_provenance(run, corpus)
        elif most != "auto" and most != before.training.micro_batch:
            run.micro_batch = min(most, run.configuration.training.batch_size)
        if start:
            found = run.evaluate()
            click.echo(f"epoch   0  val {found.loss:.4f}  ppl {found.ppl:.2f}  acc {found.acc:.3f}", err=True)
        if new_schedule:
            run.reschedule(asked.lr, asked.lr_schedule)
        yield run


def _note_provenance(run: "Run", corpus: "PreparedCorpus") -> None:
    """Write what the run begins with beside its configuration."""
    from tune_newllm.cli.ending import command
    from tune_newllm.data.files import write_text
    from tune_newllm.sweep.provenance import collect_training

    facts = collect_training(corpus, run.configuration.training.device, command())
    try:
        write_text(run.folder / "provenance.json", json.dumps(facts, indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"a run needs a folder it can write to, got {run.folder} ({error.strerror})") from None


def _resolved(configuration: "Configuration", vocab_size: int) -> "TrainingConfig":
    """The training section with nothing left `auto`."""
    from tune_newllm.models import build
    from tune_newllm.training.choosing import resolve

    def model() -> "LanguageModel":
        return build(configuration.model, vocab_size, configuration.training.seed)

    return resolve(configuration.training, model, vocab_size, configuration.corpus.window)[0]
