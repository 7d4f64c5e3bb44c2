"""Recorded passes and deferred reading: on the CPU with a recorder that repeats the work; on CUDA if it is there."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from tune_newllm.data.config import CorpusConfig
from tune_newllm.errors import DivergedError
from tune_newllm.models import ModelConfig, build
from tune_newllm.training.batches import ResidentWindows, target_count
from tune_newllm.training.config import ClipConfig, Configuration, TrainingConfig
from tune_newllm.training.loop import UNREAD_STEPS, fit
from tune_newllm.training.memory import measure_step
from tune_newllm.training.state import TrainState

CONFIG = TrainingConfig(lr=3e-3, batch_size=8, epochs=2, micro_batch=5, precision="fp32", device="cpu", seed=3)
VOLATILE = {"seconds", "tokens_per_s", "peak_memory_bytes"}


def numbers(result):
    """Those that do not depend on the clock."""
    return {key: value for key, value in asdict(result).items() if key not in VOLATILE and value is not None}


class Recorder:
    """What CUDA does in a recording: runs the work a few times, later again on the same tensors."""

    def __init__(self):
        self.recorded = self.replayed = 0

    def __call__(self, body, generator):
        self.recorded += 1
        for _ in range(3):
            body()

        def replay():
            self.replayed += 1
            body()

        return replay


def accelerated(config, model, recorder):
    state = TrainState.create(config, model)
    state.passes.recorder, state.deferred = recorder, True
    return state


@pytest.mark.parametrize("limit", [0.3, None])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recorded_and_deferred_training_is_the_same_training(dropout, limit, tiny, windows):
    clip = ClipConfig("none") if limit is None else ClipConfig("constant", limit)
    config, recorder = replace(CONFIG, clip=clip), Recorder()
    train, validation = windows(30), windows(9, seed=1)
    plain = TrainState.create(config, tiny(dropout))
    # Without a recorder batches are cut to their longest row, which changes the masks that a width draws.
    plain.passes.recorder = lambda body, generator: None
    state = accelerated(config, tiny(dropout), recorder)
    wanted, got = list(fit(plain, train, validation, config)), list(fit(state, train, validation, config))
    for one, other in zip(wanted, got, strict=True):
        assert numbers(other) == pytest.approx(numbers(one), rel=1e-4)
    # Batches of 8, 8, 8 and 6 make passes of 5 and 3, 1 for the last, and 4 and 4 where one is probed. The third of a
    # kind is recorded: not that of 1.
    assert recorder.recorded == 3
    assert recorder.replayed >= 6
    for mine, theirs in zip(state.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_divergence_is_found_when_the_steps_are_read_and_named_by_its_step(tiny, windows):
    config = replace(CONFIG, lr=1e36, clip=ClipConfig("none"), batch_size=1)
    state = accelerated(config, tiny(), None)
    with pytest.raises(DivergedError) as caught:
        list(fit(state, windows(100), windows(9), config))
    assert (caught.value.epoch, caught.value.step, state.step) == (1, 2, UNREAD_STEPS)


def test_resident_rows_are_the_rows():
    rows = np.random.default_rng(0).integers(0, 9, (20, 7)).astype(np.uint16)
    resident, order = ResidentWindows(rows, "cpu"), np.array([3, 19, 3, 0])
    for ours, theirs in ((resident, rows), (resident[order], rows[order]), (resident[order][1:3], rows[order][1:3])):
        assert len(ours) == len(theirs)
        assert target_count(ours) == target_count(theirs)
        assert (ours.tokens().numpy() == theirs).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cuda_graphs_train_as_the_plain_passes(dropout, precision, tiny, windows):
    config = replace(CONFIG, device="cuda", precision=precision, epochs=3)
    curves = []
    for graphs in (True, False):
        state = TrainState.create(config, tiny(dropout))
        if not graphs:
            state.passes.recorder = lambda body, generator: None
        curves.append([each.train_loss for each in fit(state, windows(64), windows(16, seed=1), config)])
        assert bool(state.passes._graphs) is True
        assert all((each.replay is not None) == graphs for each in state.passes._graphs.values())
    assert curves[0] == pytest.approx(curves[1], rel=1e-4 if precision == "fp32" else 2e-2)
    assert all(map(math.isfinite, curves[0]))


def test_memory_held_by_recordings_is_given_up_before_the_micro_batch_is(tiny, windows):
    config, recorder = replace(CONFIG, batch_size=8, micro_batch=4), Recorder()
    wanted = [each.train_loss for each in fit(TrainState.create(config, tiny()), windows(32), windows(9), config)]
    state = accelerated(config, tiny(), recorder)
    features, full = state.model.features, []

    def features_that_do_not_fit_beside_a_recording(tokens, context=None):
        if state.passes._graphs and len(full) < 1:
            full.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return features(tokens, context)

    state.model.features = features_that_do_not_fit_beside_a_recording
    got = [each.train_loss for each in fit(state, windows(32), windows(9), config)]
    assert got == pytest.approx(wanted, rel=1e-5)
    assert (full, state.passes.recorder, state.micro_batch, state.notes) == ([True], None, 4, [])


def test_a_recording_that_runs_out_of_memory_leaves_passes_as_they_were(tiny, windows):
    def full(body, generator):
        raise RuntimeError("CUDA error: out of memory")

    wanted = [each.train_loss for each in fit(TrainState.create(CONFIG, tiny()), windows(32), windows(9), CONFIG)]
    state = accelerated(CONFIG, tiny(), full)
    assert [each.train_loss for each in fit(state, windows(32), windows(9), CONFIG)] == pytest.approx(wanted, rel=1e-5)
    assert (state.passes.recorder, state.micro_batch) == (None, 5)


def test_looking_into_the_model_gives_recordings_up_before_it_moves_the_model(tiny, windows):
    state, calls = accelerated(CONFIG, tiny(), Recorder()), []
    inspect = state.model.inspect

    def inspect_without_memory_for_recordings(sample):
        calls.append(bool(state.passes._graphs))
        if calls[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inspect(sample)

    state.model.inspect = inspect_without_memory_for_recordings
    assert len(list(fit(state, windows(40), windows(9), CONFIG))) == 2
    assert calls == [True, False, False]


def test_what_a_step_needs_is_not_measured_for_ever_where_the_first_loss_is_no_number(monkeypatch):
    monkeypatch.setattr("tune_newllm.training.memory.build", lambda *_: broken())
    configuration = Configuration(CorpusConfig(window=8), MODEL, replace(CONFIG, batch_size=4))
    create = TrainState.create.__func__
    monkeypatch.setattr(
        TrainState, "create", classmethod(lambda cls, *args: replace(create(cls, *args), deferred=True))
    )
    with pytest.raises(DivergedError):
        measure_step(configuration, 30)


MODEL = ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8, num_layers=1)


def broken():
    model = build(MODEL, 30, seed=0)
    torch.nn.init.constant_(model.output.bias, math.inf)
    return model
