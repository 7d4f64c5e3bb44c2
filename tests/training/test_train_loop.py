import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.data.toy import entropy_rate
from tune_newllm.errors import DivergedError, InfeasibleError
from tune_newllm.models import ModelConfig, build
from tune_newllm.training.batches import dropout_seed, epoch_order, to_tensors
from tune_newllm.training.config import ClipConfig, EarlyStoppingConfig, LRScheduleConfig, TrainingConfig
from tune_newllm.training.loop import fit, train_step
from tune_newllm.training.state import TrainState

CONFIG = TrainingConfig(lr=3e-3, batch_size=8, epochs=3, precision="fp32", device="cpu", seed=3)


def run(config, model, train, validation):
    state = TrainState.create(config, model)
    return state, list(fit(state, train, validation, config))


@pytest.mark.parametrize("shuffle", [True, False])
def test_results_agree_with_a_loop_written_out(shuffle, tiny, windows):
    train, validation = windows(21), windows(9, seed=1)
    schedule = LRScheduleConfig("cosine", warmup=1, by="step")
    config = replace(CONFIG, epochs=2, clip=ClipConfig("constant", 1.3), lr_schedule=schedule, shuffle=shuffle)
    state, results = run(config, tiny(), train, validation)

    model = tiny()
    optimizer = torch.optim.Adam(model.parameters())
    step = tokens = 0
    for epoch, result in enumerate(results):
        losses, norms = [], []
        for chunk in np.split(epoch_order(21, 3, epoch) if shuffle else np.arange(21), [8, 16]):
            rows = torch.from_numpy(train[chunk].astype(np.int64))
            logits, _ = model(rows[:, :-1])
            keep = rows[:, 1:] != 0
            loss = -logits.log_softmax(-1).gather(2, rows[:, 1:, None]).squeeze(2)[keep]
            optimizer.zero_grad()
            loss.mean().backward()
            norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.3).item())
            rate = (step + 1) if step < 1 else (1 + math.cos(math.pi * (step - 1) / 5)) / 2
            optimizer.param_groups[0]["lr"] = 3e-3 * rate
            optimizer.step()
            losses += loss.tolist()
            step, tokens = step + 1, tokens + len(loss)
        assert (result.epoch, result.step, result.tokens, result.clip) == (epoch + 1, step, tokens, 1.3)
        assert result.train_loss == pytest.approx(np.mean(losses), rel=1e-5)
        assert result.grad_norm == pytest.approx(np.mean(norms), rel=1e-4)
        assert result.clipped_share == np.mean(np.array(norms) > 1.3)
        assert result.lr == pytest.approx(3e-3 * rate)
    assert 0 < results[1].clipped_share < 1 or not shuffle
    assert result.peak_memory_bytes > 1e6
    assert 0 < result.seconds < 60
    assert result.tokens_per_s > 0
    for mine, theirs in zip(state.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=5e-6)


def test_micro_batches_and_padding_do_not_change_the_numbers(tiny, windows):
    train, validation = windows(20), windows(9, seed=1)
    _, whole = run(CONFIG, tiny(), train, validation)
    wider = np.pad(train, ((0, 0), (0, 5)))
    for rows, micro_batch in ((train, 3), (train, 1), (wider, "auto")):
        _, parts = run(replace(CONFIG, micro_batch=micro_batch), tiny(), rows, validation)
        for name in ("train_loss", "val_loss", "grad_norm"):
            got, want = ([getattr(result, name) for result in each] for each in (parts, whole))
            assert got == pytest.approx(want, rel=1e-5), (micro_batch, name)
        assert [each.tokens for each in parts] == [each.tokens for each in whole]


def look_before(model, look):
    """Call `look` with the tokens of every pass before it."""
    features = model.features

    def looked(tokens, state=None):
        look(tokens)
        return features(tokens, state)

    model.features = looked


def full_device():
    raise torch.OutOfMemoryError("CUDA out of memory")


def full_machine():
    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("fail", [full_device, full_machine])
def test_out_of_memory_halves_the_micro_batch_for_good_and_changes_no_number(fail, tiny, windows, tmp_path):
    train, validation, model = windows(20), windows(9, seed=1), tiny()
    _, whole = run(CONFIG, tiny(), train, validation)
    inspect, looks = model.inspect, []

    def before(tokens):
        if model.training and len(tokens) > 3:
            fail()

    def inspect_once(sample):
        looks.append(len(sample))
        return fail() if len(looks) == 1 else inspect(sample)

    look_before(model, before)
    model.inspect = inspect_once
    state = TrainState.create(CONFIG, model)
    parts = [next(fit(state, train, validation, CONFIG))]
    assert looks == [9, 9]
    assert state.notes == [
        "out of memory at 8 sequences a pass in epoch 1; going on with 4",
        "out of memory at 4 sequences a pass in epoch 1; going on with 2",
    ]
    state.save(tmp_path / "state")
    resumed = TrainState.load(tmp_path / "state", CONFIG, tiny(seed=1))
    parts += fit(resumed, train, validation, CONFIG)
    assert ([each.micro_batch for each in parts], resumed.notes) == ([2, 2, 2], [])
    assert [each.micro_batch for each in whole] == [8, 8, 8]
    for name in ("train_loss", "val_loss", "grad_norm", "noise_scale", "dead_relu", "ctx_rank", "tokens"):
        got, want = ([getattr(result, name) for result in each] for each in (parts, whole))
        assert got == pytest.approx(want, rel=1e-5), name


