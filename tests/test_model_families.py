"""What every family of models must keep to, whatever it is inside."""

import dataclasses
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tune_newllm.artifacts.checkpoint import load_checkpoint
from tune_newllm.artifacts.export import export
from tune_newllm.artifacts.sizes import stored_bytes
from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.models import MODEL_FAMILIES, ModelConfig, build, parameter_count
from tune_newllm.models.protocol import is_quantised
from tune_newllm.sweep import memory_plan
from tune_newllm.training import metrics
from tune_newllm.training.config import Configuration, EarlyStoppingConfig, TrainingConfig
from tune_newllm.training.loop import evaluate, fit
from tune_newllm.training.memory import measure_step
from tune_newllm.training.run import Run
from tune_newllm.training.state import TrainState

VOCAB, WINDOW = 30, 12
SMALL = {
    "context_vector": ModelConfig(embed_dim=16, hidden_dim=24, ctx_dim=16, num_layers=2, init="he"),
    "fixed_point": ModelConfig(family="fixed_point", embed_dim=16, ctx_dim=16, num_layers=2, num_input_tokens=2),
    "gpt2": ModelConfig(family="gpt2", embed_dim=16, hidden_dim=24, num_layers=2, num_heads=2, num_positions=16),
}
TRAINING = TrainingConfig(
    lr=1e-2, batch_size=8, epochs=3, precision="fp32", device="cpu", early_stopping=EarlyStoppingConfig(9)
)
TIMES = {"tokens_per_s", "seconds", "peak_memory_bytes"}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(params=MODEL_FAMILIES, scope="module")
def config(request):
    """A small model of each family, without dropout."""
    return SMALL[request.param]


def rows(count, seed=0):
    """Windows of different lengths, padded on the right, whose next token mostly follows from the last one."""
    rng = np.random.default_rng(seed)
    windows = np.zeros((count, WINDOW), dtype=np.uint16)
    for row in windows:
        row[0] = rng.integers(4, VOCAB)
        for place in range(1, rng.integers(3, WINDOW + 1)):
            row[place] = rng.choice([1, (row[place - 1] * 7 + 1) % (VOCAB - 4) + 4], p=[0.2, 0.8])
    return windows


def tokens(batch, length, seed=0):
    return torch.randint(4, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def made(config):
    """A model whose weights, biases and gains are all away from their special initial values."""
    model, generator = build(config, VOCAB, seed=0), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0, 0.2, generator=generator))
    return model


def drawn_so_far():
    """The states of the generators that are everybody's."""
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return random.getstate(), numpy, torch.get_rng_state().tolist()


def numbers(history):
    return [{k: v for k, v in dataclasses.asdict(result).items() if k not in TIMES} for result in history]


@pytest.mark.parametrize("change", [{}, {"tied": True}, {"num_layers": 1}, {"num_layers": 5, "embed_dim": 24}], ids=str)
def test_the_formula_counts_the_parameters(config, change):
    config = replace(config, **change)
    count = sum(parameter.numel() for parameter in build(config, VOCAB, seed=0).parameters())
    assert count == parameter_count(config, VOCAB)


def test_predictions_depend_on_no_later_token(config):
    model = made(config)
    embedding = next(module for module in model.modules() if isinstance(module, nn.Embedding)).weight
    text = torch.arange(4, 12)[None]
    logits, _ = model(text)
    for t in range(8):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), embedding, retain_graph=True)
        reached = (gradient[4:12] != 0).any(1).tolist()
        assert reached[t]
        assert not any(reached[t + 1 :])
        # Gradients need not go all the way back; the memory must.
        other, _ = model(torch.where(torch.arange(8) == t, 20, text))
        assert torch.allclose(other[0, :t], logits[0, :t], rtol=1e-5, atol=1e-6)
        assert (other[0, t:] - logits[0, t:]).abs().amax(1).min() > 1e-5


