import itertools
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import CheckpointError, DamagedCheckpointError, DivergedError, UsageError
from tune_newllm.models import ModelConfig
from tune_newllm.training import checkpoints, weights
from tune_newllm.training.checkpoints import PREVIOUS, STATE, WEIGHTS, best_weights
from tune_newllm.training.config import ClipConfig, Configuration, LRScheduleConfig, TrainingConfig
from tune_newllm.training.continuation import continued
from tune_newllm.training.loop import fit
from tune_newllm.training.run import Run
from tune_newllm.training.weights import read_tensors

CONFIGURATION = Configuration(
    CorpusConfig(name="toy", window=12, vocab_size=30),
    ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1),
    TrainingConfig(epochs=1, batch_size=64, precision="fp32", device="cpu", micro_batch=64),
)


FILES = {"configuration.json", "tokenizer.json", WEIGHTS, STATE, PREVIOUS}


@pytest.fixture(scope="module", autouse=True)
def _a_checkpoint_after_every_epoch():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "CHECKPOINT_SECONDS", 0.0)
        yield


def small_corpus():
    whole = prepare(CONFIGURATION.corpus)
    return replace(whole, train=whole.train[:64], validation=whole.validation[:16])


@pytest.fixture
def corpus():
    return small_corpus()


def test_what_cannot_be_trained_leaves_no_folder(tmp_path, corpus):
    fp16 = replace(CONFIGURATION, training=replace(CONFIGURATION.training, precision="fp16"))
    with pytest.raises(UsageError, match="fp16 is not offered"):
        Run(tmp_path / "deep" / "run", fp16, corpus)
    assert not (tmp_path / "deep").exists()


def test_a_file_in_the_folders_place_is_a_usage_error(tmp_path, corpus):
    (tmp_path / "run").write_text("in the way")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(UsageError, match=r"a folder it can write to, got .*run.* \(.+\): give another one"):
            Run(folder, CONFIGURATION, corpus)


def test_a_continued_run_says_how_many_epochs_it_has_now(tmp_path, corpus):
    list(Run(tmp_path, CONFIGURATION, corpus).epochs())
    longer = replace(CONFIGURATION, training=continued(CONFIGURATION.training, 2))
    assert [result.epoch for result in Run(tmp_path, longer, corpus).epochs()] == [2]
    written = json.loads((tmp_path / "configuration.json").read_text())
    assert written == longer.to_dict() | {"vocab_size": len(corpus.tokenizer)}
    assert {path.name for path in tmp_path.iterdir()} == FILES


def spoil(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def opened(folder, corpus, epochs=4, ends=()):
    """A run whose second epoch is better than its third, and whose fourth is the best."""
    schedule = LRScheduleConfig(warmup=7, by="step")
    training = replace(CONFIGURATION.training, epochs=4, batch_size=32, lr=1.0, lr_schedule=schedule)
    training = continued(training, epochs)
    return Run(folder, replace(CONFIGURATION, training=replace(training, clip=ClipConfig("none"))), corpus, ends=ends)


def train(folder, corpus, epochs=4):
    """Epochs of that run, or more of it."""
    run = opened(folder, corpus, epochs)
    list(run.epochs())
    return run


def outcome(run):
    """What no kill and no damage may change: the numbers, and the weights that are kept."""
    assert {path.name for path in run.folder.iterdir()} == FILES
    losses = [(result.epoch, result.train_loss, result.val_loss) for result in run.history]
    return losses, weights_in(run.folder)


def weights_in(folder):
    """The epoch that the weights name, and the weights."""
    tensors, metadata = read_tensors(folder / WEIGHTS)
    return metadata["epoch"], {name: each.tolist() for name, each in tensors.items()}


class Killed(BaseException):
    """What SIGKILL is to a process: the end at this point."""


@contextmanager
def killed_at(point, monkeypatch):
    """The process dies at one of the points just before or after something changes on disk, and tidies nothing up."""
    counter = itertools.count()

    def fatal(work):
        def maybe(*arguments):
            if next(counter) == point:
                raise Killed
            work(*arguments)
            if next(counter) == point:
                raise Killed

        return maybe

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fatal(os.fsync))
        patch.setattr(os, "replace", fatal(os.replace))
        patch.setattr(os, "unlink", lambda path: None)
        yield


@pytest.fixture(scope="module")
def three_epochs(tmp_path_factory, caches):
    """Folder of a run with states of the epochs 3 and 2, of which 2 is the best."""
    torch.set_num_threads(1)
    return train(tmp_path_factory.mktemp("three") / "run", small_corpus(), epochs=3).folder


