"""`--preset`: what a known GPU is given, as overrides of the sweep file."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.cli.text import warn
from tune_newllm.errors import UsageError
from tune_newllm.training.presets import PRESETS

if TYPE_CHECKING:
    from tune_newllm.training.config import Configuration
    from tune_newllm.training.presets import Chosen

preset_option = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Batch size, precision and learning rate for this GPU: the largest batch that fits into its memory, measured, "
    "in a search with the largest model. --set and what is searched stay as they are.",
)
FEWEST_STEPS = 20
"""An epoch of fewer steps is warned of."""


def preset_settings(
    path: Path, overrides: Sequence[str], preset: str, dry_run: bool, search: bool
) -> dict[str, int | float | str]:
    """What the preset sets, by key of the sweep file; said on stderr.

    Args:
        path: the sweep file.
        overrides: those of the command line, which stay in force.
        dry_run: a machine without such a GPU will do, whose precision is then only told.
        search: what is searched is left alone, and the largest configuration is what must fit.

    Raises:
        UsageError: there is no NVIDIA GPU, and no processor was asked for.
    """
    import torch

    from tune_newllm.cli.starting import prepared
    from tune_newllm.sweep.activity import giver
    from tune_newllm.sweep.loading import load_spec
    from tune_newllm.sweep.memory_plan import largest
    from tune_newllm.training.device import available_memory, resolve_device
    from tune_newllm.training.presets import KEYS, choose, from_base_point

    spec = load_spec(path, overrides)
    device = spec.training.device
    gpu = torch.cuda.is_available() and device != "cpu"
    if not (gpu or dry_run or device == "cpu"):
        raise UsageError(
            f"--preset {preset} is for an NVIDIA GPU, and there is none here: --dry-run shows what it would choose, "
            "and --set training.device=cpu lets this machine's memory decide"
        )
    searched = {key for key in KEYS if search and giver(key, spec.searched)}
    asked = searched | {key for key in KEYS if giver(key, [text.partition("=")[0].strip() for text in overrides])}
    if device == "cpu":
        # The table's is the GPU's.
        asked.add("training.precision")
    corpus, _ = prepared(spec.widest_corpus, spec.unsearched, path.parent, progress=True)
    vocab_size, kind = len(corpus.tokenizer), "cuda" if gpu else "cpu"
    configuration = largest(spec, vocab_size, kind) if search else spec.unsearched
    if not (_gives_rate(path) or {"training.lr", "training.lr_rule"} & asked):
        configuration = from_base_point(configuration)
    memory = available_memory(resolve_device(device)) if gpu or device == "cpu" else None
    chosen = choose(preset, configuration, vocab_size, asked, memory)
    click.echo("\n".join(_told(chosen, configuration, vocab_size, searched if search else None)), err=True)
    if "training.batch_size" not in asked:
        warn(_few_steps(chosen, len(corpus.train)))
    # Nothing is computed in a dry run of `train`.
    left = {*asked, "training.precision"} if search and not gpu else asked
    return {key: value for key, value in chosen.settings().items() if key not in left}


def _gives_rate(path: Path) -> bool:
    """Whether the file says what `training.lr` is."""
    from tune_newllm.sweep.source import read_yaml

    training = read_yaml(path).values.get("training")
    return isinstance(training, dict) and "lr" in training


def _told(
    chosen: "Chosen", configuration: "Configuration", vocab_size: int, searched: Collection[str] | None
) -> list[str]:
    """The choice in two sentences.

    Args:
        searched: keys that a search chooses itself, of which nothing is said; None where there is no search.
    """
    from tune_newllm.sweep.memory_plan import amount

    training, step, batch = chosen.training, chosen.step, chosen.training.batch_size
    whose = "" if searched is None else " of the largest configuration"
    choices = {
        "training.batch_size": f"batch size {batch:,}",
        "training.precision": f"precision {training.precision}",
        "training.lr": f"learning rate{whose} {_rate(chosen, configuration, vocab_size)}",
    }
    need = f"needs {amount(step.need(batch))}"
    if batch < chosen.most:
        need += f", twice as many {amount(step.need(2 * batch))}"
    where = "are free here" if chosen.measured else "may be used there; steps were measured on this processor"
    said = ", ".join(text for key, text in choices.items() if key not in (searched or ())) or "all is searched"
    return [
        f"preset {chosen.preset}: {said}",
        f"preset {chosen.preset}: a step{whose} {need}; {amount(chosen.memory)} {where}",
    ]


def _rate(chosen: "Chosen", configuration: "Configuration", vocab_size: int) -> str:
    """The learning rate, and the rules that lead to it."""
    from analysis.words import digits
    from tune_newllm.models import parameter_count
    from tune_newllm.training.optim import effective_lr
    from tune_newllm.training.rules import BASE_BATCH, BASE_SIZE

    training = chosen.training
    rate = digits(effective_lr(training, parameter_count(configuration.model, vocab_size)), 3)
    points, rules = [], []
    if training.lr_rule != "none":
        points.append(f"batch {BASE_BATCH}")
        rules.append(f"lr_rule {training.lr_rule}")
    if training.lr_size_rule != "none":
        points.append(f"{BASE_SIZE:,} parameters")
        rules.append(f"lr_size_rule {training.lr_size_rule}")
    if not rules:
        return rate
    return f"{rate} (lr {digits(training.lr, 3)} at {' and '.join(points)}, by {' and '.join(rules)})"


def _few_steps(chosen: "Chosen", windows: int) -> list[str]:
    """A warning where the batch is so large for the corpus that an epoch is over in a few steps."""
    from tune_newllm.training.loop import steps_per_epoch

    batch = smaller = chosen.training.batch_size
    while smaller > 1 and steps_per_epoch(windows, smaller) < FEWEST_STEPS:
        smaller //= 2
    if smaller == batch:
        return []
    steps = steps_per_epoch(windows, batch)
    return [
        f"preset {chosen.preset}: batch size {batch:,} makes {steps} step{'s' * (steps > 1)} an epoch of the "
        f"{windows:,} windows here, which teach little; --set training.batch_size={smaller} makes "
        f"{steps_per_epoch(windows, smaller)}, and more epochs help as well"
    ]
