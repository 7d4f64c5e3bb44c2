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


class FolderTaken(FolderError):
    """Another process trains in the folder of a run."""


@contextmanager
def trial_lock(folder: Path, timeout: float) -> Iterator[None]:
    """Keep other processes out of a run's folder, such as the worker of a driver that was killed a moment ago.

    Args:
        folder: made if need be.
        timeout: seconds to wait for another process.

    Raises:
        FolderTaken: it has not let go of the folder by then.
    """
    # Without flock the library would take to a file that outlives a crash.
    lock = FileLock(folder / LOCK, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise FolderTaken(f"another process has been training in {folder} for {timeout:g} s: end it") from None
    except (NotImplementedError, OSError):
        # A drive without locks; what else keeps this process from writing, the first file written will meet.
        pass
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _heartbeat(folder: Path, why: str) -> Iterator[None]:
    _logger.warning("%s is on a drive without file locks (%s): see to it that one process works on it", folder, why)
    if _beats(folder):
        raise _taken(folder)
    heart, over = folder / HEARTBEAT, threading.Event()
    first = _beat(heart)
    # Of several that begin at one moment the last one to write goes on.
    time.sleep(BEAT_SECONDS)
    if first is None or heart.read_bytes() != first:
        raise _taken(folder)

    def beat() -> None:
        while not over.wait(BEAT_SECONDS):
            _beat(heart)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        heart.unlink(missing_ok=True)


def _beats(folder: Path) -> bool:
    """Whether somebody rewrites the heartbeat. Two clocks may differ, so it is watched for a while."""
    with suppress(OSError):
        before = (folder / HEARTBEAT).read_bytes()
        _logger.warning("a driver may still work on %s; watching for %g seconds", folder, 3 * BEAT_SECONDS)
        time.sleep(3 * BEAT_SECONDS)
        return (folder / HEARTBEAT).read_bytes() != before
    return False


def _beat(heart: Path) -> bytes | None:
    """Write who lives and when; None where that is impossible. In place, because that works on a full disk too."""
    row = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    text = json.dumps(row).encode().ljust(200) + b"\n"
    with suppress(OSError), heart.open("r+b" if heart.exists() else "wb") as file:
        file.write(text)
        return text
    return None


def _taken(folder: Path) -> FolderError:
    return FolderError(f"{folder} is being worked on by another process: wait for it or stop it")
