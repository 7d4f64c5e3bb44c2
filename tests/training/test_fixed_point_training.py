"""Phase one of the fixed-point family, its cached contexts, and the training around them."""

import errno
import json
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tune_newllm.errors import DegenerateError, InfeasibleError
from tune_newllm.models import ModelConfig, build, parameter_count
from tune_newllm.models import context_scan as scans
from tune_newllm.training import context_cache as cache
from tune_newllm.training import fixed_point as phases
from tune_newllm.training import fixed_point_checks as checks
from tune_newllm.training import memory, metrics
from tune_newllm.training.batches import ContextRows
from tune_newllm.training.config import EarlyStoppingConfig, TrainingConfig
from tune_newllm.training.fixed_point_config import FixedPointConfig
from tune_newllm.training.fixed_point_teaching import Teacher
from tune_newllm.training.loop import evaluate, fit
from tune_newllm.training.optim import effective_lr
from tune_newllm.training.state import TrainState
from tune_newllm.training.step import train_step

VOCAB = 30
MODEL = ModelConfig(family="fixed_point", embed_dim=16, ctx_dim=16, num_layers=2, init="original")
PHASE_ONE = FixedPointConfig(max_iterations=4, min_iterations=3, batch_tokens=60)
CONFIG = TrainingConfig(
    lr=1e-2, batch_size=8, epochs=3, device="cpu", precision="fp32", early_stopping=None, fixed_point=PHASE_ONE
)


def model(**variant):
    return build(replace(MODEL, **variant), VOCAB, seed=0)


