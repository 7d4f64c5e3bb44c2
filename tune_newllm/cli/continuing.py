"""What `train` goes on with in a folder that holds a run already."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tune_newllm.errors import UsageError

if TYPE_CHECKING:
    from tune_newllm.training.config import Configuration, TrainingConfig

EPOCHS = "training.epochs"


def as_continued(
    folder: Path, begun: "Configuration", asked: "Configuration", free: Collection[str]
) -> "Configuration":
    """What the folder's run was begun with, for the number of epochs, the patience, the device and the micro-batch
    asked for now.

    Args:
        free: keys of the file that need not be the same; among them `EPOCHS`, of which the larger number counts.

    Raises:
        UsageError: anything else was asked for than the folder's run does, or the device is not there.
    """
    from tune_newllm.training.continuation import continued

    now, had = asked.training, begun.training
    epochs = max(now.epochs, had.epochs) if EPOCHS in free else now.epochs
    device = _device(had.device, now.device)
    as_measured = device == had.device and now.micro_batch == "auto"
    training = dataclasses.replace(
        continued(had, epochs),
        early_stopping=now.early_stopping,
        device=device,
        micro_batch=had.micro_batch if as_measured else now.micro_batch,
    )
    left = {"device", "micro_batch"} | ({"precision"} if now.precision == "auto" else set())
    left |= {key for key in ("schedule_epochs", "lr_stages") if not getattr(now, key)}
    # Once begun a run has the start's weights, wherever that lies now.
    left |= {"start"} if had.start and now.start else set()
    left |= {key.removeprefix("training.") for key in free}
    kept = {key: getattr(training, key) for key in left}
    allowed = dataclasses.replace(begun, training=training)
    wanted = dataclasses.replace(asked, training=dataclasses.replace(now, **kept))
    if wanted != allowed:
        there, here = allowed.to_dict(), wanted.to_dict()
        changed = [f"{part}.{key}" for part in here for key in here[part] if here[part][key] != there[part][key]]
        way = "continue it as it was or give a new --to"
        if set(changed) <= {"training.lr", "training.lr_schedule"}:
            way = "continue it as it was, add --new-schedule to go on with that from here, or give a new --to"
        raise UsageError(f"{folder} holds a run with another {', '.join(changed)}: {way}")
    _say_what_differs(folder, had, now, training)
    return allowed


def _device(had: str, asked: str) -> str:
    """The device asked for; `auto` keeps the one that a run was begun on, where that is there."""
    from tune_newllm.training.device import resolve_device

    if asked != "auto":
        return resolve_device(asked)
    try:
        return resolve_device(had)
    except UsageError:
        return resolve_device("auto")


def _say_what_differs(folder: Path, had: "TrainingConfig", now: "TrainingConfig", training: "TrainingConfig") -> None:
    """Say what a run keeps although the file says otherwise, and where it goes on."""
    if training.device != had.device:
        click.echo(f"{folder} was begun on {had.device} and goes on on {training.device}", err=True)
    if training.epochs > now.epochs:
        click.echo(f"{folder} keeps the {training.epochs} epochs it was given; the file has {now.epochs}", err=True)
    if had.start and now.start and had.start != now.start:
        click.echo(f"{folder} has begun with the weights of {had.start}; {now.start} is not read", err=True)
