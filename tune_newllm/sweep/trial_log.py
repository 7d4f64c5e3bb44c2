"""What a trial says of itself, in its folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOG = "log.txt"


def log(folder: Path, text: str) -> None:
    """Add lines to the log of a trial's folder."""
    # Where no log can be written (full disk, missing rights) the trial's last result still says what happened.
    with suppress(OSError), (folder / LOG).open("a", encoding="utf-8") as file:
        file.write(text.rstrip() + "\n")


@contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Let the log take what the package says of its work, too: a trial's process has no terminal to say it on."""
    messages, lines = logging.getLogger("tune_newllm"), _Lines(folder)
    level = messages.level
    messages.addHandler(lines)
    messages.setLevel(logging.INFO)
    try:
        yield
    finally:
        messages.setLevel(level)
        messages.removeHandler(lines)


class _Lines(logging.Handler):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        log(self._folder, record.getMessage())
