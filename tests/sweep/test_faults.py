"""Faults injected for real: damaged files, a folder that cannot be written to, a disk that fills up."""

import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager, suppress

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from test_engine import TINY, table

from tune_newllm import records
from tune_newllm.cli.main import main
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import FolderError
from tune_newllm.sweep import engine
from tune_newllm.sweep.folder import SweepFolder
from tune_newllm.sweep.history import History
from tune_newllm.sweep.loading import parse_spec
from tune_newllm.sweep.source import parse_yaml

SMALL = TINY.replace("epochs: 3", "epochs: 2").replace("run_cap: 6", "run_cap: 3")
ONE_AT_A_TIME = SMALL + "resources: {cpus_per_trial: 1, max_concurrent: 1}\n"


def begin(text, path, listener=lambda record: None):
    spec = parse_spec(parse_yaml(text, "t"))
    return engine.search(spec, prepare(spec.corpus), path, ["x"], listener)


@contextmanager
def mounted(path, *options):
    """A mount for as long as the context lasts, or a skipped test where that is not allowed."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("needs to mount")
    if subprocess.run(["mount", *options, path], capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture(scope="module")
def stopped(ray_address, tmp_path_factory):
    """A sweep that its budget stopped in its second trial."""
    path = tmp_path_factory.mktemp("stopped") / "sweep"
    assert begin(ONE_AT_A_TIME + "budget: {epochs: 3}\n", path).spent
    return path


def test_damaged_records_and_a_damaged_journal_cost_no_more_than_what_they_held(stopped, tmp_path, caplog):
    folder = SweepFolder.open(shutil.copytree(stopped, tmp_path / "sweep"))
    lines = folder.records.read_text().splitlines(keepends=True)
    made = next(at for at, line in enumerate(lines) if '"trial_created"' in line)
    epoch = [at for at, line in enumerate(lines) if '"event":"epoch"' in line][-1]
    lines[made], lines[epoch] = lines[made][:50] + "\x00\xff\n", lines[epoch].replace(":", ";")
    folder.records.write_text("".join(lines), encoding="latin-1")
    folder.journal.write_bytes(os.urandom(2000))
    resumed = engine.resume(folder.path, ["x"], lambda record: None, ["budget.epochs=null"])
    assert resumed.finished
    warned = [text for text in caplog.messages if "damaged" in text]
    assert [f"line {at + 1} " in text for at, text in zip(sorted((made, epoch)), warned, strict=False)] == [True, True]
    created = [row for row in folder.read() if isinstance(row, records.TrialCreated)]
    assert [row.trial_id for row in created] == ["t0001", "t0002"]
    assert max(Counter(row.config_id for row in created).values()) == 1
    history = History(folder.read())
    assert not history.unfinished()
    storage = JournalStorage(JournalFileBackend(str(folder.journal)))
    (study,) = optuna.get_all_study_summaries(storage)
    rows = optuna.load_study(study_name=study.study_name, storage=storage).trials
    assert [row.user_attrs["trial_id"] for row in rows] == list(history.trials)
    assert all(row.state.is_finished() for row in rows)


def test_a_read_only_folder_is_refused_in_one_line(stopped, tmp_path, capsys, monkeypatch):
    (tmp_path / "frozen").mkdir()
    with mounted(tmp_path / "frozen", "--bind", stopped):
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "frozen"], check=True)
        monkeypatch.setattr(sys, "argv", ["tune_newllm", "resume", str(tmp_path / "frozen"), "--set", "budget=null"])
        with pytest.raises(SystemExit) as ended:
            main()
    said = capsys.readouterr()
    assert (ended.value.code, said.out) == (2, "")
    assert said.err.startswith(f"error: {tmp_path / 'frozen'} cannot be written to")
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_which_goes_on_once_there_is_room(ray_address, tmp_path):
    begin(ONE_AT_A_TIME, tmp_path / "undisturbed")
    (tmp_path / "disk").mkdir()
    ballast = tmp_path / "disk" / "ballast"

    def fill(record):
        if isinstance(record, records.EpochRecord) and record.trial_id == "t0001":
            with ballast.open("ab", buffering=0) as file:
                try:
                    while True:
                        file.write(bytes(4096))
                except OSError:
                    return

    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=4m", "tmpfs"):
        outcome = begin(ONE_AT_A_TIME, tmp_path / "disk" / "sweep", fill)
        folder = SweepFolder.open(outcome.folder)
        before = folder.records.read_bytes()
        assert not outcome.finished
        assert str(folder.path) in outcome.halted
        assert "No space left on device" in outcome.halted
        # A few bytes may have become free: it does not get far, or not even that.
        with suppress(FolderError):
            assert "No space left on device" in engine.resume(folder.path, ["x"], lambda record: None).halted
        ballast.unlink()
        assert engine.resume(folder.path, ["x"], lambda record: None).finished
        assert folder.records.read_bytes().startswith(before[: before.rfind(b"\n") + 1])
        assert table(folder) == table(SweepFolder.open(tmp_path / "undisturbed"))
        assert {path.name for path in folder.path.rglob(".*")} == {".lock"}
