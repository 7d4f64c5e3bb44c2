"""Signals that ask a sweep to stop."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@dataclass
class StopRequest:
    """Set by the first signal; Ray asks it between events whether to stop."""

    renew: Callable[[], None]
    """Take the signals back from a library that has taken them."""
    signal: int | None = None
    """SIGINT, or SIGTERM for any other: a closed terminal and a cluster's early warning want the same."""


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """SIGINT, SIGTERM, SIGUSR1 and SIGHUP ask for a clean stop; a second Ctrl-C, or the same signal again, does what it
    did before. A signal that whoever started the process had it ignore stays ignored (`nohup`)."""
    before: dict[int, Any] = {}
    first: set[int] = set()
    terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The terminal is gone; what still writes to it would fail.
            for descriptor in terminals:
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        request.signal = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        for each in first & {number, signal.SIGINT}:
            signal.signal(each, before[each])
            first.discard(each)

    def renew() -> None:
        for each in first:
            signal.signal(each, stop)

    request = StopRequest(renew)
    if threading.current_thread() is threading.main_thread():
        for each in SIGNALS:
            if signal.getsignal(each) != signal.SIG_IGN:
                before[each] = signal.signal(each, stop)
                first.add(each)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Terminated(KeyboardInterrupt):
    """A signal other than Ctrl-C ends the program at once."""


@contextmanager
def endable() -> Iterator[None]:
    """SIGTERM, SIGUSR1 and SIGHUP unwind the program as Ctrl-C does, so that it can say how to go on.

    Raises:
        Terminated: such a signal has come.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    usual = [each for each in SIGNALS[1:] if signal.getsignal(each) == signal.SIG_DFL]
    for number in usual:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in usual:
            signal.signal(number, signal.SIG_DFL)
