"""`--preset`: what a known GPU is given, as overrides of the sweep file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.errors import UsageError
from tune_newllm.training.presets import PRESETS

if TYPE_CHECKING:
    from tune_newllm.training.config import Configuration
    from tune_newllm.training.presets import Chosen

preset_option = click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Batch size, precision and learning rate for this GPU: the largest batch that fits into its memory, measured. "
    "--set and what is searched stay as they are.",
)


def preset_settings(
    path: Path, overrides: Sequence[str], preset: str, dry_run: bool, search: bool
) -> dict[str, int | float | str]:
    """What the preset sets, by key of the sweep file; said on stderr.

    Args:
        path: the sweep file.
        overrides: those of the command line, which stay in force.
        dry_run: a machine without such a GPU will do, whose precision is then only told.
        search: what is searched is left alone.

    Raises:
        UsageError: there is no NVIDIA GPU, and no processor was asked for.
    """
    import torch

    from tune_newllm.cli.starting import prepared
    from tune_newllm.sweep.activity import giver
    from tune_newllm.sweep.loading import load_spec
    from tune_newllm.training.device import available_memory, resolve_device
    from tune_newllm.training.presets import KEYS, choose, from_base_point

    spec = load_spec(path, overrides)
    configuration = spec.model_copy(update={"parameters": {}}).configuration()
    names = [*(spec.searched if search else ()), *(text.partition("=")[0].strip() for text in overrides)]
    asked = {key for key in KEYS if giver(key, names)}
    device = configuration.training.device
    gpu = torch.cuda.is_available() and device != "cpu"
    if not (gpu or dry_run or device == "cpu"):
        raise UsageError(
            f"--preset {preset} is for an NVIDIA GPU, and there is none here: --dry-run shows what it would choose, "
            "and --set training.device=cpu lets this machine's memory decide"
        )
    if not (_gives_rate(path) or {"training.lr", "training.lr_rule"} & asked):
        configuration = from_base_point(configuration)
    corpus, _ = prepared(spec.widest_corpus, spec.base, path.parent, progress=True)
    memory = available_memory(resolve_device(device)) if gpu or device == "cpu" else None
    chosen = choose(preset, configuration, len(corpus.tokenizer), asked, memory)
    click.echo(_told(chosen, configuration, len(corpus.tokenizer)), err=True)
    # Nothing is computed in a dry run of `train`.
    left = asked if gpu or (dry_run and not search) else {*asked, "training.precision"}
    return {key: value for key, value in chosen.settings().items() if key not in left}


def _gives_rate(path: Path) -> bool:
    """Whether the file says what `training.lr` is."""
    from tune_newllm.sweep.source import read_yaml

    training = read_yaml(path).values.get("training")
    return isinstance(training, dict) and "lr" in training


def _told(chosen: "Chosen", configuration: "Configuration", vocab_size: int) -> str:
    """The choice in two sentences."""
    from analysis.words import digits
    from tune_newllm.models import parameter_count
    from tune_newllm.sweep.memory_plan import amount
    from tune_newllm.training.optim import effective_lr
    from tune_newllm.training.rules import BASE_BATCH

    training, step, batch = chosen.training, chosen.step, chosen.training.batch_size
    rate = digits(effective_lr(training, parameter_count(configuration.model, vocab_size)), 3)
    if training.lr_rule != "none":
        rate += f" (lr {digits(training.lr, 3)} at batch {BASE_BATCH}, by lr_rule {training.lr_rule})"
    need = f"needs {amount(step.need(batch))}"
    if batch < chosen.most:
        need += f", twice as many {amount(step.need(2 * batch))}"
    where = "are free here" if chosen.measured else "may be used there; steps were measured on this processor"
    return (
        f"preset {chosen.preset}: batch size {batch:,}, precision {training.precision}, learning rate {rate}\n"
        f"preset {chosen.preset}: a step {need}; {amount(chosen.memory)} {where}"
    )