@pytest.fixture
def stream():
    """Makes rows of one text that go on where the row before ends, the last one padded."""

    def make(count, seed=0, window=12):
        rng, step = np.random.default_rng(seed), window - 1
        tokens = rng.integers(4, VOCAB, count * step + 1)
        tokens[1::2] = (tokens[0::2][: len(tokens[1::2])] * 7 + 1) % (VOCAB - 4) + 4
        rows = np.stack([tokens[at * step : at * step + window] for at in range(count)]).astype(np.uint16)
        rows[-1, window // 2 :] = 0
        return rows

    return make


def teacher(rows, carries, config, net=None, seed=0):
    net = net or model()
    contexts = torch.empty(len(rows), rows.shape[1] - 1, net.ctx_dim)
    return Teacher(net, cache.context_rows(rows, contexts, net, carries), config, seed, "cpu"), contexts, net


def original_phase_one(net, tokens, batch, iterations, weight):
    """The original's procedure without noise, for one text, written out: (error, spread, share) of each iteration."""
    block = net.context_blocks[0].requires_grad_(True)
    optimizer = torch.optim.Adam(block.parameters(), lr=2e-3)
    embedded = functional.layer_norm(net.embedding.weight, (16,)).detach()[tokens]

    def apply(context, x):
        for layer in block.layers:
            mixed = torch.cat([context, x], 1) @ layer.mix.weight.T + layer.mix.bias
            context = functional.layer_norm(context + mixed.relu(), (16,), layer.norm.weight, layer.norm.bias)
        return context

    contexts = [torch.zeros(1, 16)]
    for x in embedded:
        contexts.append(apply(contexts[-1], x[None]).detach())
    kept, found = torch.cat(contexts[1:]), []
    batches = torch.arange(len(tokens)).split(batch)
    for _ in range(iterations - 1):
        made, errors, spreads = [], [], []
        optimizer.zero_grad()
        for part in batches:
            out = apply(kept[part - 1], embedded[part])
            errors.append((out - kept[part]).square().mean())
            spreads.append((out - out.mean(0)).norm() / len(part))
            (((1 - weight) * errors[-1] - weight * spreads[-1]) / len(batches)).backward()
            made.append(out.detach())
        torch.nn.utils.clip_grad_norm_(block.parameters(), 1.0)
        optimizer.step()
        sizes = [len(part) for part in batches]
        mean = [
            float(sum(e.detach() * n for e, n in zip(each, sizes, strict=True)) / sum(sizes))
            for each in (errors, spreads)
        ]
        share = ((torch.cat(made) - kept).square().mean(1) < 0.03).float().mean()
        found.append((*mean, float(share)))
        kept = torch.cat(made)
    block.requires_grad_(False)
    return found, kept


def test_the_originals_procedure_is_the_originals(stream):
    rows = stream(9)
    config = replace(PHASE_ONE, procedure="original", noise=0.0, stop_share=1.0, max_iterations=5)
    taught, contexts, net = teacher(rows, True, config)
    ours = [(row.error, row.spread, row.converged) for row in taught.iterations()][1:]
    tokens = rows[:, :-1][rows[:, :-1] > 0].astype(int)
    other = model()
    # Five rows of 11 tokens are the most within 60 tokens.
    theirs, kept = original_phase_one(other, tokens, 55, 5, PHASE_ONE.diversity)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    assert ours[0][2] == pytest.approx(1 - 1 / len(tokens)), "only the first token, which now follows on the last"
    torch.testing.assert_close(contexts.flatten(0, 1)[: len(tokens)], kept, rtol=0, atol=1e-4)
    for mine, its in zip(net.context_blocks.parameters(), other.context_blocks.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-4)


@pytest.mark.parametrize("carries", [True, False], ids=["stream", "texts"])
def test_mended_contexts_are_what_the_taught_blocks_make_of_those_before(carries, stream):
    """Undisturbed, by the weights as they are in the end, from zeros before the first token, in spite of the noise."""
    rows = stream(9)
    taught, contexts, net = teacher(rows, carries, replace(PHASE_ONE, threshold=1e-9))
    steps = taught.iterations()
    while next(steps).iteration < 3:
        pass
    previous = contexts.roll(1, 1)
    previous[:, 0] = 0
    if carries:
        previous[1:, 0] = contexts[:-1, -1]
    next(steps)
    ids = torch.from_numpy(rows[:, :-1].astype(np.int64))
    inputs = net.context_inputs(ids.t(), net.start(9, ids.device).before_KB).transpose(0, 1)
    torch.testing.assert_close(contexts[ids > 0], net.step(previous[ids > 0], inputs[ids > 0]))
    assert not any(each.requires_grad for each in net.context_blocks.parameters())


def test_rows_that_begin_a_text_begin_at_zero(windows):
    rows = windows(20)
    taught, contexts, net = teacher(rows, False, replace(PHASE_ONE, max_iterations=1))
    assert [row.converged for row in taught.iterations()] == [None]
    ids = torch.from_numpy(rows[:, :1].astype(np.int64))
    torch.testing.assert_close(contexts[:, 0], net(ids)[1].context_BD)


@pytest.mark.parametrize(("procedure", "ratio"), [("mended", 1.0), ("original", 2**-0.5)])
def test_the_spread_does_not_depend_on_the_batch_but_in_the_original(procedure, ratio, stream):
    """A batch of everything twice lies no less apart."""
    taught, *_ = teacher(stream(8), True, replace(PHASE_ONE, procedure=procedure))
    next(taught.iterations())
    once, twice = (taught._losses(taught._make(np.tile(np.arange(7), times), 0.0)) for times in (1, 2))
    assert float(twice[1] / once[1]) == pytest.approx(ratio, rel=1e-5)


def test_each_of_several_blocks_learns_from_its_own_tokens(stream):
    net = model(blocks=2)
    taught, *_ = teacher(stream(8), True, PHASE_ONE, net)
    next(taught.iterations())
    made = taught._make(np.arange(8), 0.0)
    assert made.token_M.tolist() == list(range(7 * 11 + 6))
    made.made_MD.retain_grad() if made.made_MD.requires_grad else made.made_MD.requires_grad_()
    error, spread = taught._losses(made)
    reached = torch.autograd.grad(error - spread, made.made_MD)[0] != 0
    assert reached[0::2, :8].any(1).all()
    assert reached[1::2, 8:].any(1).all()
    assert not reached[1::2, :8].any()
    assert not reached[0::2, 8:].any()


@pytest.mark.parametrize("procedure", ["mended", "original"])
def test_blocks_without_a_token_in_a_batch_do_not_count_in_it(procedure, stream):
    """Rows of one token in batches of one row, and three blocks that share the tokens."""
    rows = stream(9)
    rows[:3, 2:] = 0
    net = model(blocks=4)
    taught, *_ = teacher(rows, False, replace(PHASE_ONE, procedure=procedure, batch_tokens=11), net)
    assert all(math.isfinite(row.error + row.spread) for row in list(taught.iterations())[1:])
    assert all(each.isfinite().all() for each in net.parameters())


@pytest.mark.parametrize(
    ("change", "iterations"),
    [({"stop_share": 0.01}, 3), ({"stop_share": 1.0, "threshold": 1e-9}, 4), ({"max_iterations": 2}, 2)],
)
def test_it_stops_when_contexts_stay_but_not_before_the_least_iterations(change, iterations, stream):
    taught, *_ = teacher(stream(9), True, replace(PHASE_ONE, **change))
    assert len(list(taught.iterations())) == iterations


@pytest.mark.parametrize("procedure", ["mended", "original"])
def test_a_loss_that_is_no_number_is_divergence(procedure, stream):
    taught, *_ = teacher(stream(9), True, replace(PHASE_ONE, procedure=procedure, noise=1e39))
    with pytest.raises(DegenerateError, match=r"lower training\.fixed_point\.lr"):
        list(taught.iterations())


TOKENS = {50: (56_602, 994.9), 100: (110_516, 1942.6), 200: (216_119, 3798.9), 500: (529_173, 9301.9)}


@pytest.mark.parametrize("samples", TOKENS)
def test_the_cache_has_the_published_size(samples, tmp_path):
    """Of 6 layers of 768 after every token but the last, in MiB."""
    tokens, mebibytes = TOKENS[samples]
    plan = cache.CachePlan("gpu", cache.context_bytes(tokens - 1, 6 * 768), 0)
    # Tensors that only have sizes.
    (contexts,), _ = cache.room([(1, tokens - 1, 6 * 768)], [plan], "meta", tmp_path)
    assert contexts.nbytes == plan.nbytes
    assert contexts.nbytes / 2**20 == pytest.approx(mebibytes, abs=0.05)


def test_contexts_go_where_they_fit_first(tmp_path, monkeypatch):
    free = {"cuda": 100, "cpu": 60}
    monkeypatch.setattr(cache, "available_memory", lambda device: free[torch.device(device).type])
    monkeypatch.setattr(cache.os, "cpu_count", torch.get_num_threads)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))

    def places(size, device):
        return [plan.place for plan in cache.plan_contexts(size, device, tmp_path)]

    assert places(30, "cuda") == ["gpu", "memory", "disk"]
    assert [places(size, "cuda") for size in (50, 51)] == [["gpu", "disk"], ["disk"]]
    assert [places(size, "cpu") for size in (30, 31)] == [["memory", "disk"], ["disk"]]
    free["cuda"] = 20
    assert places(30, "cuda") == ["memory", "disk"]
    with pytest.raises(InfeasibleError, match="take fewer texts"):
        cache.plan_contexts(901, "cpu", tmp_path)


