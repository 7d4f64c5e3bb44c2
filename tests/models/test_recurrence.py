import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tune_newllm.models import products
from tune_newllm.models.products import Packed, factor, packing_pays
from tune_newllm.models.recurrence import Cell, random_bits, scan

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
NUMBERS = ["fp32", "bf16"]
TOLERANCE = {"fp32": 2e-3, "bf16": 0.5}
STEPS, BATCH, HIDDEN, CTX = 4, 3, 5, 3


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=GENERATOR, requires_grad=True)


GENERATOR = torch.Generator().manual_seed(0)
WEIGHTS = [
    draw(HIDDEN, CTX),
    *(draw(HIDDEN, HIDDEN), draw(HIDDEN)),
    *(draw(HIDDEN, HIDDEN), draw(HIDDEN)),
    *(draw(3 * CTX, HIDDEN), draw(3 * CTX)),
    *(draw(CTX), draw(CTX)),
]


def run(inputs, state, context, *rest, dropout=0.0, residual=False, device="cpu"):
    *layers, wg, bg, gain, shift = rest
    # A wide gain, so that the clamp binds at some places.
    cell = Cell(context, list(zip(layers[::2], layers[1::2], strict=True)), (wg, bg), (gain * 12, shift), residual)
    return scan(inputs, state, cell, dropout, torch.Generator(device).manual_seed(1))


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_derivative_agrees_with_finite_differences(residual, dropout):
    variables = (draw(STEPS, BATCH, HIDDEN), draw(BATCH, CTX), *WEIGHTS)
    assert run(*variables, residual=residual)[1].abs().max() == 10
    assert torch.autograd.gradcheck(lambda *v: run(*v, dropout=dropout, residual=residual), variables)


def test_derivative_of_one_step_and_of_one_layer():
    one_layer = [WEIGHTS[0], *WEIGHTS[-4:]]
    for steps, weights in ((1, WEIGHTS), (2, one_layer)):
        variables = (draw(steps, BATCH, HIDDEN), draw(BATCH, CTX), *weights)
        assert torch.autograd.gradcheck(lambda *v: run(*v, residual=True), variables)


@pytest.mark.parametrize("residual", [False, True])
def test_reading_without_gradients_gives_the_same_numbers(residual):
    inputs, state = draw(STEPS, BATCH, HIDDEN), draw(BATCH, CTX)
    learnt = run(inputs, state, *WEIGHTS, residual=residual)
    with torch.no_grad():
        read = run(inputs, state, *WEIGHTS, residual=residual)
    torch.testing.assert_close(read, tuple(x.detach() for x in learnt), rtol=1e-12, atol=1e-12)


def test_dropout_zeroes_the_asked_share_and_scales_the_rest():
    width = 2000
    cell = Cell(torch.zeros(width, 1), [], (torch.zeros(3, width), torch.zeros(3)), (torch.ones(1), torch.zeros(1)))
    with torch.no_grad():
        hidden, _ = scan(torch.ones(10, 10, width), torch.zeros(10, 1), cell, 0.25, torch.Generator().manual_seed(0))
    dropped = hidden == 0
    torch.testing.assert_close(hidden[~dropped], torch.full((int((~dropped).sum()),), 4 / 3))
    # 200,000 draws: four standard deviations of the share are 0.0039. Also at each step alone: masks are not reused.
    assert abs(dropped.float().mean() - 0.25) < 0.004
    assert (dropped[0] != dropped[1]).float().mean() > 0.3


