import errno
import fcntl
import logging
import shutil
import subprocess
import weakref
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
import torch

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import CheckpointError, DivergedError, InfeasibleError, UsageError
from tune_newllm.models import ModelConfig
from tune_newllm.sweep import trial
from tune_newllm.training import memory
from tune_newllm.training.checkpoints import PREVIOUS, STATE, WEIGHTS
from tune_newllm.training.config import Configuration, TrainingConfig

CONFIGURATION = Configuration(
    CorpusConfig(name="toy", window=12, vocab_size=30, max_samples=64),
    ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1, dropout=0.1),
    TrainingConfig(epochs=3, batch_size=32, precision="fp32", device="cpu"),
)


@pytest.fixture
def ask(tmp_path):
    """Makes what a trial is told; equal folders go on with each other."""
    corpus = str(prepare(CONFIGURATION.corpus).folder)

    def make(folder=tmp_path, recorded=(), memory=None, rungs=(1, 2)):
        asked = {"folder": str(folder), "id": "t1", "corpus": corpus, "threads": 1, "gpus": 0, "memory": memory}
        return asked | {"recorded": recorded, "rungs": rungs, "configuration": CONFIGURATION.to_dict()}

    return make


def losses(results):
    return [(result["epoch"], result["val_loss"]) for result in results]


def spoil(path):
    path.write_bytes(path.read_bytes()[:-1])


def beyond_main_memory():
    torch.empty(1 << 60, dtype=torch.uint8)


def raising(error, cause=None):
    def work():
        raise error from cause

    return work


FULL, READ_ONLY = OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only")


@pytest.mark.parametrize(
    ("work", "state", "reason"),
    [
        (raising(DivergedError(1, 3, float("nan"))), "diverged", "optimizer step 3"),
        (raising(InfeasibleError("out of memory with one sequence at a time")), "infeasible", "one sequence"),
        (raising(MemoryError()), "infeasible", "out of memory"),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), "infeasible", "out of memory"),
        (beyond_main_memory, "infeasible", "out of memory"),
        (raising(RuntimeError("mat1 and mat2\nshapes")), "failed", "RuntimeError: mat1 and mat2"),
        (raising(FileExistsError(errno.EEXIST, "in the way")), "failed", "in the way"),
        (raising(PermissionError(errno.EACCES, "denied")), "", "Permission denied"),
        (raising(CheckpointError("cannot be read"), OSError(errno.EIO, "broken")), "", "mend the drive"),
        (raising(FULL), "", "cannot be worked on (No space left on device): make room"),
        (raising(UsageError("a run needs a folder"), READ_ONLY), "", "Read-only file system"),
    ],
    ids=[
        "diverged",
        "one sequence",
        "python",
        "device",
        "allocator",
        "other",
        "mistake",
        "rights",
        "failing disk",
        "full disk",
        "read-only disk",
    ],
)
def test_every_way_to_go_wrong_is_a_last_result(work, state, reason, ask, tmp_path, monkeypatch):
    run, handlers = SimpleNamespace(notes=["begun anew"]), [*logging.getLogger("tune_newllm").handlers]

    def epochs(run, recorded, folder):
        yield {"epoch": 1, "done": False}
        run.notes.append("halved")
        work()

    def opened(asked, folder):
        logging.getLogger("tune_newllm.training.fixed_point").info("phase one, %s", "iteration 2")
        return run

    monkeypatch.setattr(trial, "_open", opened)
    monkeypatch.setattr(trial, "_epochs", epochs)
    first, last = trial._run(ask())
    assert (first["epoch"], first["notes"], last["notes"]) == (1, ["begun anew"], ["halved"])
    assert (last["epoch"], last["state"], last["done"]) == (None, state, True)
    assert reason in last["reason" if state else "halt"]
    assert ("halt" in last) is (state == "")
    log = (tmp_path / "trials" / "t1" / "log.txt").read_text()
    assert log.startswith("phase one, iteration 2\n"), "what the package says reaches no other place"
    assert logging.getLogger("tune_newllm").handlers == handlers
    assert "begun anew\n" in log
    assert "halved\n" in log
    assert ("Traceback" in log) is (state == "failed" or last["reason"] == "out of memory")


def test_only_what_is_not_on_record_is_reported_and_what_is_lost_is_trained_again(ask, tmp_path):
    folder = tmp_path / "trials" / "t1"
    whole = list(trial._run(ask()))
    assert [(row["epoch"], row["state"], row["done"], row["notes"]) for row in whole] == [
        (1, "", False, []), (2, "", False, []), (3, "completed", True, []),
    ]  # fmt: skip
    lines = (folder / "log.txt").read_text().count("val_loss ")
    assert lines == 3
    # The driver was killed before it recorded the last two; then before it recorded that the trial ended.
    assert list(trial._run(ask(recorded=[1]))) == whole[1:]
    # A line in the middle of the records is damaged.
    assert [row["epoch"] for row in trial._run(ask(recorded=[1, 3]))] == [2]
    (last,) = trial._run(ask(recorded=[1, 2, 3]))
    assert (last["epoch"], last["state"], last["reason"]) == (None, "completed", "epochs")
    assert (folder / "log.txt").read_text().count("val_loss ") == lines

    spoil(folder / STATE)
    (again,) = trial._run(ask(recorded=[1, 2, 3]))
    assert losses([again]) == losses(whole[2:])
    assert again["state"] == "completed"
    assert "going on after epoch 2" in again["notes"][0]

    spoil(folder / STATE)
    spoil(folder / PREVIOUS)
    anew = list(trial._run(ask(recorded=[1, 2, 3])))
    assert losses(anew) == losses(whole)
    assert (folder / f"{STATE}.damaged").exists()
    assert "trained anew from the first epoch" in anew[0]["notes"][0]
    assert anew[0]["notes"][0] in (folder / "log.txt").read_text()

    for name in (STATE, PREVIOUS, WEIGHTS):
        (folder / name).unlink()
    anew = list(trial._run(ask(recorded=[1, 2, 3])))
    assert losses(anew) == losses(whole)
    assert "trained anew from the first epoch" in anew[0]["notes"][0]


