"""Runs that are given more epochs: what was trained stays, schedules go on, and only a new one begins again."""

import json
from dataclasses import replace

import pytest

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.errors import CheckpointError, UsageError
from tune_newllm.models import ModelConfig
from tune_newllm.training.checkpoints import WEIGHTS
from tune_newllm.training.config import (
    ClipConfig,
    Configuration,
    EarlyStoppingConfig,
    LRScheduleConfig,
    LRStage,
    TrainingConfig,
)
from tune_newllm.training.continuation import continued, rescheduled
from tune_newllm.training.run import Run
from tune_newllm.training.weights import read_tensors

SHORT, LONG = 4, 8


@pytest.fixture
def corpus():
    whole = prepare(CorpusConfig(name="toy", window=12, vocab_size=30))
    return replace(whole, train=whole.train[:96], validation=whole.validation[:16])


def configured(epochs=SHORT, **training):
    own = {"batch_size": 32, "lr": 0.02, "precision": "fp32", "device": "cpu", "micro_batch": 32}
    return Configuration(
        CorpusConfig(name="toy", window=12, vocab_size=30),
        ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1, dropout=0.1),
        TrainingConfig(**own | {"epochs": epochs, "early_stopping": None} | training),
    )


def trained(folder, corpus, configuration, until=None, new=None):
    """The run after `until` epochs, or at its end; `new` begins another course of the learning rate."""
    run = Run(folder, configuration, corpus)
    if new:
        run.reschedule(*new)
    epochs = run.epochs()
    for result in epochs:
        if result.epoch == until:
            break
    epochs.close()
    return run


def numbers(run):
    """All that repeats: not the times."""
    history = [(r.epoch, r.step, r.tokens, r.train_loss, r.val_loss, r.grad_norm, r.lr, r.clip) for r in run.history]
    tensors, metadata = read_tensors(run.folder / WEIGHTS)
    return history, metadata["epoch"], {name: each.tolist() for name, each in tensors.items()}


def longer(configuration, epochs=LONG):
    return replace(configuration, training=continued(configuration.training, epochs))


COURSES = {
    "cosine": {"lr_schedule": LRScheduleConfig("cosine", warmup=0.2, final=0.1)},
    "one-cycle": {"lr_schedule": LRScheduleConfig("one-cycle")},
    "step": {"lr_schedule": LRScheduleConfig("step"), "clip": ClipConfig("original")},
    "tokens": {"lr_schedule": LRScheduleConfig("linear", by="tokens"), "clip": ClipConfig("percentile")},
    "clip": {"clip": ClipConfig("linear", norm=0.1, final=0.3)},
}


@pytest.mark.parametrize("name", COURSES)
def test_more_epochs_leave_the_first_as_they_were_and_go_on_without_a_jump(name, tmp_path, corpus):
    short = configured(**COURSES[name])
    first = trained(tmp_path / "run", corpus, short)
    begun = numbers(first)[0]
    again = trained(tmp_path / "run", corpus, longer(short))
    history = numbers(again)[0]
    assert history[:SHORT] == begun
    assert [row[0] for row in history] == [*range(1, LONG + 1)]
    rates, limits = [row[6] for row in history], [row[7] for row in history]
    assert len(set(rates[SHORT:])) == 1, "it stays at its last value"
    assert rates[-1] <= rates[SHORT - 1]
    if name == "clip":
        assert limits[SHORT:] == [0.3] * (LONG - SHORT)
        assert limits[: SHORT - 1] < limits[1:SHORT]
    # A run that was asked for all of it at once does the same, bit by bit.
    at_once = replace(short, training=replace(short.training, epochs=LONG, schedule_epochs=SHORT))
    assert numbers(trained(tmp_path / "at once", corpus, at_once)) == numbers(again)


def test_a_cosine_at_its_end_stays_at_0_and_learns_nothing_more(tmp_path, corpus):
    short = configured(lr_schedule=LRScheduleConfig("cosine"))
    trained(tmp_path, corpus, short)
    run = Run(tmp_path, longer(short), corpus)
    assert run.lr_share == 0
    losses = [result.val_loss for result in run.epochs()]
    assert losses == [run.history[SHORT - 1].val_loss] * (LONG - SHORT)


def test_more_epochs_lay_no_schedule_out_anew(tmp_path, corpus):
    short = configured(lr_schedule=LRScheduleConfig("cosine"))
    trained(tmp_path, corpus, short)
    with pytest.raises(CheckpointError, match=r"training\.schedule_epochs"):
        Run(tmp_path, replace(short, training=replace(short.training, epochs=LONG)), corpus)