def test_dropout_draws_from_its_generator_alone():
    inputs, state = draw(STEPS, BATCH, HIDDEN), draw(BATCH, CTX)
    before = torch.get_rng_state()
    first, second = (run(inputs, state, *WEIGHTS, dropout=0.5)[0] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def reference(inputs, state, context, *rest, keeps, scale, residual):
    """The published equations in float64 and autograd, a step at a time; `keeps[layer][t]` are masks."""
    *layers, wg, bg, gain, shift = rest
    hiddens = []
    for t, step in enumerate(inputs):
        hidden = scale * keeps[0][t] * (step + state @ context.T).relu()
        for layer, (weight, bias) in enumerate(zip(layers[::2], layers[1::2], strict=True), 1):
            units = scale * keeps[layer][t] * (hidden @ weight.T + bias).relu()
            hidden = hidden + units if residual else units
        hiddens.append(hidden)
        delta, f, g = (hidden @ wg.T + bg).chunk(3, dim=1)
        mixed = f.sigmoid() * state + g.sigmoid() * delta
        normal = torch.nn.functional.layer_norm(mixed, mixed.shape[1:], gain * 12, shift)
        state = normal.clamp(-10, 10)
    return torch.stack(hiddens), state


@pytest.fixture(params=[False, True], ids=["plain", "packed"])
def packed(request, monkeypatch):
    """With matrices of any size packed, or none."""
    if request.param and not packing_pays(torch.float32, several_threads=True):
        pytest.skip("this torch has no packed products")
    monkeypatch.setattr(products, "PACKED_SIZE", 0)
    monkeypatch.setattr(products, "packing_pays", lambda dtype, several: request.param and dtype == torch.float32)


@pytest.mark.usefixtures("packed")
@settings(max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    steps=st.integers(1, 9), batch=st.integers(1, 9), hidden=st.integers(1, 20), ctx=st.integers(4, 12),
    further=st.integers(0, 3), dropout=st.sampled_from([0.0, 0.1, 0.5]), residual=st.booleans(),
    seed=st.integers(0, 99), number=st.sampled_from(NUMBERS), device=st.sampled_from(DEVICES),
)  # fmt: skip
def test_any_shape_agrees_with_the_reference_in_float64(
    steps, batch, hidden, ctx, further, dropout, residual, seed, number, device
):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(steps, batch, hidden), (batch, ctx), (hidden, ctx)]
    shapes += [shape for _ in range(further) for shape in ((hidden, hidden), (hidden,))]
    shapes += [(3 * ctx, hidden), (3 * ctx,), (ctx,), (ctx,)]
    exact = [torch.randn(*each, generator=generator, dtype=torch.float64) / max(each[-1], 4) ** 0.5 for each in shapes]
    # With a wide gain, or a norm over two numbers, a step may magnify rounding a thousandfold.
    exact[-2] = 0.1 + exact[-2] / 24
    ours = [each.to(device, torch.float32).requires_grad_() for each in exact]
    exact = [each.requires_grad_() for each in exact]
    source = torch.Generator(device).manual_seed(1)
    dropped = round(dropout * 65536)
    shape = torch.Size(shapes[0])
    keeps = [
        (random_bits(shape, torch.device(device), source) >= dropped - 32768).double().cpu()
        if dropped
        else torch.ones(shape)
        for _ in range(further + 1)
    ]
    outputs = reference(*exact, keeps=keeps, scale=65536 / (65536 - dropped), residual=residual)
    with torch.autocast(device, dtype=torch.bfloat16, enabled=number == "bf16"):
        got = run(*ours, dropout=dropout, residual=residual, device=device)
    # The cosine of what comes out and of all gradients, for rounding may flip single units.
    weights = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in outputs]
    sums = [
        sum((each.cpu() * weight).sum() for each, weight in zip(pair, weights, strict=True)) for pair in (got, outputs)
    ]
    gradients = [torch.autograd.grad(total, each) for total, each in zip(sums, (ours, exact), strict=True)]
    for mine, theirs in ((got, outputs), gradients):
        mine, theirs = (torch.cat([each.detach().double().cpu().flatten() for each in part]) for part in (mine, theirs))
        assert (mine - theirs).norm() <= TOLERANCE[number] * theirs.norm() + 1e-5


def test_packed_products_are_used_for_large_matrices_alone_and_left_where_they_are_wrong(monkeypatch):
    monkeypatch.setattr(products, "packing_pays", lambda dtype, several: True)
    kinds = {
        (size, batch): type(factor(torch.ones(size, size), batch)) for size in (256, 512) for batch in (1, 32, 1024)
    }
    assert {key for key, kind in kinds.items() if kind is Packed} == {(512, 32)}
    monkeypatch.undo()
    monkeypatch.setattr(Packed, "times", lambda self, x: torch.zeros(len(x), 32))
    assert not packing_pays.__wrapped__(torch.float32, several_threads=True)
