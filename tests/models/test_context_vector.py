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


def small(vocab_size=13, dropout=0.0, num_layers=3):
    """A float64 model with every weight, bias and gain away from its special initial value."""
    model = ContextVectorModel(vocab_size, 5, 7, 4, num_layers, dropout).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.7, generator=generator)
        model.norm.weight.mul_(15)
    return model


def step_by_step(model, tokens, state, keeps=None):
    """The published equations, one time step and one head at a time. `keeps[layer][t]` is a dropout mask."""
    weights = dict(model.named_parameters())
    logits = []
    for t in range(tokens.shape[1]):
        hidden = torch.cat([weights["embedding.weight"][tokens[:, t]], state], dim=1)
        for layer in range(len(model.layers)):
            hidden = hidden @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"]
            hidden = torch.where(hidden > 0, hidden, 0)
            if keeps is not None:
                hidden = hidden * keeps[layer][t] / (1 - model.dropout)
        logits.append(hidden @ weights["output.weight"].T + weights["output.bias"])
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
        words = torch.empty(-(-units // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
        yield (words.view(torch.int16)[:units].view(steps, batch, 7) >= model.dropout * 65536 - 32768).double()


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("vocab_size", [13, 100], ids=["more tokens than words", "more words than tokens"])
def test_agrees_with_the_equations(dropout, vocab_size):
    model, batch, steps = small(vocab_size, dropout), 4, 9
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


def test_evaluation_agrees_with_the_equations():
    model = small(dropout=0.5).eval()
    tokens = torch.randint(13, (4, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = step_by_step(model, tokens, torch.zeros(4, 4, dtype=torch.float64))
        torch.testing.assert_close(model(tokens), expected, rtol=1e-10, atol=1e-10)


def test_carried_state_continues_where_it_stopped():
    model = small(vocab_size=20)
    tokens = torch.randint(20, (3, 8), generator=torch.Generator().manual_seed(0))
    whole, last = model(tokens)
    first, state = model(tokens[:, :5])
    second, carried = model(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(carried, last, rtol=1e-12, atol=1e-12)


def test_predictions_depend_on_no_later_token():
    model = small(vocab_size=8)
    tokens = torch.arange(8)[None]
    for t in range(8):
        model.zero_grad()
        model(tokens)[0][0, t].square().sum().backward()
        reached = model.embedding.weight.grad.abs().sum(1) > 0
        assert reached.tolist() == [position <= t for position in range(8)]


def gradient_norms(init):
    """Of the first and last feed-forward weight and the output bias, at 12 layers and context 512."""
    model = build(ModelConfig(ctx_dim=512, num_layers=12, init=init), 1000, seed=0).eval()
    tokens = torch.randint(1000, (8, 64), generator=torch.Generator().manual_seed(1))
    logits, _ = model(tokens[:, :-1])
    functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    parameters = model.layers[0].weight, model.layers[-1].weight, model.output.bias
    return [float(parameter.grad.norm()) for parameter in parameters]


def test_original_init_lets_the_gradients_of_deep_models_vanish():
    first, last, bias = gradient_norms("original")
    # Published: 1.9e-6, 1.7e-6 and 4.5e-2.
    assert 1e-6 < first < 4e-6
    assert 1e-6 < last < 4e-6
    assert bias == pytest.approx(4.5e-2, rel=0.05)


def test_he_init_does_not():
    first, last, bias = gradient_norms("he")
    assert first > bias
    assert last > bias


def test_he_init_keeps_the_signal_at_unit_size():
    model = build(ModelConfig(num_layers=12), 1000, seed=0).eval()
    tokens = torch.randint(1000, (8, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, state = model(tokens)
    assert 0.5 < logits.std() < 1.5
    assert 0.9 < state.std() < 1.1


def test_weights_come_from_the_seed_alone():
    before = torch.get_rng_state()
    first, same, other = (build(ModelConfig(embed_dim=8, hidden_dim=8, ctx_dim=8), 50, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    assert not torch.equal(first.output.weight, other.output.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocab_size", [50, 500])
def test_autocast_stays_close_to_full_precision(dtype, vocab_size):
    model = build(ModelConfig(embed_dim=32, hidden_dim=64, ctx_dim=32, num_layers=3, dropout=0.2), vocab_size, seed=0)
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
