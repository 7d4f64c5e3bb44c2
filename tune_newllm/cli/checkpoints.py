"""Commands on checkpoints: export, generate, evaluate."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from tune_newllm.cli.text import warn
from tune_newllm.errors import UsageError

SAME_LOSS = 0.01
"""Nats per token by which two machines may differ on the same weights; two epochs differ by more."""

_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
_checkpoint = click.argument("checkpoint", type=click.Path(path_type=Path))


@click.command()
@click.argument("sweep", type=click.Path(path_type=Path))
@click.option("--trial", help="Trial to export; by default the best one.")
@click.option("--to", "target", type=click.Path(path_type=Path), required=True, help="New folder to write.")
@_json
def export(sweep: Path, trial: str | None, target: Path, as_json: bool) -> int:
    """Write a trial's checkpoint as a folder that Hugging Face transformers loads.

    \b
      python -m tune_newllm export sweeps/lr_batch --to my-model
    """
    import analysis

    if trial is None:
        ranked = analysis.best(analysis.load(sweep), 1)
        if ranked.trials.empty:
            raise UsageError(f"{sweep} has no trial with a result yet: let it run on, or name one with --trial")
        trial = str(ranked.trials.iloc[0]["trial_id"])
        if not ranked.full_fidelity:
            click.echo(f"warning: no trial has run to its end yet; {trial} is the best of the others", err=True)
    result = export_trial(sweep, trial, target)
    if as_json:
        click.echo(json.dumps(result, indent=2))
    else:
        click.echo(f"{trial} -> {target}  val_loss {result['val_loss']:.4f}" + _test_text(result))
    return 0


@click.command()
@_checkpoint
@click.option("--prompt", default="", help="Text to continue.")
@click.option("--tokens", type=click.IntRange(1), default=60, show_default=True, help="Most words to add.")
@click.option("--temperature", type=click.FloatRange(0), default=0.8, show_default=True, help="0 takes the likeliest.")
@click.option("--top-k", type=click.IntRange(1), help="Draw from the k likeliest words only.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from the likeliest share p only.")
@click.option("--seed", type=int, default=0, show_default=True)
def generate(
    checkpoint: Path, prompt: str, tokens: int, temperature: float, top_k: int | None, top_p: float | None, seed: int
) -> int:
    """Continue a text with a checkpoint: an export, a trial's folder or a run.

    \b
      python -m tune_newllm generate sweeps/lr_batch/best --prompt 'the value of'
    """
    from tune_newllm.artifacts.checkpoint import load_checkpoint
    from tune_newllm.artifacts.generate import generate as continue_text

    loaded = load_checkpoint(checkpoint)
    text = continue_text(
        loaded.model,
        loaded.tokenizer,
        prompt,
        max_new_tokens=tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
    )
    click.echo(text)
    return 0


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--split", type=click.Choice(["test", "validation"]), default="test", show_default=True)
@_json
def evaluate(checkpoints: tuple[Path, ...], split: str, as_json: bool) -> int:
    """Loss, perplexity and accuracy of checkpoints, each on a split of the corpus it was trained on.

    \b
      python -m tune_newllm evaluate sweeps/lr_batch/best --split validation
    """
    from tune_newllm.artifacts.checkpoint import load_checkpoint
    from tune_newllm.artifacts.compare import evaluate_checkpoint

    scores = {str(path): dataclasses.asdict(evaluate_checkpoint(load_checkpoint(path), split)) for path in checkpoints}
    for path, row in scores.items():
        if not row["same_corpus"]:
            click.echo(f"warning: {path}: this may not be the text of its training; its words were used", err=True)
    if as_json:
        click.echo(json.dumps(scores, indent=2))
        return 0
    columns = ("loss", "ppl", "ppl_known", "acc", "targets", "tokens_per_s")
    click.echo("".join(f"{name:>14}" for name in columns) + f"  {split} of")
    for path, row in scores.items():
        click.echo(
            "".join(f"{row[name]:>14,.4g}" if name != "targets" else f"{row[name]:>14,}" for name in columns)
            + f"  {path}"
        )
    return 0


def export_trial(sweep: Path, trial: str, target: Path) -> dict[str, Any]:
    """Export one trial of a sweep, tested on the corpus's test split where there is one."""
    from tune_newllm.artifacts.export import export as write_export
    from tune_newllm.data.corpora import open_prepared
    from tune_newllm.records import EpochRecord
    from tune_newllm.sweep.folder import SweepFolder

    folder = SweepFolder.open(sweep)
    if not folder.trial(trial).is_dir():
        raise UsageError(f"{sweep} has no trial {trial!r}; `status` lists the best ones")
    provenance = folder.provenance() | {"sweep": folder.path.name, "trial": trial}
    result = write_export(folder.trial(trial), target, corpus=open_prepared(folder.corpus()), provenance=provenance)
    losses = [row.val_loss for row in folder.read() if isinstance(row, EpochRecord) and row.trial_id == trial]
    if losses and abs(result.val_loss - min(losses)) > SAME_LOSS:
        other = f"{trial}: its weights have val_loss {result.val_loss:.4f}, its best epoch on record {min(losses):.4f}"
        warn([f"{other}: a checkpoint was lost, and these are of another epoch; resume, then export again"])
    return dict(dataclasses.asdict(result))


def _test_text(result: dict[str, Any]) -> str:
    return f", test loss {result['test_loss']:.4f}" if result.get("test_loss") is not None else ""
