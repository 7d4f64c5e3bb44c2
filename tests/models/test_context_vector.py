from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from tune_newllm.models import ModelConfig, build, parameter_count
from tune_newllm.models.context_vector import ContextVectorModel

# (context, layers): parameters, as published for V = 1000, E = 256, H = 512.
PUBLISHED = {
    (256, 1): 1_426_152,
    (256, 4): 2_214_120,
    (256, 5): 2_476_776,
    (256, 6): 2_739_432,
    (256, 7): 3_002_088,
    (256, 12): 4_315_368,
    (256, 24): 7_467_240,
    (512, 6): 3_265_000,
    (512, 12): 4_840_936,
    (512, 24): 7_992_808,
    (512, 48): 14_296_552,
    (1024, 6): 4_316_136,
    (1024, 12): 5_892_072,
    (1024, 24): 9_043_944,
    (2048, 6): 6_418_408,
    (2048, 12): 7_994_344,
    (2048, 24): 11_146_216,
    (2048, 48): 17_449_960,
}


@pytest.mark.parametrize(("ctx_dim", "num_layers"), PUBLISHED)
def test_parameter_counts_are_the_published_ones(ctx_dim, num_layers):
    with torch.device("meta"):
        model = ContextVectorModel(1000, 256, 512, ctx_dim, num_layers, 0.1)
    published = PUBLISHED[ctx_dim, num_layers]
    assert sum(parameter.numel() for parameter in model.parameters()) == published
    assert parameter_count(ModelConfig(ctx_dim=ctx_dim, num_layers=num_layers), 1000) == published


@pytest.mark.parametrize(("hidden_dim", "own"), [(24, 0), (20, 20 * 24)])
def test_a_tied_model_has_no_output_matrix(hidden_dim, own):
    """The output is left with its bias, and a projection from H to E = 24 where these differ."""
    config = ModelConfig(embed_dim=24, hidden_dim=hidden_dim, ctx_dim=8, num_layers=2, tied=True)
    count = sum(parameter.numel() for parameter in build(config, 50, seed=0).parameters())
    assert count == parameter_count(config, 50)
    assert count == parameter_count(replace(config, tied=False), 50) - hidden_dim * 50 + own


def small(vocab_size=13, dropout=0.0, num_layers=3, **variant):
    """A float64 model with every weight, bias and gain away from its special initial value."""
    model = ContextVectorModel(vocab_size, 5, 7, 4, num_layers, dropout, **variant).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
        model.norm.weight.mul_(25)
    return model


def step_by_step(model, tokens, state, keeps=None):
    """The published equations, one time step and one head at a time. `keeps[layer][t]` is a dropout mask."""
    weights = dict(model.named_parameters())
    logits = []
    output = weights.get("output.weight")
    if output is None:
        output = weights["embedding.weight"] @ weights["output.projection.weight"] / 5**0.5
    for t in range(tokens.shape[1]):
        hidden = torch.cat([weights["embedding.weight"][tokens[:, t]], state], dim=1)
        for layer in range(len(model.layers)):
            below = hidden if layer and model.ffn == "residual" else 0
            hidden = hidden @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
            hidden = torch.where(hidden > 0, hidden, 0)
            if keeps is not None:
                hidden = hidden * keeps[layer][t] / (1 - model.dropout)
            hidden = below + hidden
        logits.append(hidden @ output.T + weights["output.bias"])
        heads = zip(weights["gates.weight"].split(4), weights["gates.bias"].split(4), strict=True)
        delta, f, g = (hidden @ weight.T + bias for weight, bias in heads)
        mixed = state / (1 + torch.exp(-f)) + delta / (1 + torch.exp(-g))
        centred = mixed - mixed.mean(1, keepdim=True)
        normal = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        state = (normal * weights["norm.weight"] + weights["norm.bias"]).clamp(-10, 10)
    return torch.stack(logits, dim=1), state


