"""Signals that ask a sweep to stop."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@dataclass
class StopRequest:
    """Set by the first signal; Ray asks it between events whether to stop."""

    signal: int | None = None
    """SIGINT, or SIGTERM for any other: a closed terminal and a cluster's early warning want the same."""


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """SIGINT, SIGTERM, SIGUSR1 and SIGHUP ask for a clean stop; a second Ctrl-C, or the same signal again, ends the
    process at once. A signal that whoever started the process had it ignore stays ignored (`nohup`)."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before: dict[int, Any] = {}
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The terminal is gone; what still writes to it would fail.
            for descriptor in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        request.signal = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        signal.signal(number, before[number])
        if signal.SIGINT in before:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for each in SIGNALS:
        if signal.getsignal(each) != signal.SIG_IGN:
            before[each] = signal.signal(each, stop)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
