"""A program and all that it started, as /proc shows them: to be watched, killed and looked for afterwards."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """A line of /proc: what tells a process from a later one with the same id, and what it is."""

    parent: int
    started: int
    kind: str


def processes() -> dict[int, Process]:
    """All processes of the machine that have not ended."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
            if fields[0] not in "ZX":
                found[int(entry.name)] = Process(int(fields[1]), int(fields[19]), _kind(command))
    return found


def _kind(command: bytes) -> str:
    words = command.decode(errors="replace").split("\0")[:4]
    if words[0].startswith("ray::"):
        # Between its steps a worker is called after our class, in a step after the one that Ray makes of it.
        return "worker" if any(name in words[0] for name in ("TrialRunner", "ResourceTrainable")) else words[0]
    return next((Path(word).stem for word in words if "/ray/" in word), "other")


class Life:
    """One driver and all that it starts, from its start to its end."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path) -> None:
        with log.open("ab") as lines:
            self.driver = subprocess.Popen(
                [sys.executable, "-m", "tune_newllm", *command],
                env=environment,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=lines,
                start_new_session=True,
            )
        self.ended = float("inf")
        self._seen: dict[int, Process] = {}

    def alive(self) -> dict[int, Process]:
        """Those of its processes that live. Children of a killed process have another parent, but were seen before."""
        now = processes()
        family = {pid for pid, each in self._seen.items() if pid in now and now[pid].started == each.started}
        if self.driver.poll() is None:
            family.add(self.driver.pid)
        while grown := {pid for pid, each in now.items() if each.parent in family} - family:
            family |= grown
        self._seen = {pid: now[pid] for pid in family if pid in now}
        return self._seen

    def over(self) -> bool:
        """Whether the driver has ended; also keeps in mind which processes there are."""
        self.alive()
        if self.driver.returncode is not None:
            self.ended = min(self.ended, time.monotonic())
        return self.driver.returncode is not None

    def strike(self, weapon: str) -> bool:
        """Kill or signal; False where there is no such process at the moment."""
        if weapon.startswith("SIG"):
            self.driver.send_signal(signal.Signals[weapon])
            return True
        living = self.alive()
        if weapon == "driver":
            victims = [pid for pid in living if pid == self.driver.pid]
        else:
            victims = [pid for pid, each in living.items() if weapon in ("everything", each.kind)]
        for pid in victims if weapon == "everything" else victims[:1]:
            _kill(pid)
        return bool(victims)


def _kill(pid: int) -> None:
    # It may just have ended.
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
