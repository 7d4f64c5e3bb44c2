"""Signals: what they ask for, and a terminal that is closed while a sweep runs in it."""

import os
import pty
import signal
import sys
import time

import click
import pytest

from tune_newllm import records
from tune_newllm.cli import main
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History
from tune_newllm.sweep.stopping import stop_signals

SLOW = """\
corpus: {name: toy, vocab_size: 100, window: 16}
model: {embed_dim: 8, hidden_dim: 16, ctx_dim: 8, num_layers: 1}
training: {epochs: 500, precision: fp32, device: cpu, early_stopping: none}
parameters: {training.lr: {distribution: log_uniform_values, min: 1e-4, max: 1e-1}}
run_cap: 1
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_one_signal_asks_and_a_second_ctrl_c_ends(number):
    before = signal.getsignal(number)
    with stop_signals() as request:
        assert request.signal is None
        os.kill(os.getpid(), number)
        assert request.signal == signal.SIGTERM
        assert signal.getsignal(number) == before
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    with stop_signals() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_while_nothing_listens_ends_the_program_with_its_code(monkeypatch):
    @click.command()
    def busy():
        os.kill(os.getpid(), signal.SIGUSR1)

    monkeypatch.setattr(main, "commands", busy)
    monkeypatch.setattr(sys, "argv", ["tune_newllm"])
    with pytest.raises(SystemExit) as ending:
        main.main()
    assert ending.value.code == 128 + signal.SIGTERM


def test_a_signal_that_is_to_be_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as request:
            os.kill(os.getpid(), signal.SIGHUP)
            assert request.signal is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_closed_terminal_stops_a_sweep_cleanly(tmp_path):
    spec = tmp_path / "slow.yaml"
    spec.write_text(SLOW)
    process, terminal = pty.fork()
    if process == 0:
        command = [sys.executable, "-m", "tune_newllm", "search", str(spec), "--root", str(tmp_path), "--name", "sweep"]
        os.execv(sys.executable, command)
    path = tmp_path / "sweep" / "records.jsonl"
    end = time.monotonic() + 90
    os.set_blocking(terminal, False)
    while not (path.exists() and '"event":"epoch"' in path.read_text()):
        assert time.monotonic() < end, "the sweep has not begun"
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.1)
    # Everything that runs in the terminal gets the signal, Ray's processes too.
    os.close(terminal)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM
    rows = SweepFolder.open(tmp_path / "sweep").read()
    assert (rows[-1].event, rows[-1].reason) == ("sweep_ended", "interrupted")
    assert not any(isinstance(row, records.TrialCrashed | records.TrialEnded) for row in rows)
    assert History(rows).epochs
