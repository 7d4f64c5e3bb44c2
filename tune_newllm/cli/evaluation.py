"""The command that measures checkpoints side by side."""

import json
from pathlib import Path

import click

from tune_newllm.cli.options import json_option
from tune_newllm.cli.text import place, warn

DRAWN = 0.8
"""Temperature where a text is asked to be drawn, as `generate` has it."""


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--split",
    type=click.Choice(["test", "validation"]),
    help="By default test where a corpus has it, else validation.",
)
@click.option(
    "--corpus",
    "corpora",
    multiple=True,
    metavar="SPEC|NAME|FILE",
    help="Measure on this corpus: a sweep file's, one by name, or a file of texts or dialogues, whose turns are marked "
    "where a checkpoint has learnt marks. May be given several times.",
)
@click.option("--prompt", "prompts", multiple=True, help="Text to continue; several times, by default of the corpus.")
@click.option("--tokens", type=click.IntRange(1), default=30, show_default=True, help="Most tokens to add.")
@click.option(
    "--temperature",
    type=click.FloatRange(0),
    help=f"0, the default, takes the likeliest; it is {DRAWN} where --top-k, --top-p or --seed is given.",
)
@click.option("--top-k", type=click.IntRange(1), help="Draw from the k likeliest tokens only.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="Draw from the likeliest share p only.")
@click.option("--seed", type=int, help="Of the draws; 0 by default.")
@click.option("--allow-special", is_flag=True, help="Let <PAD>, <UNK> and <BOS> be chosen.")
@click.option("--speed", is_flag=True, help="Measure speed and memory too: seconds to minutes.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, mps, cuda or cuda:N.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with tables and figures.")
@json_option
def evaluate(
    checkpoints: tuple[Path, ...],
    split: str | None,
    corpora: tuple[str, ...],
    prompts: tuple[str, ...],
    tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    allow_special: bool,
    speed: bool,
    device: str,
    html: Path | None,
    as_json: bool,
) -> int:
    """Measure checkpoints side by side: exact perplexity and accuracy, texts, and with --speed time and memory.

    Each is measured on the corpus of its training, or all on the same: --corpus, in each one's own vocabulary.

    \b
      python -m tune_newllm evaluate sweeps/lr_batch/best my-model --speed --html comparison.html
      python -m tune_newllm evaluate before after --corpus old.yaml --corpus new.yaml
    """
    from analysis.evaluation import said
    from tune_newllm.artifacts.evaluation import evaluate_all
    from tune_newllm.artifacts.generate import Sampling
    from tune_newllm.cli.evaluation_corpora import asked_corpora
    from tune_newllm.cli.evaluation_tables import tables
    from tune_newllm.training.device import resolve_device

    if temperature is None:
        temperature = 0.0 if top_k is top_p is seed is None else DRAWN
    found = evaluate_all(
        checkpoints,
        corpora=asked_corpora(corpora, checkpoints),
        split=split,
        prompts=prompts,
        sampling=Sampling(tokens, temperature, top_k, top_p, seed or 0, allow_special),
        speed=speed,
        device=resolve_device(device),
    )
    paths = {row["name"]: row["path"] for row in found["checkpoints"]}
    strange = [row for row in found["scores"] if not row["same_corpus"]]
    warn(
        f"{paths[row['checkpoint']]}: this may not be the text of its training; its words were used" for row in strange
    )
    found["said"] = said(found)
    if html:
        from analysis import write_evaluation

        write_evaluation(found, html)
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    click.echo(tables(found))
    if html:
        click.echo(f"\npage  {place(html)}")
    return 0