@pytest.mark.parametrize("begun", ["not begun", "whole", "damaged"])
def test_a_run_killed_at_any_point_goes_on_as_if_nothing_had_been(begun, three_epochs, tmp_path, corpus, monkeypatch):
    epochs = 2 if begun == "not begun" else 4
    undisturbed = outcome(train(tmp_path / "undisturbed", corpus, epochs))
    for point in itertools.count():
        folder = tmp_path / str(point)
        if begun != "not begun":
            shutil.copytree(three_epochs, folder)
        if begun == "damaged":
            spoil(folder / STATE)
        try:
            with killed_at(point, monkeypatch):
                train(folder, corpus, epochs)
            break
        except Killed:
            known = max(filter(None, map(epoch_in, (folder / STATE, folder / PREVIOUS))), default=0)
            assert not (folder / WEIGHTS).exists() or int(read_tensors(folder / WEIGHTS)[1]["epoch"]) <= known
        assert outcome(train(folder, corpus, epochs)) == undisturbed, point
    assert point > 10


def epoch_in(path):
    """The epoch of a state, None where there is no whole one."""
    try:
        return len(json.loads(read_tensors(path)[1]["state"])["history"])
    except CheckpointError:
        return None


IN_THE_MIDDLE_OF_THE_THIRD_CHECKPOINT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_run import Path, small_corpus, torch, train
from tune_newllm.training import checkpoints, weights

def wait(file):
    names.append(file.name)
    if sum("state" in name for name in names) == 3:
        print("writing", flush=True)
        time.sleep(600)