def test_epochs_since_the_last_checkpoint_come_again_after_a_kill_and_not_after_a_stop(ask, tmp_path):
    whole = list(trial._run(ask(tmp_path / "undisturbed")))
    killed = trial._run(ask(rungs=[1]))
    assert [next(killed)["epoch"] for _ in range(2)] == [1, 2]
    shutil.copytree(tmp_path / "trials", tmp_path / "copy" / "trials")
    # It has been trained, and reported as well.
    again = list(trial._run(ask(tmp_path / "copy", rungs=[1], recorded=[1, 2])))
    assert losses(again) == losses(whole[1:])

    killed.close()
    assert [row["epoch"] for row in trial._run(ask(rungs=[1], recorded=[1, 2]))] == [3]

    begun = trial._run(ask(tmp_path / "begun", rungs=[]))
    next(begun)
    shutil.copytree(tmp_path / "begun", tmp_path / "anew")
    assert [(row["epoch"], row["notes"]) for row in trial._run(ask(tmp_path / "anew", rungs=[], recorded=[1]))] == [
        (1, []), (2, []), (3, []),
    ]  # fmt: skip


@contextmanager
def small_disk(path):
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system of a fixed size needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_or_write_protected_disk_halts_and_the_trial_goes_on_later(ask, tmp_path):
    disk = tmp_path / "disk"
    undisturbed = losses(trial._run(ask()))
    with small_disk(disk):
        folder = disk / "trials" / "t1"
        results = trial._run(ask(disk))
        seen = losses([next(results)])
        with suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        last = next(results)
        assert (last["state"], last["done"]) == ("", True)
        assert f"{folder} cannot be worked on (No space left" in last["halt"]
        results.close()
        assert not [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".lock"]
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        (last,) = trial._run(ask(disk, recorded=[1]))
        assert (last["state"], last["notes"]) == ("", [])
        assert "Read-only file system" in last["halt"]
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        (disk / "filler").unlink()
        assert seen + losses(trial._run(ask(disk, recorded=[1]))) == undisturbed


def is_locked(folder):
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_two_processes_never_train_in_one_folder(ask, tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "LOCK_SECONDS", 0.1)
    folder = tmp_path / "trials" / "t1"
    runner = object.__new__(trial.TrialRunner)
    runner.setup(ask())
    assert runner.step()["epoch"] == 1
    assert is_locked(folder)
    (last,) = trial._run(ask())
    assert (last["state"], last["done"]) == ("", True)
    assert f"another process has been training in {folder}" in last["halt"]
    # The scheduler stopped the trial, and the process gets another one.
    runner.reset_config(ask(tmp_path / "other"))
    assert not is_locked(folder)


def test_the_next_epoch_is_trained_while_a_result_is_on_its_way_unless_the_trial_may_be_stopped_there(ask, tmp_path):
    runner = object.__new__(trial.TrialRunner)
    runner.setup(ask(rungs=[2]))
    assert runner.step()["epoch"] == 1
    assert runner._next.result()["epoch"] == 2
    assert runner.step()["epoch"] == 2
    assert runner._next is None

    runner.reset_config(ask(tmp_path / "other", rungs=[]))
    assert runner.step()["epoch"] == 1
    runner.cleanup()
    # The second was not reported, and is not lost.
    assert [row["epoch"] for row in trial._run(ask(tmp_path / "other", rungs=[], recorded=[1]))] == [2, 3]
    assert (tmp_path / "other" / "trials" / "t1" / "log.txt").read_text().count("epoch 2 ") == 1


def test_the_next_trial_in_a_process_finds_the_memory_of_the_last_one(ask, monkeypatch):
    held = []

    def epochs(run, recorded, folder):
        tensor = torch.empty(10)
        held.append(weakref.ref(tensor))
        yield {"epoch": 1, "done": False}
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trial, "_epochs", epochs)
    runner = object.__new__(trial.TrialRunner)
    runner.setup(ask())
    assert [runner.step()["done"] for _ in range(2)] == [False, True]
    assert held[0]() is None
    runner.reset_config(ask())
    runner.step()
    runner.reset_config(ask())
    assert held[1]() is None


def test_memory_that_is_tight_is_planned_before_the_first_step(ask, tmp_path, monkeypatch):
    words = len(prepare(CONFIGURATION.corpus).tokenizer)
    need = memory.measure_step(CONFIGURATION, words)
    (last,) = trial._run(ask(tmp_path / "none", memory=need.need(1) - 1))
    assert last["state"] == "infeasible"
    assert last["reason"].startswith(f"needs {need.need(1):,} bytes with one sequence at a time and may use")
    results = trial._run(ask(memory=need.need(8)))
    assert next(results)["micro_batch"] == 8
    results.close()
    monkeypatch.setattr(memory, "measure_step", raising(AssertionError("it is known")))
    assert [row["micro_batch"] for row in trial._run(ask(recorded=[1], memory=1))] == [8, 8]