def masks(model, steps, batch, seed):
    """The dropout masks of a forward pass: for each layer 16 random bits per unit, dropped when lowest."""
    generator, units = torch.Generator().manual_seed(seed), steps * batch * 7
    for _ in model.layers:
        stream = np.random.SFC64(torch.empty((), dtype=torch.int64).random_(generator=generator).item())
        bits = np.frombuffer(stream.random_raw(-(-units // 4)).tobytes(), dtype=np.int16)[:units]
        yield torch.from_numpy(bits.reshape(steps, batch, 7) >= model.dropout * 65536 - 32768).double()


VARIANTS = [{}, {"ffn": "residual"}, {"tied": True}]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("vocab_size", [13, 100], ids=["more tokens than words", "more words than tokens"])
def test_agrees_with_the_equations(dropout, vocab_size, variant):
    model, batch, steps = small(vocab_size, dropout, **variant), 4, 9
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(13, (batch, steps), generator=generator)
    state = torch.randn(batch, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    model.dropout_generator = torch.Generator().manual_seed(5)
    keeps = list(masks(model, steps, batch, seed=5)) if dropout else None

    variables = [state, *model.parameters()]
    ours, theirs = model(tokens, state), step_by_step(model, tokens, state, keeps)
    assert ours[1].abs().max() == 10, "the clamp should be exercised"
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    gradients = (
        torch.autograd.grad(logits.sin().sum() + (state * 3).sin().sum(), variables) for logits, state in (ours, theirs)
    )
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_evaluation_agrees_with_the_equations(variant):
    model = small(dropout=0.5, **variant).eval()
    tokens = torch.randint(13, (4, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = step_by_step(model, tokens, torch.zeros(4, 4, dtype=torch.float64))
        torch.testing.assert_close(model(tokens), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("vocab_size", "variant"), [(50, {}), (500, {}), (500, {"ffn": "residual", "tied": True})])
def test_autocast_stays_close_to_full_precision(dtype, vocab_size, variant):
    sizes = {"embed_dim": 32, "hidden_dim": 64, "ctx_dim": 32, "num_layers": 3}
    model = build(ModelConfig(**sizes, dropout=0.2, **variant), vocab_size, seed=0)
    tokens = torch.randint(50, (8, 20), generator=torch.Generator().manual_seed(1))

    def run(enabled):
        model.zero_grad()
        model.dropout_generator = torch.Generator().manual_seed(3)
        with torch.autocast("cpu", dtype, enabled=enabled):
            logits, state = model(tokens[:, :-1])
        functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
        return logits, state, torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    logits, state, gradient = run(enabled=True)
    full_logits, full_state, full_gradient = run(enabled=False)
    assert (logits.dtype, state.dtype, gradient.dtype) == (dtype, torch.float32, torch.float32)
    assert (logits - full_logits).abs().mean() < 0.03
    assert (state - full_state).abs().mean() < 0.03
    assert functional.cosine_similarity(gradient, full_gradient, dim=0) > 0.98
    with torch.autocast("cpu", dtype), torch.no_grad():
        assert model.eval()(tokens)[1].dtype == torch.float32


def test_autocast_sums_the_gradient_of_a_frequent_word_precisely():
    model = build(ModelConfig(embed_dim=16, hidden_dim=16, ctx_dim=16, num_layers=1), 50, seed=0).eval()
    tokens = torch.full((200, 10), 1)

    def gradient(enabled):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits, _ = model(tokens)
        functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten()).backward()
        return model.embedding.weight.grad[1]

    full = gradient(enabled=False)
    assert (gradient(enabled=True) - full).norm() < 0.05 * full.norm()


def test_inspection_agrees_with_the_definitions():
    model = small(vocab_size=20, dropout=0.5, num_layers=2, ffn="residual").float()
    model.dropout_generator = torch.Generator().manual_seed(0)
    drawn = model.dropout_generator.get_state()
    with torch.no_grad():
        # Two units of the first layer never fire; one of the second fires for token 3 alone, so it is not dead.
        model.layers[0].bias[:2] = -1e6
        model.layers[1].bias[4] = -1e3
        model.layers[0].weight[6] = 0
        model.layers[0].weight[6, 0] = 2e3
        model.layers[1].weight[4, 6] = 1
        model.embedding.weight[:, 0] = -1
        model.embedding.weight[3, 0] = 1
    tokens = torch.tensor([[1, 2, 4, 5], [6, 7, 3, 8], [9, 9, 0, 0]])
    with torch.autocast("cpu", torch.bfloat16):
        signals = model.inspect(tokens)
    assert model.training
    assert torch.equal(model.dropout_generator.get_state(), drawn)

    contexts, units = [], []
    for layer in model.layers:
        layer.register_forward_hook(lambda layer, inputs, output: units.append(output > 0))
    for row in tokens:
        state = torch.zeros(1, 4)
        for token in row[row > 0]:
            first = model.layers[0](torch.cat([model.embedding(token)[None], state], dim=1)).relu()
            model.layers[1](first)
            state = model.eval()(token.view(1, 1), state)[1]
            contexts.append(state[0])
    alive = torch.cat([torch.cat(units[layer::2]).any(dim=0) for layer in (0, 1)])
    assert alive[[0, 1, 7 + 4]].tolist() == [False, False, True]
    assert signals.dead_relu == pytest.approx(1 - float(alive.float().mean()))
    matrix = torch.stack(contexts).detach().double().numpy()
    assert signals.ctx_norm == pytest.approx(np.sqrt((matrix**2).sum(1)).mean(), rel=1e-5)
    shares = np.sqrt(np.linalg.eigvalsh(matrix.T @ matrix).clip(0))
    shares /= shares.sum()
    assert signals.ctx_rank == pytest.approx(np.prod(shares**-shares), rel=1e-4)


def test_the_rank_of_contexts_that_are_all_zero_is_zero():
    model = small()
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.zero_()
    assert model.inspect(torch.tensor([[1, 2]]))[1:] == (0, 0)


def test_the_widest_and_deepest_model_runs():
    model = build(ModelConfig(embed_dim=8, hidden_dim=16, ctx_dim=2048, num_layers=48), 20, seed=0)
    logits, state = model(torch.arange(6).view(2, 3))
    logits.sum().backward()
    assert state.shape == (2, 2048)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