SHAPES = [(3, 4, 5), (2, 4, 5)]
PLANS = [cache.CachePlan(place, 400, 400) for place in ("memory", "disk")]


def test_where_memory_is_gone_the_next_place_is_taken(tmp_path, monkeypatch):
    def gone(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    assert cache.room(SHAPES, PLANS, "cpu", tmp_path)[1].place == "memory"
    monkeypatch.setattr(cache.torch, "empty", gone)
    rooms, plan = cache.room(SHAPES, PLANS, "cpu", tmp_path)
    assert plan.place == "disk"
    assert [tuple(each.shape) for each in rooms] == SHAPES
    with pytest.raises(InfeasibleError, match="free for them is taken by now: take fewer texts"):
        cache.room(SHAPES, PLANS[:1], "cpu", tmp_path)


def test_contexts_on_disk_have_their_bytes_and_leave_no_file(tmp_path, monkeypatch):
    reserved, reserve = [], cache.os.posix_fallocate
    monkeypatch.setattr(cache.os, "posix_fallocate", lambda *args: reserved.append(args[2]) or reserve(*args))
    rooms, _ = cache.room([(3, 100, 50), (2, 100, 50)], PLANS[1:], "cpu", tmp_path)
    assert reserved == [sum(each.nbytes for each in rooms)] == [5 * 100 * 50 * 4]
    assert not list(tmp_path.iterdir()), "also where the process is killed"
    for number, each in enumerate(rooms):
        each.fill_(number)
    assert [each.mean() for each in rooms] == [0, 1]

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache.os, "posix_fallocate", full)
    with pytest.raises(InfeasibleError, match="free for them is taken by now"):
        cache.room(SHAPES, PLANS[1:], "cpu", tmp_path)


