"""Numbers, times and places as the terminal shows them."""

import shlex
import shutil
import sys
import textwrap
from pathlib import Path


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shown(value: object) -> str:
    """A parameter's value in few digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def place(path: Path) -> str:
    """A path relative to the current folder where it lies below it, quoted for a shell."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def wrapped(sentence: str) -> str:
    """A sentence broken at the terminal's width; as it is where the output is no terminal or holds a command."""
    if not sys.stdout.isatty() or sentence.count(" ") < 8 or "python -m" in sentence:
        return sentence
    return textwrap.fill(sentence, shutil.get_terminal_size().columns)
