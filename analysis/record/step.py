"""One next step with the command that does it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..commands import PROGRAM, written
from ..load import Sweep


class Step(NamedTuple):
    reason: str
    command: str
    """Empty where no command does it."""


def again(command: str, target: Path, *options: str) -> str:
    """A command of ours on a file or folder."""
    return " ".join([PROGRAM, command, shlex.quote(str(target)), *options])


def search(sweep: Sweep, name: str, *options: str) -> str:
    """`search` with the sweep's own file under another name."""
    return again("search", sweep.folder / "sweep.yaml", f"--name {shlex.quote(f'{sweep.name}-{name}')}", *options)


def setting(path: str, value: Any) -> str:
    """The option that sets a key."""
    return f"--set {shlex.quote(f'{path}={_yaml(value)}')}"


def _yaml(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_yaml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return written(value.item() if hasattr(value, "item") else value)
