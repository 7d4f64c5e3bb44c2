"""The model of the fixed-point family: its equations, its sizes, its two ways of reading."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tune_newllm.models import ModelConfig, build, parameter_count
from tune_newllm.models import context_scan as scans
from tune_newllm.models.config import frozen_count
from tune_newllm.models.families import MODEL_FAMILIES
from tune_newllm.models.fixed_point import Contexts

ORIGINAL = ModelConfig(
    family="fixed_point", embed_dim=768, ctx_dim=768, num_layers=6, init="original", train_embedding=False
)
# The original's variants: parameters, those of the context block, those with a gradient in phase two.
PUBLISHED = [
    ({}, 91_429_969, 7_091_712, 45_740_881),
    ({"num_layers": 3}, 84_338_257, 3_545_856, 42_195_025),
    ({"token_input_all_layers": False}, 101_207_121, 15_394_304, 47_215_441),
    ({"tied": True}, 52_782_336, 7_091_712, 7_093_248),
]
VARIANTS = [
    {},
    {"token_input_all_layers": False},
    {"num_input_tokens": 3, "tied": True},
    {"num_input_tokens": 2, "blocks": 2, "token_input_all_layers": False, "train_embedding": False},
]


def made(config, vocab_size):
    with torch.device("meta"):
        return MODEL_FAMILIES["fixed_point"].make(config, vocab_size)


@pytest.mark.parametrize(("variant", "total", "context", "trained"), PUBLISHED, ids=lambda value: str(value))
def test_parameter_counts_are_the_published_ones(variant, total, context, trained):
    config = replace(ORIGINAL, **variant)
    model = made(config, 50_257)
    assert sum(each.numel() for each in model.parameters()) == parameter_count(config, 50_257) == total
    assert sum(each.numel() for each in model.context_blocks.parameters()) == context
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) == trained
    assert total - frozen_count(config, 50_257) == trained


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_formula_counts_every_variant(variant):
    config = replace(ORIGINAL, embed_dim=10, ctx_dim=12, num_layers=4, **variant)
    assert parameter_count(config, 31) == sum(each.numel() for each in made(config, 31).parameters())


def small(vocab_size=20, **variant):
    """A float64 model with every weight, bias and gain away from its first value, and with two embeddings."""
    config = replace(ORIGINAL, embed_dim=5, ctx_dim=6, num_layers=3, train_embedding=True)
    model = build(replace(config, **variant), vocab_size, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in [*model.parameters(), *model.buffers()]:
            if each.is_floating_point():
                each.normal_(0, 0.5, generator=generator)
    return model


def layer(name, context, token, kept, weights):
    """LN(R(kept) + ReLU(W [context; token] + b)) of one vector, by numpy."""
    read = np.concatenate([context, token])
    mixed = np.maximum(weights[f"{name}.mix.weight"] @ read + weights[f"{name}.mix.bias"], 0)
    if f"{name}.residual.weight" in weights:
        kept = weights[f"{name}.residual.weight"] @ kept + weights[f"{name}.residual.bias"]
    return normal(kept + mixed) * weights[f"{name}.norm.weight"] + weights[f"{name}.norm.bias"]


def normal(vector):
    return (vector - vector.mean()) / np.sqrt(vector.var() + 1e-5)


def by_the_equations(model, tokens, blocks, k, all_layers):
    """Logits and last context of one text, a token, a layer and a block at a time."""
    weights = {name: each.numpy() for name, each in model.state_dict().items()}
    trained = weights["embedding.weight"]
    drawn = weights.get("drawn_embedding", trained)
    gain, bias = weights["embed_norm.weight"], weights["embed_norm.bias"]
    contexts = [np.zeros(6 // blocks) for _ in range(blocks)]
    nothing, logits = np.zeros(5), []
    for t in range(len(tokens)):
        last = [tokens[t - ago] if t >= ago else None for ago in reversed(range(k))]
        seen = np.concatenate([nothing if each is None else normal(drawn[each]) for each in last])
        z = np.concatenate([nothing if each is None else normal(trained[each]) * gain + bias for each in last])
        after = []
        for index in range(3):
            token = seen if all_layers or index == 0 else seen[:0]
            names = [f"context_blocks.{block}.layers.{index}" for block in range(blocks)]
            contexts = [layer(name, c, token, c, weights) for name, c in zip(names, contexts, strict=True)]
            after.append(np.concatenate(contexts))
        for index, context in enumerate(after):
            z = layer(f"token_layers.{index}", context, z, z, weights)
        logits.append(trained @ z if model.output is None else weights["output.weight"] @ z + weights["output.bias"])
    return np.array(logits), np.concatenate(contexts)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_agrees_with_the_equations_and_goes_on_where_it_stopped(variant):
    model = small(**variant)
    tokens = torch.randint(20, (3, 11), generator=torch.Generator().manual_seed(1))
    options = variant.get("blocks", 1), variant.get("num_input_tokens", 1), variant.get("token_input_all_layers", True)
    logits, state = model(tokens)
    for row in range(3):
        wanted, context = by_the_equations(model, tokens[row].tolist(), *options)
        np.testing.assert_allclose(logits[row].detach(), wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(state.context_BD[row], context, rtol=1e-9, atol=1e-9)
    first, state = model(tokens[:, :4])
    second, state = model(tokens[:, 4:5], state)
    third, _ = model(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second, third], dim=1), logits)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_stream_is_read_in_segments_to_the_same_end(variant, monkeypatch):
    """Whatever the weights: these do not forget where they began within a segment, so that many rounds are needed."""
    monkeypatch.setattr(scans, "SEGMENT", 4)
    monkeypatch.setattr(scans, "SEGMENTS", {"cpu": 5})
    rounds = []
    read = scans._round
    monkeypatch.setattr(scans, "_round", lambda *arguments: (rounds.append(len(arguments[2])), read(*arguments)))
    model = small(**variant)
    tokens = torch.randint(20, (6, 9), generator=torch.Generator().manual_seed(1))
    begun = model(torch.tensor([[7, 8, 9]]))[1]
    whole, last = model.features(tokens.reshape(1, -1), begun)
    features, state = model.features_of_stream(tokens, begun)
    assert features.shape[:2] == (9, 6)
    torch.testing.assert_close(features.transpose(0, 1).reshape(54, -1), whole[:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(state.context_BD, last.context_BD, rtol=0, atol=1e-3)
    assert torch.equal(state.before_KB, last.before_KB)
    assert rounds[1] == 4, "the first segment is right from the start"
    assert rounds[2] < 4


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_contexts_read_before_give_the_same_features_and_gradients(variant):
    model = small(**variant)
    tokens = torch.randint(20, (3, 7), generator=torch.Generator().manual_seed(1))
    start = model.start(3, tokens.device)
    known = Contexts(model.read(tokens.t(), start), start.before_KB)
    trained = [each for each in model.parameters() if each.requires_grad]
    for state in (None, known):
        features, _ = model.features(tokens, state)
        gradients = torch.autograd.grad(features.sin().sum(), trained, allow_unused=True)
        results = [features, *(each for each in gradients if each is not None)]
        if state is None:
            wanted = results
    torch.testing.assert_close(results, wanted)
    # All but the output layer, which features do not pass.
    assert len(results) - 1 == len(trained) - (0 if model.output is None else 2)


def test_predictions_depend_on_no_later_token():
    """Through what is trained, the embedding, by gradients; through contexts, which have none, by changing a token."""
    model = small(vocab_size=9, num_input_tokens=2)
    tokens = torch.arange(8)[None]
    logits = model(tokens)[0].detach()
    for t in range(8):
        model.zero_grad()
        model(tokens)[0][0, t].square().sum().backward()
        assert not model.embedding.weight.grad[t + 1 : 8].any()
        changed = model(tokens.clone().index_fill_(1, torch.tensor([t]), 8))[0]
        same = (changed == logits).all(-1)[0]
        assert same.tolist() == [position < t for position in range(8)]


def test_inspection_looks_at_the_contexts_of_words():
    model = small(vocab_size=9)
    signals = model.inspect(torch.tensor([[3, 4, 5], [6, 0, 0]]))
    contexts = [model(torch.tensor([ids]))[1].context_BD[0].numpy() for ids in ([3], [3, 4], [3, 4, 5], [6])]
    singular = np.linalg.svd(np.stack(contexts), compute_uv=False)
    shares = singular / singular.sum()
    assert signals.dead_relu is None
    assert signals.ctx_norm == pytest.approx(np.mean([np.linalg.norm(each) for each in contexts]))
    assert signals.ctx_rank == pytest.approx(np.prod(shares**-shares))


@pytest.mark.parametrize("init", ["original", "he", "orthogonal"])
def test_first_weights(init):
    model = build(replace(ORIGINAL, embed_dim=64, ctx_dim=64, init=init, train_embedding=True), 500, seed=0)
    assert not model.output.weight.any()
    assert not model.output.bias.any()
    assert torch.equal(model.embedding.weight, model.drawn_embedding)
    mix = model.context_blocks[0].layers[2].mix
    std, bias = {"original": (0.1, 0.01), "he": (1 / 8, 0), "orthogonal": (1 / 8, 0)}[init]
    assert float(mix.weight.detach().std()) == pytest.approx(std, rel=0.05)
    assert float(mix.bias.detach().std()) == pytest.approx(bias, rel=0.2)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [("num_input_tokens", 4, "1, 2 or 3"), ("blocks", 5, "divide"), ("train_embedding", 1, "true or false")],
)
def test_refuses_by_name_and_value(field, value, rule):
    with pytest.raises(ValueError, match=rf"model\.{field} must .*{rule}.*, got {value}"):
        replace(ORIGINAL, **{field: value})


def test_the_embedding_of_gpt2_has_its_length():
    with pytest.raises(ValueError, match=r"embed_dim must be 768 .* got 64"):
        replace(ORIGINAL, embedding="gpt2", embed_dim=64)