def test_the_clip_schedule_of_the_original_does_not_begin_again(tmp_path, corpus):
    """The original's extended run counted its epochs from 0 again: clip 0.5, a new best, all epochs once more."""
    short = configured(epochs=11, clip=ClipConfig("original"), lr=1e-5)
    best = trained(tmp_path, corpus, short).history[-1]
    assert best.clip == 1.0
    run = trained(tmp_path, corpus, longer(short, 12), new=(10.0, LRScheduleConfig()))
    assert [(result.epoch, result.clip) for result in run.history[11:]] == [(12, 1.0)]
    assert run.history[11].val_loss > best.val_loss
    assert read_tensors(tmp_path / WEIGHTS)[1]["epoch"] == "11"


def test_a_new_schedule_is_on_file_and_a_kill_does_not_change_it(tmp_path, corpus):
    short = configured(lr_schedule=LRScheduleConfig("cosine"), clip=ClipConfig("linear", norm=0.1, final=0.3))
    trained(tmp_path / "run", corpus, short)
    new = (0.01, LRScheduleConfig("cosine", final=0.2))
    trained(tmp_path / "run", corpus, longer(short), until=6, new=new)
    stage = LRStage(SHORT, LONG - SHORT, *new)
    written = json.loads((tmp_path / "run" / "configuration.json").read_text())["training"]
    assert (written["epochs"], written["schedule_epochs"], written["lr"]) == (LONG, SHORT, 0.02)
    assert [(each["after"], each["epochs"], each["lr"]) for each in written["lr_stages"]] == [(SHORT, 4, 0.01)]
    as_written = replace(short, training=replace(longer(short).training, lr_stages=(stage,)))
    # The command is repeated, which is to go on and not to begin a third course.
    run = trained(tmp_path / "run", corpus, as_written, new=new)
    assert run.configuration == as_written
    rates = [result.lr for result in run.history]
    assert rates[3] < 0.01 * 0.2 < rates[7] < rates[4] <= 0.01
    assert [result.clip for result in run.history[SHORT:]] == [0.3] * 4
    assert numbers(trained(tmp_path / "at once", corpus, as_written)) == numbers(run)
    assert trained(tmp_path / "run", corpus, as_written, new=new).finished == "epochs"
    with pytest.raises(UsageError, match="above the 8 trained, got 8"):
        run.reschedule(0.5, LRScheduleConfig())


def test_a_course_that_was_never_followed_gives_way_to_another():
    begun = configured().training
    once = rescheduled(begun, 4, 8, 0.1, LRScheduleConfig())
    twice = rescheduled(once, 4, 8, 0.2, LRScheduleConfig("cosine"))
    third = rescheduled(twice, 6, 9, 0.2, LRScheduleConfig("cosine"))
    assert [(stage.after, stage.epochs, stage.lr) for stage in third.lr_stages] == [(4, 4, 0.2), (6, 3, 0.2)]
    assert [third.lr_stage(done).after for done in (0, 3, 4, 5, 6, 20)] == [0, 0, 4, 4, 6, 6]
    assert continued(third, 20).laid_out_over == 4


def test_patience_goes_on_where_it_stood_and_a_new_schedule_has_all_of_it():
    training = configured(epochs=9, early_stopping=EarlyStoppingConfig(patience=2)).training
    losses = [3.0, 2.0, 2.5]
    assert not training.out_of_patience(losses)
    assert continued(training, 20).out_of_patience([*losses, 2.1])
    new = rescheduled(training, 3, 20, 0.1, LRScheduleConfig())
    assert not new.out_of_patience([*losses, 2.1])
    # The best of all epochs is to be improved on, not the best since.
    assert new.out_of_patience([*losses, 2.2, 2.1])
    over = rescheduled(training, 4, 20, 0.1, LRScheduleConfig())
    assert not over.out_of_patience([*losses, 2.1])


def test_a_run_out_of_patience_stays_so_until_it_is_given_more(tmp_path, corpus):
    impatient = configured(epochs=9, lr=1e-9, early_stopping=EarlyStoppingConfig(patience=2, min_delta=0.5))
    ended = trained(tmp_path, corpus, impatient)
    assert (ended.finished, len(ended.history)) == ("patience", 3)
    assert trained(tmp_path, corpus, longer(impatient, 20)).finished == "patience"
    patient = replace(impatient.training, early_stopping=EarlyStoppingConfig(patience=4, min_delta=0.5))
    assert len(trained(tmp_path, corpus, longer(replace(impatient, training=patient), 20)).history) == 5
    again = trained(tmp_path, corpus, longer(replace(impatient, training=patient), 20), new=(1e-9, LRScheduleConfig()))
    assert len(again.history) == 9
