import pytest
import torch
from torch.nn import functional

from tune_newllm.models import ModelConfig, build


def gradients(model, length=63):
    """Norms of the gradients of every feed-forward weight and of the output bias, from random tokens."""
    tokens = torch.randint(model.vocab_size, (8, length + 1), generator=torch.Generator().manual_seed(1))
    logits, _ = model.eval()(tokens[:, :-1])
    functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    return [float(layer.weight.grad.norm()) for layer in model.layers], float(model.output.bias.grad.norm())


def test_original_init_lets_the_gradients_of_deep_models_vanish():
    layers, bias = gradients(build(ModelConfig(ctx_dim=512, num_layers=12, init="original"), 1000, seed=0))
    # Published: 1.9e-6, 1.7e-6 and 4.5e-2.
    assert 1e-6 < layers[0] < 4e-6
    assert 1e-6 < layers[-1] < 4e-6
    assert bias == pytest.approx(4.5e-2, rel=0.05)


def test_he_init_does_not():
    layers, bias = gradients(build(ModelConfig(ctx_dim=512, num_layers=12, init="he"), 1000, seed=0))
    assert min(layers[0], layers[-1]) > bias


@pytest.mark.parametrize("variant", [{}, {"tied": True}, {"tied": True, "embed_dim": 512}], ids=str)
@pytest.mark.parametrize("init", ["he", "orthogonal"])
def test_the_signal_keeps_unit_size(init, variant):
    model = build(ModelConfig(num_layers=12, init=init, **variant), 1000, seed=0).eval()
    tokens = torch.randint(1000, (8, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits, state = model(tokens)
    assert 0.5 < logits.std() < 1.5
    assert 0.9 < state.std() < 1.1


def deep(**settings):
    return build(ModelConfig(embed_dim=32, hidden_dim=64, ctx_dim=32, num_layers=48, **settings), 100, seed=0)


@pytest.mark.parametrize(
    "settings", [{}, {"init": "he", "ffn": "residual"}, {"init": "orthogonal", "ffn": "residual"}], ids=str
)
def test_at_depth_48_signal_and_gradients_neither_vanish_nor_explode(settings):
    model = deep(**settings)
    layers, bias = gradients(model, length=10)
    assert bias < min(layers) < max(layers) < 3 * min(layers) < 10
    with torch.no_grad():
        assert 0.5 < model(torch.arange(100)[:, None])[0].std() < 2


def test_orthogonal_init_keeps_different_tokens_apart():
    """With `he` nearly nothing is left of their differences behind 48 layers."""
    alike = {}
    for init in ("he", "orthogonal"):
        model = deep(init=init)
        with torch.no_grad():
            hidden = functional.normalize(model.features(torch.arange(100)[:, None])[0][0])
        alike[init] = float((hidden @ hidden.T).mean())
    assert alike["he"] > 0.97
    assert alike["orthogonal"] < 0.75


@pytest.mark.parametrize("sizes", [(5, 6, 3), (20, 8, 3), (9, 15, 7), (3, 2, 1), (4, 1, 2)], ids=str)
def test_orthogonal_layers_are_an_isometry_for_every_shape(sizes):
    embed, hidden, ctx = sizes
    config = ModelConfig(embed_dim=embed, hidden_dim=hidden, ctx_dim=ctx, num_layers=9, init="orthogonal")
    model, half = build(config, 11, seed=3).double(), hidden // 2
    inputs = torch.randn(7, embed + ctx, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    differences = []
    units = torch.cat([inputs, -inputs, inputs[:1] + inputs[1:2]])
    for layer in model.layers:
        units = layer(units).relu()
        differences.append(units[:, :half] - units[:, half : 2 * half])
    torch.testing.assert_close(differences[-1].norm(dim=1), differences[0].norm(dim=1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(differences[-1][:7], -differences[-1][7:14], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(differences[-1][:2].sum(dim=0), differences[-1][14], rtol=1e-5, atol=1e-5)
    # The mean square that a unit-size input gives: 2 before a ReLU, which halves it, and 1 behind a head.
    assert model.layers[0].weight[:half].square().sum().item() == pytest.approx(2 * half)
    assert model.gates.weight.square().sum().item() == pytest.approx(3 * ctx)
    matrix = model.gates.weight if 3 * ctx <= hidden else model.gates.weight.T
    gram = matrix @ matrix.T
    torch.testing.assert_close(gram, gram[0, 0] * torch.eye(len(gram), dtype=torch.float64), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("init", ["original", "he", "orthogonal"])
def test_weights_come_from_the_seed_alone(init):
    before = torch.get_rng_state()
    config = ModelConfig(embed_dim=8, hidden_dim=9, ctx_dim=8, init=init)
    first, same, other = (build(config, 50, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, same.state_dict()[name])
    for name in ("embedding", "layers.0", "layers.3", "gates", "output"):
        assert not torch.equal(first.get_parameter(f"{name}.weight"), other.get_parameter(f"{name}.weight"))


@pytest.mark.parametrize("settings", [{}, {"init": "he", "ffn": "residual", "dropout": 0.1}], ids=str)
def test_depth_48_learns(settings):
    """Counting by fives, modulo 16: ln 16 = 2.77 is what a model reaches that sees no difference between tokens."""
    config = ModelConfig(embed_dim=16, hidden_dim=32, ctx_dim=8, num_layers=48, **settings)
    model = build(config, 16, seed=0).train()
    model.dropout_generator = torch.Generator().manual_seed(0)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-3), torch.Generator().manual_seed(1)
    losses = []
    for _ in range(40):
        texts = (torch.randint(16, (32, 1), generator=generator) + 5 * torch.arange(3)) % 16
        optimizer.zero_grad()
        losses.append(functional.cross_entropy(model(texts[:, :-1])[0].flatten(0, 1), texts[:, 1:].flatten()))
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert losses[-1] < 0.5
