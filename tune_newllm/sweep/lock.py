"""The lock of a sweep folder: one driver at a time, and never one that a crash leaves behind."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from tune_newllm.errors import FolderError

LOCK, HEARTBEAT = ".lock", ".heartbeat"
BEAT_SECONDS = 5.0
"""How often a driver shows that it lives, on drives that have no locks."""

_logger = logging.getLogger(__name__)


@contextmanager
def driver_lock(folder: Path) -> Iterator[None]:
    """Held by the one driver that may work on a sweep; the system lets go of it when the process ends, however it ends.

    A drive without locks gets a warning and a heartbeat instead: a file that the driver keeps rewriting.

    Raises:
        FolderError: another driver works on the sweep, or the folder cannot be written to.
    """
    # Without flock the library would take to a file that outlives a crash.
    lock = FileLock(folder / LOCK, blocking=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise _taken(folder) from None
    except (NotImplementedError, OSError) as error:
        if not os.access(folder, os.W_OK):
            raise FolderError(f"{folder} cannot be written to ({error}): copy it to a place of your own") from None
        with _heartbeat(folder, str(error)):
            yield
        return
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _heartbeat(folder: Path, why: str) -> Iterator[None]:
    _logger.warning("%s is on a drive without file locks (%s): see to it that one process works on it", folder, why)
    if _beats(folder):
        raise _taken(folder)
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(folder / HEARTBEAT, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        (folder / HEARTBEAT).unlink(missing_ok=True)


def _beats(folder: Path) -> bool:
    """Whether somebody rewrites the heartbeat. Two clocks may differ, so it is watched for a while."""
    with suppress(OSError):
        before = (folder / HEARTBEAT).read_bytes()
        _logger.warning("a driver may still work on %s; watching for %g seconds", folder, 3 * BEAT_SECONDS)
        time.sleep(3 * BEAT_SECONDS)
        return (folder / HEARTBEAT).read_bytes() != before
    return False


def _beat(path: Path, over: threading.Event) -> None:
    while True:
        # A full disk is the records' to notice.
        with suppress(OSError):
            text = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()})
            draft = path.with_name(f"{path.name}.{os.getpid()}")
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        if over.wait(BEAT_SECONDS):
            return


def _taken(folder: Path) -> FolderError:
    return FolderError(f"{folder} is being worked on by another process: wait for it or stop it")