def everything_on_disk(monkeypatch):
    monkeypatch.setattr(phases, "plan_contexts", lambda size, device, folder: [cache.CachePlan("disk", size, size)])


@pytest.mark.parametrize("carries", [True, False], ids=["stream", "texts"])
@pytest.mark.parametrize(
    "variant", [{}, {"num_input_tokens": 3, "blocks": 2, "token_input_all_layers": False}], ids=str
)
def test_contexts_from_the_cache_are_those_that_are_read_again(
    carries, variant, stream, windows, monkeypatch, tmp_path, caplog
):
    """In memory or on disk, for every row, and so in evaluation too."""
    caplog.set_level("INFO")
    monkeypatch.setattr(scans, "SEGMENT", 7)
    monkeypatch.setattr(scans, "SEGMENTS", {"cpu": 5})
    monkeypatch.setattr(metrics, "EVALUATION_ROWS", {"cpu": 2})
    rows, held_out = (stream(9), stream(5, seed=1)) if carries else (windows(9), windows(5, seed=1))
    net = model(**variant)
    torch.nn.init.normal_(net.output.weight, generator=torch.Generator().manual_seed(0))
    net.settled.fill_(True)
    state = TrainState.create(CONFIG, net)
    found = []
    for place in ("memory", "disk"):
        if place == "disk":
            everything_on_disk(monkeypatch)
        ready = phases.prepared(state, rows, held_out, CONFIG, carries, tmp_path)
        told = f"{(ready.train.contexts.nbytes + ready.validation.contexts.nbytes) / 2**20:,.1f} MiB of contexts lie"
        assert caplog.messages[-2].startswith(told)
        assert ("on disk" in caplog.messages[-2]) == (place == "disk")
        assert caplog.messages[-1].startswith("phase two: all contexts read in ")
        found.append(evaluate(net, ready.validation, device="cpu", legacy_batch=2))
        chosen = np.array([7, 0, 3])
        contexts = ready.train[chosen].state("cpu", 11).contexts_TBW
        assert not list(tmp_path.iterdir())
    read = evaluate(net, held_out, device="cpu", legacy_batch=2, carries=carries)
    for each in found:
        assert each.loss == pytest.approx(read.loss, abs=1e-5)
        assert each.loss_legacy == pytest.approx(read.loss_legacy, abs=1e-5)
    ids = torch.from_numpy(rows[:, :-1].astype(np.int64))
    if carries:
        start = net.start(1, ids.device)
        whole = net.read(ids.flatten()[:, None], start)[:, 0].view(9, 11, -1)
    else:
        whole = net.read(ids.t(), net.start(9, ids.device)).transpose(0, 1)
    torch.testing.assert_close(contexts.transpose(0, 1), whole[chosen], rtol=0, atol=1e-4)