def test_a_state_that_is_passed_on_equals_one_long_pass(config):
    """Also of texts longer than any window."""
    model, text = made(config).eval(), tokens(3, 40)
    with torch.no_grad():
        whole, _ = model(text)
        for cuts in ((5,), (1, 4, 39), range(1, 40)):
            state, parts = None, []
            for piece in torch.tensor_split(text, list(cuts), dim=1):
                again = model(piece, state)[0]
                part, state = model(piece, state)
                assert torch.equal(part, again), "reading on must leave the state before as it was"
                parts.append(part)
            torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=1e-4, atol=1e-5)


def test_a_few_texts_are_learnt_by_heart(config):
    texts = tokens(3, WINDOW).numpy().astype(np.uint16)
    texts[:, 0] = [5, 6, 7]
    training = replace(TRAINING, epochs=80, batch_size=3, early_stopping=None)
    state = TrainState.create(training, build(config, VOCAB, seed=0))
    results = list(fit(state, texts, texts, training))
    assert results[0].train_loss > 2
    assert results[-1].val_loss < 0.1
    assert results[-1].val_acc == 1


def test_equal_seeds_give_equal_numbers_and_nothing_else_is_drawn_from(config):
    config, histories = replace(config, dropout=0.2), []
    for elsewhere, seed in ((1, 0), (2, 0), (2, 5)):
        random.seed(elsewhere)
        torch.manual_seed(elsewhere)
        before = drawn_so_far()
        training = replace(TRAINING, seed=seed)
        state = TrainState.create(training, build(config, VOCAB, seed))
        histories.append(numbers(fit(state, rows(30), rows(10, seed=1), training)))
        assert before == drawn_so_far()
    assert histories[0] == histories[1]
    assert histories[0] != histories[2]


def test_dropout_makes_every_pass_another_one_but_in_evaluation(config):
    if config.family == "fixed_point":
        pytest.skip("it has no dropout")
    model, text = made(replace(config, dropout=0.2)), tokens(3, 11)
    model.dropout_generator = torch.Generator().manual_seed(0)
    first, second = model(text)[0], model(text)[0]
    assert not torch.allclose(first, second)
    model.dropout_generator.manual_seed(0)
    assert torch.equal(model(text)[0], first)
    model.eval()
    drawn = model.dropout_generator.get_state()
    assert torch.equal(model(text)[0], model(text)[0])
    model.inspect(text)
    assert torch.equal(model.dropout_generator.get_state(), drawn)


def test_neither_batch_nor_padding_changes_an_evaluation(config, monkeypatch):
    model, windows = made(config), rows(9)
    whole = evaluate(model, windows, device="cpu")
    assert evaluate(model, np.pad(windows, ((0, 0), (0, 5))), device="cpu").loss == pytest.approx(whole.loss, rel=1e-6)
    monkeypatch.setattr(metrics, "EVALUATION_ROWS", {"cpu": 2})
    parts = evaluate(model, windows, device="cpu")
    assert (parts.loss, parts.acc) == (pytest.approx(whole.loss, rel=1e-6), whole.acc)
    assert model.training


def test_a_micro_batch_changes_no_number(config):
    def trained(micro_batch):
        training = replace(TRAINING, epochs=1, micro_batch=micro_batch)
        state = TrainState.create(training, build(config, VOCAB, seed=0))
        result = next(fit(state, rows(20), rows(9, seed=1), training))
        return result.train_loss, result.val_loss, result.grad_norm

    assert trained(3) == pytest.approx(trained("auto"), rel=1e-5)


def test_what_a_step_needs_is_foretold_about(config):
    """A sweep measures no configuration whose rough size is far below the memory there is."""
    for change in ({}, {"dropout": 0.1}, {"num_layers": 4, "embed_dim": 64}):
        wanted = Configuration(CorpusConfig("toy", window=WINDOW), replace(config, **change), TRAINING)
        need = measure_step(wanted, VOCAB).need(TRAINING.batch_size)
        assert need < 1.5 * memory_plan._size(wanted, VOCAB, "cpu")