def test_a_step_that_ran_out_of_memory_leaves_neither_gradients_nor_masks_nor_tensors(tiny, windows):
    smaller, halved = (TrainState.create(CONFIG, tiny(dropout=0.3)) for _ in range(2))
    held = []

    def fail_in_the_second_pass(tokens):
        if len(held) == 2:
            assert held[1]() is None
            return
        tokens = tokens.clone()
        held.append(weakref.ref(tokens))
        if len(held) == 2:
            full_device()

    look_before(halved.model, fail_in_the_second_pass)
    # Two passes of four, of which the first leaves gradients and draws masks; then four of two.
    assert train_step(halved, windows(8), 1.0, 4).read() == train_step(smaller, windows(8), 1.0, 2).read()
    assert (halved.micro_batch, halved.step) == (2, 1)
    assert all(map(torch.equal, halved.model.parameters(), smaller.model.parameters()))


def test_what_no_micro_batch_helps_is_infeasible(tiny, windows, monkeypatch):
    state = TrainState.create(CONFIG, tiny())
    monkeypatch.setattr("tune_newllm.training.step.take_step", lambda optimizers, divisor: full_device())
    with pytest.raises(InfeasibleError, match=r"out of memory in the optimizer's step: "):
        train_step(state, windows(8), None, 8)
    assert state.micro_batch == 8
    look_before(state.model, lambda tokens: full_device())
    with pytest.raises(InfeasibleError, match=r"out of memory with one sequence at a time: "):
        train_step(state, windows(8), None, 8)
    assert state.micro_batch == 1


def test_schedules_by_tokens_follow_the_targets_seen(tiny, windows):
    train = windows(20)
    per_epoch = int(np.count_nonzero(train[:, 1:]))
    schedule = LRScheduleConfig("linear", by="tokens", length=2 * per_epoch)
    clip = ClipConfig("linear", 1.0, by="tokens", final=3.0, until=2 * per_epoch)
    _, results = run(replace(CONFIG, lr_schedule=schedule, clip=clip), tiny(), train, windows(9))
    for epoch, result in enumerate(results[:2]):
        last = train[epoch_order(20, 3, epoch)[16:]]
        share = ((epoch + 1) * per_epoch - np.count_nonzero(last[:, 1:])) / (2 * per_epoch)
        assert result.lr == pytest.approx(3e-3 * (1 - share))
        assert result.clip == pytest.approx(1 + 2 * share)
    assert (results[2].lr, results[2].clip) == (0.0, 3.0)


def test_the_percentile_is_that_of_all_norms_but_those_of_skipped_steps(tiny, windows):
    config = replace(CONFIG, clip=ClipConfig("percentile", percentile=30.0))
    state = TrainState.create(config, tiny())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    overflows = iter([math.inf, math.inf])
    state.model.output.bias.register_hook(lambda gradient: gradient * next(overflows, 1.0))
    first, second, _ = fit(state, windows(40), windows(9), config)
    assert len(state.norms) == 13
    norms = np.array(state.norms)
    assert (np.diff(norms) >= 0).all()
    assert first.clip != second.clip
    assert state.history[-1].clip == pytest.approx(np.percentile(norms, 30.0))


def test_every_step_is_clipped_by_its_own_limit(tiny, windows):
    clip = ClipConfig("piecewise", by="step", table=((0, 1e-9), (2, 1e9)))
    _, results = run(replace(CONFIG, epochs=2, clip=clip), tiny(), windows(20), windows(9))
    assert [result.clipped_share for result in results] == [2 / 3, 0.0]
    assert [result.clip for result in results] == [1e9, 1e9]


def test_legacy_loss_moves_with_the_batch_size_and_the_exact_one_does_not(tiny, windows):
    validation = windows(9, seed=1)
    frozen = replace(CONFIG, lr=1e-12, epochs=1)
    results = [run(replace(frozen, batch_size=size), tiny(), windows(20), validation)[1][0] for size in (2, 5)]
    assert results[0].val_loss == pytest.approx(results[1].val_loss, rel=1e-7)
    assert results[0].val_loss_legacy != pytest.approx(results[1].val_loss_legacy, rel=1e-5)


def test_a_rate_far_too_high_ends_at_the_step_where_the_loss_left_the_finite_numbers(tiny, windows):
    config = replace(CONFIG, lr=1e36, clip=ClipConfig("none"))
    state = TrainState.create(config, tiny())
    with pytest.raises(DivergedError) as caught:
        list(fit(state, windows(40), windows(9), config))
    # The first step sees the initial weights; its update, as large as the rate, spoils the second.
    assert (caught.value.epoch, caught.value.step) == (1, 2)
    assert state.history == []


