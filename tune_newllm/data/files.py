"""Small text files that a crash must not tear."""

import errno
import os
from collections.abc import Container
from pathlib import Path
from typing import IO


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it; one that holds this text already is left alone.

    Raises:
        OSError: the folder cannot be written, or a file that is there cannot be read.
    """
    content = text.encode()
    if path.exists() and path.read_bytes() == content:
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            sync(file)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def sync(file: IO[bytes]) -> None:
    """Have the system put a flushed file on the disk, so that it outlives a loss of power.

    Raises:
        OSError: the disk failed.
    """
    try:
        os.fsync(file.fileno())
    except OSError as error:
        # Some mounted drives do not offer it; the rename alone is then the best there is.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def remove_drafts(folder: Path, names: Container[str]) -> None:
    """Remove what processes that are gone did not finish writing of files of these names."""
    for draft in folder.glob(".*.*"):
        name, _, process = draft.name[1:].rpartition(".")
        if name in names and process.isdecimal() and not _lives(int(process)):
            draft.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    """Whether there is another process of this number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process != os.getpid()