@pytest.fixture(scope="module")
def corpus():
    whole = prepare(CorpusConfig(name="toy", window=WINDOW, vocab_size=VOCAB))
    return replace(whole, train=whole.train[:64], validation=whole.validation[:16], test=whole.test[:16])


def configuration(config, **training):
    training = replace(TRAINING, batch_size=32, micro_batch=16, **training)
    return Configuration(CorpusConfig(name="toy", window=WINDOW, vocab_size=VOCAB), config, training)


@pytest.fixture(scope="module")
def trained(config, corpus, tmp_path_factory):
    """A finished run that never stopped."""
    run = Run(tmp_path_factory.mktemp("trained") / "run", configuration(replace(config, dropout=0.2)), corpus)
    list(run.epochs())
    return run


def test_a_resumed_run_is_bit_identical(trained, corpus, tmp_path):
    for _ in range(3):
        resumed = Run(tmp_path / "run", trained.configuration, corpus)
        epochs = resumed.epochs()
        next(epochs)
        epochs.close()
    assert numbers(resumed.history) == numbers(trained.history)
    assert resumed.finished == "epochs"
    ours, theirs = (run._state.model.state_dict() for run in (resumed, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "muon"])
def test_every_optimizer_trains_it(config, corpus, tmp_path, optimizer):
    asked = configuration(config, optimizer=optimizer, weight_decay=0.01, epochs=2)
    first, second = Run(tmp_path / optimizer, asked, corpus).epochs()
    assert second.train_loss < first.train_loss
    assert second.update_ratio > 0


def test_a_checkpoint_holds_the_best_weights(trained, corpus):
    checkpoint = load_checkpoint(trained.folder)
    weights = checkpoint.model.state_dict()
    assert all(torch.equal(weights[name], each) for name, each in trained._state.best.items())
    losses = [result.val_loss for result in trained.history]
    assert evaluate(checkpoint.model, corpus.validation, device="cpu").loss == pytest.approx(min(losses), rel=1e-6)


def test_transformers_reads_an_export_to_the_same_logits(trained, corpus, tmp_path, capfd):
    result = export(trained.folder, tmp_path / "exported", corpus=corpus, provenance={})
    assert capfd.readouterr() == ("", "")
    from transformers import AutoModelForCausalLM

    ours = load_checkpoint(trained.folder).model
    assert result.parameters == parameter_count(trained.configuration.model, len(corpus.tokenizer))
    remote = trained.configuration.model.family != "gpt2"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", trust_remote_code=remote)
    text = torch.from_numpy(corpus.validation[:4].astype(np.int64))
    with torch.no_grad():
        torch.testing.assert_close(theirs(text).logits, ours(text)[0], rtol=1e-4, atol=1e-5)
    again = load_checkpoint(tmp_path / "exported").model.state_dict()
    assert all(torch.equal(again[name], each) for name, each in ours.state_dict().items())


@pytest.mark.parametrize("kind", ["weights", "dynamic"])
def test_int8_weights_give_nearly_the_same_logits(trained, corpus, tmp_path, kind, capfd):
    """Here and in transformers, of whose logits the export itself makes sure."""
    pytest.importorskip("torchao")
    folder = tmp_path / "int8"
    result = export(trained.folder, folder, corpus=corpus, provenance={}, int8=kind)
    assert capfd.readouterr() == ("", "")
    before, after = load_checkpoint(trained.folder).model, load_checkpoint(folder).model
    linear = [each.weight for each in after.modules() if isinstance(each, nn.Linear)]
    assert linear
    assert all(map(is_quantised, linear))
    assert result.weight_bytes == stored_bytes(after) < stored_bytes(before) / 2
    text = torch.from_numpy(corpus.validation[:4].astype(np.int64))
    with torch.no_grad():
        whole, _ = after(text)
        first, state = after(text[:, :5])
        second, _ = after(text[:, 5:], state)
        difference = whole - before(text)[0]
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-4, atol=1e-5)
    assert 0 < difference.abs().mean() < 0.05 * whole.std()