def test_weights_spoiled_by_the_last_step_of_an_epoch_are_found_by_its_validation(tiny, windows):
    config = replace(CONFIG, lr=1e36, batch_size=40)
    state = TrainState.create(config, tiny())
    with pytest.raises(DivergedError) as caught:
        next(fit(state, windows(40), windows(9), config))
    assert (caught.value.epoch, caught.value.step, state.history) == (1, 1, [])


def test_the_last_good_epoch_is_kept_when_a_later_one_diverges(tiny, windows):
    state = TrainState.create(CONFIG, tiny())
    epochs = fit(state, windows(20), windows(9), CONFIG)
    good = next(epochs)
    torch.nn.init.constant_(state.model.output.bias, math.inf)
    with pytest.raises(DivergedError) as caught:
        next(epochs)
    assert (caught.value.epoch, caught.value.step) == (2, 4)
    assert state.history == [good]


def test_a_gradient_that_is_not_finite_is_a_divergence_too(tiny, windows):
    state = TrainState.create(CONFIG, tiny())
    state.model.output.weight.register_hook(lambda gradient: gradient * math.inf)
    before = state.model.embedding.weight.clone()
    with pytest.raises(DivergedError):
        train_step(state, windows(8), None, 8)
    assert torch.equal(state.model.embedding.weight, before)


def test_early_stopping_by_hand(tiny, windows):
    state = TrainState.create(CONFIG, tiny())
    result = next(fit(state, windows(8), windows(8), CONFIG))
    config = replace(CONFIG, epochs=100, early_stopping=EarlyStoppingConfig(patience=2, min_delta=0.25))
    state = TrainState.create(config, tiny())
    # 3.9 is lower, but by less than 0.25; 3.75 is lower by exactly that and counts. The two after it do not.
    best = [True, True, True, True, False]
    for epoch, loss in enumerate([4.0, 3.9, 3.75, 3.6, 3.6]):
        assert state.finished is None
        state.record(replace(result, epoch=epoch + 1, val_loss=loss), config)
        assert state.is_best == best[epoch]
    assert (state.finished, state.best_epoch) == ("patience", 4)


def test_scaler_skips_an_overflowing_step_and_goes_on(tiny, windows):
    state = TrainState.create(CONFIG, tiny())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    overflow = state.model.output.bias.register_hook(lambda gradient: gradient * 1e3)
    before = [each.clone() for each in state.model.parameters()]
    skipped = train_step(state, windows(8), 1.0, 3)
    assert math.isfinite(skipped.loss)
    assert not math.isfinite(skipped.norm)
    assert all(map(torch.equal, state.model.parameters(), before))
    assert (state.step, state.scaler.get_scale()) == (1, 2.0**126)
    overflow.remove()

    plain = TrainState.create(CONFIG, tiny())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled, unscaled = train_step(state, windows(8), 1e-3, 3), train_step(plain, windows(8), 1e-3, 3)
    assert scaled.norm == pytest.approx(unscaled.norm, rel=1e-5)
    for mine, theirs in zip(state.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)

    state.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    state.model.output.weight.register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(DivergedError):
        train_step(state, windows(8), 1.0, 8)

    # However large the scale, it does not excuse a loss: that is never scaled before it is read.
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    torch.nn.init.constant_(state.model.output.bias, math.inf)
    with pytest.raises(DivergedError):
        train_step(state, windows(8), 1.0, 8)


def test_order_depends_on_seed_and_epoch_and_visits_every_row():
    orders = [epoch_order(50, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({dropout_seed(seed, epoch) for seed in (0, 1, 2**62) for epoch in range(3)}) == 9


def test_padding_behind_the_longest_row_is_cut_off():
    rows = np.array([[2, 5, 6, 3, 0, 0], [2, 3, 0, 0, 0, 0]], dtype=np.uint16)
    inputs, targets = to_tensors(rows, "cpu")
    assert inputs.tolist() == [[2, 5, 6], [2, 3, 0]]
    assert targets.tolist() == [[5, 6, 3], [3, 0, 0]]


def test_a_small_model_learns_the_toy_corpus(tmp_path):
    corpus = prepare(CorpusConfig(name="toy", vocab_size=20, window=16), cache=tmp_path)
    targets = corpus.validation[:, 1:]
    counts = np.bincount(targets[targets != 0])
    shares = counts[counts > 0] / counts.sum()
    unigram = -(shares * np.log(shares)).sum()

    config = replace(CONFIG, lr=1e-2, batch_size=32, epochs=4)
    model = build(ModelConfig(embed_dim=16, hidden_dim=32, ctx_dim=16, num_layers=2), len(corpus.tokenizer), seed=0)
    _, results = run(config, model, corpus.train, corpus.validation)
    losses = [result.val_loss for result in results]
    assert losses[-1] < unigram - 0.5
    # Whatever could do better than the entropy rate would have seen its targets.
    assert entropy_rate() - 0.1 < losses[-1] < entropy_rate() + 0.1
