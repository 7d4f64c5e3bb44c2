"""Who may work on a sweep: one driver, whatever has crashed before, also where the drive has no locks."""

import errno
import os
import signal
import subprocess
import sys
import threading

import pytest

from tune_newllm.errors import FolderError
from tune_newllm.sweep import lock
from tune_newllm.sweep.lock import driver_lock

HOLD = """\
import sys, time
from pathlib import Path
from tune_newllm.sweep.lock import driver_lock
with driver_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_driver_leaves_no_lock_behind(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(FolderError, match="worked on by another process"), driver_lock(tmp_path):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with driver_lock(tmp_path):
        assert (tmp_path / ".lock").exists()


def test_without_locks_a_beating_heart_keeps_others_out_and_a_dead_one_does_not(tmp_path, monkeypatch, caplog):
    def refuse(self, *args, **kwargs):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(lock.FileLock, "acquire", refuse)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.1)
    heart = tmp_path / ".heartbeat"
    entered, leave = threading.Event(), threading.Event()

    def work():
        with driver_lock(tmp_path):
            entered.set()
            leave.wait()

    driver = threading.Thread(target=work)
    driver.start()
    assert entered.wait(10)
    while not heart.exists():
        pass
    with pytest.raises(FolderError, match="worked on by another process"), driver_lock(tmp_path):
        pass
    assert "without file locks (" in caplog.text
    leave.set()
    driver.join()
    assert not heart.exists()
    # What a crash leaves behind does not beat any more.
    heart.write_text("{}")
    with driver_lock(tmp_path):
        pass
