"""Places and sentences as the terminal shows them."""

import shlex
import shutil
import sys
import textwrap
from pathlib import Path


def place(path: Path) -> str:
    """A path relative to the current folder where it lies below it, quoted for a shell."""
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def wrapped(sentence: str) -> str:
    """A sentence broken at the terminal's width; as it is where the output is no terminal or holds a command."""
    if not sys.stdout.isatty() or sentence.count(" ") < 8 or "python -m" in sentence:
        return sentence
    return textwrap.fill(sentence, shutil.get_terminal_size().columns)
