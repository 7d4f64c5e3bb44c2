"""Whether a driver is at work on a sweep, found out without touching its lock.

Trying the lock, even shared and for a moment, could refuse a driver that starts at that moment.
"""

import json
import os
import socket
import time
from pathlib import Path

LOCKS = Path("/proc/locks")
"""Linux lists here the locks that processes of this machine hold."""

HEARTBEAT = 30.0
"""Seconds for which a heartbeat counts; on a drive without locks a driver renews it every five."""

PATIENCE = 60.0
"""Seconds without a record that say nothing, however short epochs are."""

FIRST_EPOCH = 600.0
"""Seconds that a sweep without any epoch yet may take for one."""


def seen(folder: Path) -> bool | None:
    """Whether a driver on this machine, or its heartbeat, is seen at work; None where this system shows no locks."""
    if _beats(folder / ".heartbeat"):
        return True
    try:
        held = LOCKS.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    try:
        lock = os.stat(folder / ".lock")
    except OSError:
        return False
    place = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    fields = {field for line in held.splitlines() for field in line.split()}
    # Layered and pooled file systems show locks under a device number 00:xx that is not the one of the file.
    return place in fields or any(f.startswith("00:") and f.endswith(f":{lock.st_ino}") for f in fields)


def running(visible: bool | None, silence: float, longest_epoch: float | None, host: str) -> bool | None:
    """Whether a sweep without a recorded end is being worked on; None: it cannot be told.

    Args:
        visible: what `seen` found.
        silence: seconds since the newest record.
        longest_epoch: seconds; None before the first epoch. Records come at least that often.
        host: of the driver; empty where it is not known.
    """
    if visible:
        return True
    fresh = silence < max(PATIENCE, 2 * longest_epoch if longest_epoch else FIRST_EPOCH)
    if visible is None:
        return True if fresh else None
    # A driver on another machine that shares the drive, or in another container, is not to be seen from here.
    return None if fresh or host != socket.gethostname() else False


def _beats(path: Path) -> bool:
    try:
        if not path.is_file() or not abs(time.time() - path.stat().st_mtime) < HEARTBEAT:
            return False
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["host"] == socket.gethostname():
            os.kill(int(content["pid"]), 0)
    except PermissionError:
        return True
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return False
    return True