def test_a_step_with_contexts_is_the_step_without(windows):
    rows, losses = windows(8), []
    for cached in (False, True):
        net = model(num_input_tokens=2)
        state = TrainState.create(CONFIG, net)
        read = rows
        if cached:
            read = cache.context_rows(rows, torch.empty(8, 11, 32), net, carries=False)
            cache.fill(net, read, "cpu")
        losses.append([train_step(state, read, None, micro_batch=3).loss for _ in range(3)])
        weights = torch.cat([each.flatten() for each in state.parameters])
        losses[-1].append(float(weights.detach().double().sum()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_training_learns_and_tells_of_phase_one(stream, tmp_path, caplog):
    caplog.set_level("INFO")
    state = TrainState.create(CONFIG, model())
    frozen = [each.clone() for each in (state.model.drawn_embedding, state.model.embedding.weight)]
    results = list(fit(state, stream(60), stream(9, seed=1), CONFIG, True, tmp_path))
    assert results[-1].val_loss < results[0].val_loss < math.log(VOCAB)
    record = json.loads((tmp_path / phases.RECORD).read_text())
    assert [row["iteration"] for row in record["iterations"]] == list(range(1, results[0].fixed_point_iterations + 1))
    assert record["iterations"][-1]["converged"] == results[-1].fixed_point_converged
    assert record["settings"]["max_iterations"] == 4
    assert 0 < record["rank"] <= 1
    assert record["validation_verdict"] in ("converged", "converging", "diverging", "unstable")
    told = f"phase one ended after iteration {results[0].fixed_point_iterations}: "
    assert f"{told}{results[0].fixed_point_converged:.1%} of contexts stay" in caplog.text
    assert torch.equal(state.model.drawn_embedding, frozen[0]), "contexts go on reading the embedding as it was"
    assert not torch.equal(state.model.embedding.weight, frozen[1])
    assert bool(state.model.settled)


def test_what_is_frozen_stays(stream):
    state = TrainState.create(CONFIG, model(train_embedding=False, tied=True))
    before = state.model.embedding.weight.clone()
    list(fit(state, stream(20), stream(9, seed=1), CONFIG, True))
    assert torch.equal(state.model.embedding.weight, before)


def test_the_rate_is_that_of_the_size_on_record(stream):
    config = replace(CONFIG, epochs=1, lr_size_rule="original", fixed_point=replace(PHASE_ONE, max_iterations=1))
    state = TrainState.create(config, model())
    result = next(fit(state, stream(20), stream(6, seed=1), config, carries=True))
    # As a sweep writes it down before the training, without building the model.
    assert result.lr == pytest.approx(effective_lr(config, parameter_count(MODEL, VOCAB)))
    assert state.optimizers[0].param_groups[0]["lr"] == pytest.approx(result.lr)


def test_a_resumed_training_is_the_uninterrupted_one(stream, tmp_path):
    train, validation = stream(40), stream(9, seed=1)
    whole = TrainState.create(CONFIG, model())
    wanted = list(fit(whole, train, validation, CONFIG, True))
    parts = TrainState.create(CONFIG, model())
    got = [next(fit(parts, train, validation, CONFIG, True))]
    parts.save(tmp_path / "state")
    resumed = TrainState.load(tmp_path / "state", CONFIG, build(MODEL, VOCAB, seed=5))
    got += fit(resumed, train, validation, CONFIG, True)
    for one, other in zip(wanted, got, strict=True):
        for name in ("train_loss", "val_loss", "grad_norm", "fixed_point_iterations", "fixed_point_converged"):
            assert getattr(one, name) == getattr(other, name)
    for one, other in zip(whole.model.state_dict().values(), resumed.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_phase_one_that_did_not_converge_is_noted(stream):
    config = replace(CONFIG, epochs=1, fixed_point=replace(PHASE_ONE, threshold=1e-12))
    state = TrainState.create(config, model())
    list(fit(state, stream(9), stream(5), config, True))
    assert state.notes[0] == "phase one has not converged in 4 iterations: 0.0% of contexts stay, 95% should"


def test_blocks_that_were_taught_before_are_not_taught_again(stream, caplog):
    caplog.set_level("INFO")
    first = TrainState.create(CONFIG, model())
    list(fit(first, stream(40), stream(9, seed=1), CONFIG, True))
    second = TrainState.create(CONFIG, model())
    second.model.load_state_dict(first.model.state_dict())
    (result, *_) = fit(second, stream(40, seed=2), stream(9, seed=1), CONFIG, True)
    assert result.fixed_point_iterations is None
    assert "no phase one" in caplog.text
    names = [name for name in first.model.state_dict() if name.startswith("context_blocks")]
    assert all(torch.equal(first.model.state_dict()[name], second.model.state_dict()[name]) for name in names)


@pytest.mark.parametrize("procedure", ["mended", "original"])
def test_blocks_that_only_pass_on_end_the_training_by_the_originals_rule(procedure, stream):
    net = model()
    with torch.no_grad():
        for layer in net.context_blocks[0].layers:
            layer.mix.weight.zero_()
    config = replace(CONFIG, fixed_point=replace(PHASE_ONE, procedure=procedure, max_iterations=1))
    state = TrainState.create(config, net)
    if procedure == "original":
        with pytest.raises(DegenerateError, match="only pass on"):
            list(fit(state, stream(9), stream(5), config, True))
    else:
        assert len(list(fit(state, stream(9), stream(5), config, True))) == 3
    assert any("only pass on" in note for note in state.notes)


def test_effective_rank_and_degeneracy_by_their_definitions():
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randn(300, 8, generator=generator) * torch.tensor([1.0, 1, 1, 1, 0.1, 0.1, 0.1, 0.1])
    singular = np.linalg.svd(contexts.numpy(), compute_uv=False)
    shares = singular / singular.sum()
    assert checks.rank_share(contexts) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()) / 8, rel=1e-5)
    assert checks.degeneracy(contexts) is None
    assert checks.degeneracy(1 + contexts * 1e-3) == "one point"
    assert checks.degeneracy(contexts * 1e-3) == "zero"
    # The same direction, but at different lengths.
    assert checks.degeneracy(torch.arange(1.0, 9).expand(9, 8) * torch.arange(9)[:, None]) is None


@pytest.mark.parametrize(
    ("found", "word"),
    [
        ([0.02, 0.0102, 0.0003], "converging"),
        ([0.001, 0.001, 0.0011], "converged"),
        ([0.01, 0.02, 0.03], "diverging"),
        ([0.1, 0.0, 0.1], "unstable"),
    ],
)
def test_verdict_on_readings_of_the_validation_rows(found, word):
    assert checks.verdict(found) == word


@pytest.fixture
def some_at_a_time(monkeypatch):
    """Two rows of 11 tokens at once."""
    monkeypatch.setattr(scans, "SEGMENT", 11)
    monkeypatch.setattr(scans, "SEGMENTS", {"cpu": 2})


@pytest.mark.usefixtures("some_at_a_time")
def test_readings_begin_where_the_one_before_has_ended(stream):
    net, rows = model(), stream(6)
    ready = cache.context_rows(rows, torch.empty(6, 11, 16), net, carries=True)
    found = checks.changes(net, ready, 3, "cpu")
    ids = torch.from_numpy(rows[:, :-1].astype(np.int64))
    ids, state, read = ids[ids > 0][None], net.start(1, torch.device("cpu")), []
    for _ in range(3):
        read.append(net.read(ids.t(), state)[:, 0, -16:])
        state = state._replace(context_BD=read[-1][-1:])
    wanted = [float((after - before).square().mean()) for before, after in pairwise(read)]
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.usefixtures("some_at_a_time")
def test_readings_of_texts_are_those_of_each_by_itself(stream):
    net, rows = model(), stream(5)

    def changes(some):
        ready = cache.context_rows(some, torch.empty(len(some), 11, 16), net, carries=False)
        return checks.changes(net, ready, 3, "cpu")

    alone = [changes(row[None]) for row in rows]
    tokens = np.count_nonzero(rows[:, :-1], axis=1)
    assert tokens.tolist() == [11, 11, 11, 11, 6]
    assert changes(rows) == pytest.approx(np.average(alone, axis=0, weights=tokens), abs=1e-6)


def test_the_checks_never_hold_a_second_copy_of_all_contexts(stream, monkeypatch):
    monkeypatch.setattr(scans, "SEGMENT", 11)
    monkeypatch.setattr(scans, "SEGMENTS", {"cpu": 4})
    net, rows = model(), stream(160)
    ready = cache.context_rows(rows, torch.empty(160, 11, 16), net, carries=False)
    for check in (partial(checks.changes, net, ready, 2, "cpu"), partial(checks.reach, net, ready, "cpu")):
        alive = memory._LiveBytes("cpu", [ready.contexts])
        with alive:
            check()
        assert alive.take().max() < 1.5 * ready.contexts.nbytes


def test_reach_is_where_two_beginnings_have_become_one():
    """A block that halves what it is given forgets it to a hundredth in 7 tokens; one that passes it on, never."""

    class Halving:
        ctx_dim = 4

        def __init__(self, keep):
            self.keep = keep

        def start(self, batch, device):
            from tune_newllm.models.fixed_point import FixedPointState

            return FixedPointState(torch.zeros(batch, 4), torch.empty(0, batch))

        def read(self, ids_TB, state):
            powers = self.keep ** torch.arange(1, len(ids_TB) + 1)
            return powers[:, None, None] * state.context_BD + 1

    rows = np.full((3, 11), 7)
    middle = torch.full((3, 10, 4), 1.0)
    ready = ContextRows(rows, middle, np.empty((3, 0), dtype=np.int64), carries=False)
    assert checks.reach(Halving(0.5), ready, "cpu") == 7
    assert checks.reach(Halving(1.0), ready, "cpu") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("procedure", "new"),
        ("max_iterations", 0),
        ("threshold", 0),
        ("stop_share", 1.5),
        ("noise", -0.1),
        ("diversity", 1.0),
        ("validation_passes", 2),
    ],
)
def test_refuses_by_name_and_value(field, value):
    with pytest.raises(ValueError, match=rf"fixed_point\.{field} must .*got {value!r}"):
        FixedPointConfig(**{field: value})


