"""Places and sentences as the terminal shows them."""

import shlex
import shutil
import sys
import textwrap
from pathlib import Path


def near(path: Path) -> Path:
    """The same path, relative to the current folder where it lies below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def place(path: Path) -> str:
    """A short path, quoted for a shell."""
    return shlex.quote(str(near(path)))


def wrapped(sentence: str) -> str:
    """A sentence broken at the terminal's width; as it is where the output is no terminal or holds a command."""
    if not sys.stdout.isatty() or sentence.count(" ") < 8 or "python -m" in sentence:
        return sentence
    return textwrap.fill(sentence, shutil.get_terminal_size().columns)
