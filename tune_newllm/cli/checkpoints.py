"""Commands on one checkpoint: export and generate."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tune_newllm.cli.text import warn
from tune_newllm.errors import UsageError

if TYPE_CHECKING:
    from tune_newllm.artifacts.quantize import Int8

SAME_LOSS = 0.01
"""Nats per token by which two machines may differ on the same weights; two epochs differ by more."""

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
_checkpoint = click.argument("checkpoint", type=click.Path(path_type=Path))


@click.command()
@click.argument("source", metavar="SWEEP|CHECKPOINT", type=click.Path(path_type=Path))
@click.option("--trial", help="Trial of the sweep to export; by default the best one.")
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="New folder to write.")
@click.option("--int8", is_flag=True, help="Round the weights of the linear layers to 8 bits; needs torchao.")
@click.option(
    "--int8-dynamic",
    is_flag=True,
    help="Instead of --int8: round what these layers read too, at run time. On a processor without 8-bit instructions "
    "(VNNI) passes take about 13 to 16 times as long.",
)
@_json
def export(source: Path, trial: str | None, target: Path, int8: bool, int8_dynamic: bool, as_json: bool) -> int:
    """Write a trial of a sweep, or the checkpoint of a run, as a folder that Hugging Face transformers loads.

    \b
      python -m tune_newllm export sweeps/lr_batch --to my-model
      python -m tune_newllm export runs/one --int8 --to my-model-int8
    """
    if int8 and int8_dynamic:
        raise UsageError("--int8 and --int8-dynamic are two kinds of the same: give one of them")
    kind: Int8 | None = "dynamic" if int8_dynamic else "weights" if int8 else None
    if _is_checkpoint(source):
        if trial:
            raise UsageError(f"{source} is one checkpoint, of which --trial {trial} is none: leave --trial out")
        name, result = str(source), export_checkpoint(source, target, kind)
    else:
        name = trial or _best_trial(source)
        result = export_trial(source, name, target, kind)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"{name} -> {target}  val_loss {result['val_loss']:.4f}{_test_text(result)}{_int8_text(result)}")
    return 0


@click.command()
@_checkpoint
@click.option("--prompt", default="", help="Text to continue.")
@click.option("--tokens", type=click.IntRange(1), default=60, show_default=True, help="Most tokens to add.")
@click.option("--temperature", type=click.FloatRange(0), default=0.8, show_default=True, help="0 takes the likeliest.")
@click.option("--top-k", type=click.IntRange(1), help="Draw from the k likeliest tokens only.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from the likeliest share p only.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--allow-special", is_flag=True, help="Let <PAD>, <UNK> and <BOS> be chosen.")
def generate(
    checkpoint: Path,
    prompt: str,
    tokens: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    seed: int,
    allow_special: bool,
) -> int:
    """Continue a text with a checkpoint: an export, a trial's folder or a run.

    \b
      python -m tune_newllm generate sweeps/lr_batch/best --prompt 'the value of'
    """
    from tune_newllm.artifacts.checkpoint import load_checkpoint
    from tune_newllm.artifacts.generate import Sampling
    from tune_newllm.artifacts.generate import generate as continue_text

    loaded = load_checkpoint(checkpoint)
    sampling = Sampling(tokens, temperature, top_k, top_p, seed, allow_special)
    text = continue_text(loaded.model, loaded.tokenizer, prompt, sampling)
    click.echo(text)
    return 0


def export_trial(sweep: Path, trial: str, target: Path, int8: "Int8 | None" = None) -> dict[str, Any]:
    """Export one trial of a sweep, tested on the corpus's test split where there is one."""
    from tune_newllm.artifacts.export import export as write_export
    from tune_newllm.data.corpora import open_prepared
    from tune_newllm.records import EpochRecord
    from tune_newllm.sweep.folder import SweepFolder

    folder = SweepFolder.open(sweep)
    if not folder.trial(trial).is_dir():
        raise UsageError(f"{sweep} has no trial {trial!r}; `status` lists the best ones")
    provenance = folder.provenance() | {"sweep": folder.path.name, "trial": trial}
    corpus = open_prepared(folder.corpus())
    result = write_export(folder.trial(trial), target, corpus=corpus, provenance=provenance, int8=int8)
    losses = [row.val_loss for row in folder.read() if isinstance(row, EpochRecord) and row.trial_id == trial]
    trained = result.int8.fp32_val_loss if result.int8 else result.val_loss
    if losses and abs(trained - min(losses)) > SAME_LOSS:
        other = f"{trial}: its weights have val_loss {trained:.4f}, its best epoch on record {min(losses):.4f}"
        warn([f"{other}: a checkpoint was lost, and these are of another epoch; resume, then export again"])
    return dict(dataclasses.asdict(result))


def export_checkpoint(checkpoint: Path, target: Path, int8: "Int8 | None" = None) -> dict[str, Any]:
    """Export the checkpoint of a run, or an export once more, tested as `export_trial` does."""
    from tune_newllm.artifacts.checkpoint import load_checkpoint, provenance_of
    from tune_newllm.artifacts.compare import measurable_corpus
    from tune_newllm.artifacts.export import export as write_export

    corpus = measurable_corpus(load_checkpoint(checkpoint))
    made = {"checkpoint": checkpoint.name, "export_command": sys.argv}
    provenance = {"command": sys.argv} | provenance_of(checkpoint) | made
    return dict(dataclasses.asdict(write_export(checkpoint, target, corpus=corpus, provenance=provenance, int8=int8)))


def _is_checkpoint(source: Path) -> bool:
    """Whether it is a checkpoint's own folder, which a sweep's is not."""
    from tune_newllm.training.run import CONFIGURATION

    return (source / CONFIGURATION).is_file()


def _best_trial(sweep: Path) -> str:
    import analysis

    ranked = analysis.best(analysis.load(sweep), 1)
    if ranked.trials.empty:
        raise UsageError(f"{sweep} has no trial with a result yet: let it run on, or name one with --trial")
    trial = str(ranked.trials.iloc[0]["trial_id"])
    if not ranked.full_fidelity:
        click.echo(f"warning: no trial has run to its end yet; {trial} is the best of the others", err=True)
    return trial


def _int8_text(result: dict[str, Any]) -> str:
    """How int8 has changed size and perplexity, in one line more; nothing where it was not asked for."""
    if not (change := result["int8"]):
        return ""
    share = result["val_ppl"] / change["fp32_val_ppl"] - 1
    sizes = f"{change['fp32_bytes'] / 2**20:.2f} -> {result['weight_bytes'] / 2**20:.2f} MiB of weights"
    was = f"validation perplexity {change['fp32_val_ppl']:.2f} -> {result['val_ppl']:.2f}"
    return f"\nint8: {sizes}, {was} ({share:+.2%}: {change['verdict']})"


def _test_text(result: dict[str, Any]) -> str:
    return f", test loss {result['test_loss']:.4f}" if result.get("test_loss") is not None else ""
