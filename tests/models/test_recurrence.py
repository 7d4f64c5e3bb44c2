import pytest
import torch

from tune_newllm.models.recurrence import Cell, scan

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


def run(inputs, state, context, *rest, dropout=0.0, residual=False):
    *layers, wg, bg, gain, shift = rest
    # A wide gain, so that the clamp binds at some places.
    cell = Cell(context, list(zip(layers[::2], layers[1::2], strict=True)), (wg, bg), (gain * 12, shift), residual)
    return scan(inputs, state, cell, dropout, torch.Generator().manual_seed(1))


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