def test_early_stopping_and_best_weights_are_those_of_every_family(stream):
    config = replace(CONFIG, epochs=12, lr=0.3, early_stopping=EarlyStoppingConfig(1, 0.0))
    state = TrainState.create(config, model())
    results = list(fit(state, stream(20), stream(9, seed=1), config, True))
    assert state.finished == "patience"
    state.model.load_state_dict(state.best)
    again = evaluate(state.model, stream(9, seed=1), device="cpu", carries=True)
    assert again.loss == pytest.approx(min(each.val_loss for each in results), abs=1e-5)


def test_what_steps_need_is_measured_with_contexts_in_the_cache(stream):
    """So that neither time nor memory is that of reading step by step, which only happens once."""
    read = []
    net = model()
    net.read = lambda *_: read.append(1)
    train_step(TrainState.create(CONFIG, net), cache.as_trained(net, stream(8)), None, micro_batch=3)
    assert not read


def test_the_time_before_the_epochs_grows_with_rows_and_iterations(stream, monkeypatch):
    """Of a second for each row read, and two for each row in an iteration."""

    class Timed:
        def __init__(self, _, rows, config, *others):
            self.rows = len(rows)
            assert config.max_iterations == 2

        def iterations(self):
            return [SimpleNamespace(seconds=self.rows), SimpleNamespace(seconds=2 * self.rows)]

    monkeypatch.setattr(phases, "Teacher", Timed)
    state = TrainState.create(CONFIG, model())
    config = replace(CONFIG, fixed_point=replace(PHASE_ONE, validation_passes=4))
    seconds = phases.preparation_seconds(state, stream(50), 9, config, True)
    # Contexts are read in both phases; those of the validation rows for their rank, too, and two starts for the reach.
    assert seconds == 50 * 2 + 9 * (4 + 3) + 2 * 50 * 3