names = []
weights.sync, checkpoints.CHECKPOINT_SECONDS = wait, 0.0
torch.set_num_threads(1)
train(Path(sys.argv[2]), small_corpus())
"""


def test_a_process_killed_in_the_middle_of_a_checkpoint_loses_that_epoch_alone(tmp_path, corpus):
    folder = tmp_path / "killed"
    arguments = [sys.executable, "-c", IN_THE_MIDDLE_OF_THE_THIRD_CHECKPOINT, str(Path(__file__).parent), str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.kill()
    assert (folder / f".{STATE}.{process.pid}").exists()
    assert epoch_in(folder / STATE) == 2
    assert outcome(train(folder, corpus)) == outcome(train(tmp_path / "undisturbed", corpus))


@pytest.mark.parametrize(
    ("spoilt", "missing", "epoch", "best", "notes"),
    [
        ([], [], 3, "2", []),
        ([PREVIOUS], [], 3, "2", []),
        ([], [WEIGHTS], 3, "2", ["weights of epoch 2, the best one; they are written again"]),
        ([WEIGHTS], [], 3, "2", ["weights of epoch 2, the best one; they are written again"]),
        ([WEIGHTS], [PREVIOUS], 3, "2", ["weights of epoch 2, the best one; they are written again"]),
        ([STATE], [], 2, "2", [f"{STATE} is damaged; going on after epoch 2 from {PREVIOUS}"]),
        ([], [STATE], 2, "2", [f"{STATE} is missing; going on after epoch 2 from {PREVIOUS}"]),
        ([STATE], [WEIGHTS], 2, "2", ["is damaged; going on after", "they are written again"]),
    ],
)
def test_what_is_damaged_or_missing_is_made_good(spoilt, missing, epoch, best, notes, three_epochs, tmp_path, corpus):
    folder = shutil.copytree(three_epochs, tmp_path / "run")
    for name in spoilt:
        spoil(folder / name)
    for name in missing:
        (folder / name).unlink()
    run = train(folder, corpus, epochs=epoch)
    assert len(run.history) == epoch
    assert len(run.notes) == len(notes)
    assert all(expected in note for expected, note in zip(notes, run.notes, strict=True))
    assert weights_in(folder) == weights_in(three_epochs)
    assert weights_in(folder)[0] == best


def test_weights_of_an_epoch_that_no_state_knows_are_replaced(three_epochs, tmp_path, corpus):
    folder = shutil.copytree(three_epochs, tmp_path / "run")
    shutil.copy(train(tmp_path / "four", corpus).folder / WEIGHTS, folder)
    assert "they are written again" in train(folder, corpus, epochs=3).notes[0]
    assert read_tensors(folder / WEIGHTS)[1]["epoch"] == "2"


def test_states_that_cannot_be_used_are_refused_and_stay(three_epochs, tmp_path, corpus):
    folder = shutil.copytree(three_epochs, tmp_path / "run")
    wider = replace(CONFIGURATION, model=replace(CONFIGURATION.model, hidden_dim=9))
    with pytest.raises(CheckpointError, match="does not fit the model"):
        Run(folder, wider, corpus)
    assert (folder / STATE).read_bytes() == (three_epochs / STATE).read_bytes()
    spoil(folder / STATE)
    spoil(folder / PREVIOUS)
    before = [(folder / name).read_bytes() for name in sorted(FILES)]
    with pytest.raises(DamagedCheckpointError, match=rf"{STATE} is damaged and .*{PREVIOUS} is damaged: remove"):
        train(folder, corpus)
    assert [(folder / name).read_bytes() for name in sorted(FILES)] == before


def test_a_state_of_another_configuration_is_refused(three_epochs, tmp_path, corpus):
    folder = shutil.copytree(three_epochs, tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"another configuration \(.*training\.lr.*\): go on with that one"):
        Run(folder, CONFIGURATION, corpus)
    assert (folder / STATE).read_bytes() == (three_epochs / STATE).read_bytes()


def test_a_tokenizer_that_a_crash_emptied_is_written_again(three_epochs, tmp_path, corpus):
    folder = shutil.copytree(three_epochs, tmp_path / "run")
    (folder / "tokenizer.json").write_text("")
    train(folder, corpus, epochs=3)
    assert (folder / "tokenizer.json").read_bytes() == (three_epochs / "tokenizer.json").read_bytes()


def test_only_a_whole_newest_state_tells_the_best_epoch(three_epochs, tmp_path):
    folder = shutil.copytree(three_epochs, tmp_path / "run")
    assert best_weights(folder) is not None
    spoil(folder / STATE)
    assert best_weights(folder) is None


def test_between_checkpoints_nothing_is_written_and_what_was_trained_since_is_trained_again(
    tmp_path, corpus, monkeypatch
):
    undisturbed = outcome(train(tmp_path / "undisturbed", corpus))
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", float("inf"))
    run = opened(tmp_path / "run", corpus, ends={2})
    seen = [(result.epoch, epoch_in(run.folder / STATE), run.saved_epoch) for result in run.epochs()]
    assert seen == [(1, None, 0), (2, 2, 2), (3, 2, 2), (4, 4, 4)]
    assert outcome(run) == undisturbed

    killed = opened(tmp_path / "killed", corpus, ends={2})
    epochs = killed.epochs()
    first = [next(epochs) for _ in range(3)]
    again = opened(shutil.copytree(killed.folder, tmp_path / "again"), corpus)
    assert [result.epoch for result in again.epochs()] == [3, 4]
    assert outcome(again) == undisturbed
    assert again.history[2].val_loss == first[2].val_loss

    epochs.close()
    assert (epoch_in(killed.folder / STATE), epoch_in(killed.folder / PREVIOUS)) == (3, 2)
    # The best epoch was before the last one, and no state has its number.
    assert read_tensors(killed.folder / WEIGHTS)[1]["epoch"] == "2"
    assert [result.epoch for result in opened(killed.folder, corpus).epochs()] == [4]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_and_leaves_the_one_before(tmp_path, corpus, monkeypatch):
    undisturbed = outcome(train(tmp_path / "undisturbed", corpus))
    for stopped in (False, True):
        run = opened(tmp_path / str(stopped), corpus)
        epochs = run.epochs()
        next(epochs)
        run._checkpoints.wait()
        with monkeypatch.context() as patch:
            patch.setattr(weights, "sync", no_room)
            next(epochs)
            with pytest.raises(OSError, match="no room"):
                epochs.close() if stopped else list(epochs)
        assert {path.name for path in run.folder.iterdir()} == FILES - {PREVIOUS}
        assert epoch_in(run.folder / STATE) == run.saved_epoch == 1
        assert outcome(train(run.folder, corpus)) == undisturbed


def no_room(file):
    raise OSError(28, "no room")


def test_a_run_that_diverges_keeps_its_best_weights_of_all_epochs(three_epochs, tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(checkpoints, "CHECKPOINT_SECONDS", float("inf"))

    def diverging(state, *arguments):
        for result in fit(state, *arguments):
            if result.epoch == 3:
                raise DivergedError(3, 6, float("nan"))
            yield result

    monkeypatch.setattr("tune_newllm.training.run.fit", diverging)
    run = opened(tmp_path / "run", corpus)
    with pytest.raises(DivergedError):
        list(run.epochs())
    assert not (run.folder / STATE).exists()
    assert weights_in(run.folder) == weights_in(three_epochs)
