"""The part of the context-vector model that must run one time step after the other.

One step is a dozen small operations, so the cost of starting them counts as much as the arithmetic. Training therefore
goes through one autograd function with a backward pass of its own: nothing is recorded per step, and whatever does not
depend on the step before (dropout masks, slopes of the gates, weight gradients) is computed for all steps at once.

Shape suffixes: B sequences, T time steps, H hidden, C context, G = 3C gates, x any size.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .products import factor

LIMIT = 10.0
"""The context is clamped to +-LIMIT."""
EPS = 1e-5
"""Of the layer norm."""

_layer_norm_backward = torch.ops.aten.native_layer_norm_backward.default
_clamp_backward = torch.ops.aten.hardtanh_backward.default
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class Cell(NamedTuple):
    """The weights of one time step; matrices are [out, in]."""

    context_weight: Tensor
    """Context's share of the first layer, [H, C]; its bias is part of the inputs."""
    layers: list[tuple[Tensor, Tensor]]
    """Weight [H, H] and bias [H] of the further feed-forward layers."""
    gates: tuple[Tensor, Tensor]
    """Weight [3C, H] and bias [3C] of the heads for delta, f and g."""
    norm: tuple[Tensor, Tensor]
    """Gain and bias of the layer norm, [C]."""
    residual: bool = False
    """Whether every further layer adds its units to what it read."""


class Reading(NamedTuple):
    """What one time step computes."""

    units: list[Tensor]
    """Of each layer, after its ReLU and before anything is added, [B, H]."""
    hidden_BH: Tensor
    """What the heads read: the last layer's units, or with `residual` the sum over all layers."""
    state_BC: Tensor
    """Context after the step."""


def scan(
    inputs_TBH: Tensor, state_BC: Tensor, cell: Cell, dropout: float = 0.0, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Run all time steps; differentiable with respect to inputs, state and weights.

    Matrix products run in autocast's type where autocast is on; the state keeps its own type.

    Args:
        inputs_TBH: what the first layer adds to the context's share before its ReLU: projected embeddings and bias.
        state_BC: context before the first step, float32 or wider.
        cell: the weights.
        dropout: probability, in steps of 1/65536, that a unit is zeroed after each ReLU; 0 draws nothing.
        generator: source of the dropout masks; None means torch's default generator.

    Returns:
        hidden_TBH: what the heads read (after dropout) at every step, the last layer's units or with `residual` the sum
        over all layers; state_BC: context after the last step.
    """
    device = inputs_TBH.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs_TBH.dtype
    dropped = min(round(dropout * 65536), 65535)
    # Dropout scales what it keeps by 1/(1-p). As ReLU(s z) = s ReLU(z), inputs and weights can carry the factor.
    scale = 65536 / (65536 - dropped)

    def prepare(tensor: Tensor) -> Tensor:
        return (tensor * scale if dropped else tensor).to(dtype)

    cell = Cell(
        context_weight=prepare(cell.context_weight),
        layers=[(prepare(weight), prepare(bias)) for weight, bias in cell.layers],
        gates=(cell.gates[0].to(dtype), cell.gates[1].to(dtype)),
        norm=(cell.norm[0].to(state_BC.dtype), cell.norm[1].to(state_BC.dtype)),
        residual=cell.residual,
    )
    inputs_TBH = prepare(inputs_TBH)
    with torch.autocast(device, enabled=False):
        if dropped or torch.is_grad_enabled():
            layers = [tensor for layer in cell.layers for tensor in layer]
            weights = (cell.context_weight, *layers, *cell.gates, *cell.norm)
            result: tuple[Tensor, Tensor] = _Scan.apply(  # type: ignore[no-untyped-call]
                dropped, generator, cell.residual, inputs_TBH, state_BC, *weights
            )
            return result
        hidden_TBH = torch.empty_like(inputs_TBH)
        for hidden_BH, reading in zip(hidden_TBH.unbind(), read(inputs_TBH, state_BC, cell), strict=True):
            hidden_BH.copy_(reading.hidden_BH)
        return hidden_TBH, reading.state_BC


def read(inputs_TBH: Tensor, state_BC: Tensor, cell: Cell) -> Iterator[Reading]:
    """The plain loop, without dropout or derivative: nothing is kept from step to step but the context."""
    gate_weight, gate_bias = cell.gates
    for inputs_BH in inputs_TBH.unbind():
        hidden_BH = torch.addmm(inputs_BH, state_BC.to(inputs_BH.dtype), cell.context_weight.t()).relu_()
        units = [hidden_BH]
        for weight, bias in cell.layers:
            units.append(torch.addmm(bias, hidden_BH, weight.t()).relu_())
            hidden_BH = hidden_BH + units[-1] if cell.residual else units[-1]
        delta, f, g = torch.addmm(gate_bias, hidden_BH, gate_weight.t()).chunk(3, dim=1)
        next_BC = torch.empty_like(state_BC)
        _update(state_BC, delta, f.sigmoid(), g.sigmoid(), *cell.norm, torch.empty_like(state_BC), next_BC)
        state_BC = next_BC
        yield Reading(units, hidden_BH, state_BC)


def _update(
    state_BC: Tensor,
    delta: Tensor,
    f: Tensor,
    g: Tensor,
    gain: Tensor,
    shift: Tensor,
    mixed_BC: Tensor,
    next_BC: Tensor,
) -> tuple[Tensor, Tensor]:
    """Write the layer norm's input and the next context where they belong; returns the norm's mean and 1/deviation."""
    torch.mul(state_BC, f, out=mixed_BC).addcmul_(g, delta)
    normal_BC, mean, rstd = torch.native_layer_norm(mixed_BC, gain.shape, gain, shift, EPS)
    torch.clamp(normal_BC, -LIMIT, LIMIT, out=next_BC)
    return mean, rstd


class _Scan(torch.autograd.Function):
    """The scan with its derivative.

    The weights come in this order: context weight; weight and bias of each further layer; of the gates; of the norm.
    """

    @staticmethod
    def forward(
        ctx: Any,
        dropped: int,
        generator: torch.Generator | None,
        residual: bool,
        inputs_TBH: Tensor,
        state_BC: Tensor,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        context_weight, *layers, gate_weight, gate_bias, gain, shift = weights
        batch, same_type = len(state_BC), state_BC.dtype == inputs_TBH.dtype
        first, *matrices, gates = (factor(each, batch) for each in (context_weight, *layers[::2], gate_weight))
        # Every buffer starts as the bias (or input) of its layer, to which the loop adds the matrix product.
        units = [_biased(bias, inputs_TBH, dropped, generator) for bias in (inputs_TBH, *layers[1::2])]
        gates_TBG = gate_bias.repeat(*inputs_TBH.shape[:2], 1)
        states_TBC = state_BC.new_empty(len(inputs_TBH) + 1, *state_BC.shape)
        states_TBC[0] = state_BC
        mixed_TBC = torch.empty_like(states_TBC[1:])
        hidden_TBH = torch.empty_like(inputs_TBH) if residual else units[-1]
        norms = []
        slices = (hidden_TBH, gates_TBG, gates_TBG[..., state_BC.shape[1] :], states_TBC[1:], mixed_TBC)
        for hidden_BH, gates_BG, fg, next_BC, mixed_BC, delta, f, g, *units_BH in _steps(
            *slices, *gates_TBG.chunk(3, dim=-1), *units
        ):
            read_BC = state_BC if same_type else state_BC.to(inputs_TBH.dtype)
            below = torch.clamp_min(first.add(units_BH[0], read_BC), 0, out=units_BH[0])
            if residual:
                below = hidden_BH.copy_(below)
            for unit_BH, matrix in zip(units_BH[1:], matrices, strict=True):
                torch.clamp_min(matrix.add(unit_BH, below), 0, out=unit_BH)
                below = below.add_(unit_BH) if residual else unit_BH
            summed_BG = gates.add(gates_BG, below)
            if summed_BG is not gates_BG:
                gates_BG.copy_(summed_BG)
            fg.sigmoid_()
            norms.append(_update(state_BC, delta, f, g, gain, shift, mixed_BC, next_BC))
            state_BC = next_BC
        saved_norms = (torch.stack(parts) for parts in zip(*norms, strict=True))
        ctx.save_for_backward(*weights, *units, gates_TBG, states_TBC, mixed_TBC, *saved_norms)
        ctx.residual = residual
        # A copy: what is returned of a buffer would keep all of it alive.
        return hidden_TBH, states_TBC[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden_TBH: Tensor, d_state_BC: Tensor) -> tuple[Tensor | None, ...]:
        *saved, gates_TBG, states_TBC, mixed_TBC, mean, rstd = ctx.saved_tensors
        num_layers = (len(saved) - 3) // 3
        weights, units = saved[:-num_layers], saved[-num_layers:]
        *layers, gate_weight, _, gain, shift = weights
        batch, norm_shape = len(d_state_BC), list(gain.shape)
        # Backwards a gradient meets the transposed matrices, from the last layer to the first.
        gates, context, *matrices = (factor(each.t(), batch) for each in (gate_weight, layers[0], *layers[-2:0:-2]))
        # Every buffer starts as a slope, which the loop multiplies by the gradient of what the slope belongs to.
        d_units = [torch.gt(unit, 0, out=torch.empty_like(unit)) for unit in units]
        d_gates_TB3C, f_TBC = _gate_slopes(gates_TBG, states_TBC[:-1])
        d_norms_TBC = _clamp_backward(states_TBC.new_ones(()), states_TBC[1:], -LIMIT, LIMIT)
        slices = (d_hidden_TBH, mixed_TBC, mean, rstd, f_TBC, d_norms_TBC, d_gates_TB3C, d_gates_TB3C.flatten(-2))
        for d_hidden_BH, mixed_BC, mean_B1, rstd_B1, f_BC, d_norm_BC, d_gates_B3C, d_gates_BG, *d_units_BH in _steps(
            *slices, *d_units[::-1], backwards=True
        ):
            norm = (d_norm_BC.mul_(d_state_BC), mixed_BC, norm_shape, mean_B1, rstd_B1, gain, shift)
            d_mixed = _layer_norm_backward(*norm, [True, False, False])[0]
            d_gates_B3C.mul_(d_mixed.unsqueeze(1))
            d_below = gates.added(d_hidden_BH, d_gates_BG)
            for d_unit_BH, matrix in zip(d_units_BH[:-1], matrices, strict=True):
                d_unit_BH.mul_(d_below)
                d_below = matrix.add(d_below, d_unit_BH) if ctx.residual else matrix.times(d_unit_BH)
            d_state_BC = d_mixed.mul_(f_BC).add_(context.times(d_units_BH[-1].mul_(d_below)))
        d_gates_TBG = d_gates_TB3C.flatten(-2)
        below = [states_TBC[:-1].to(gates_TBG.dtype), *(accumulate(units, torch.add) if ctx.residual else units)]
        d_context_weight, _, *d_weights = _weight_gradients([*d_units, d_gates_TBG], below)
        norm = (d_norms_TBC, mixed_TBC, norm_shape, mean, rstd, gain, shift)
        d_norm_weights = _layer_norm_backward(*norm, [False, True, True])[1:]
        return None, None, None, d_units[0], d_state_BC, d_context_weight, *d_weights, *d_norm_weights


def _steps(*tensors: Tensor, backwards: bool = False) -> Any:
    """For each time step, its slices of all tensors [T, ...]; cutting all slices at once is cheaper than indexing."""
    return zip(*(tensor.unbind()[:: -1 if backwards else 1] for tensor in tensors), strict=True)


def _biased(bias: Tensor, like_TBH: Tensor, dropped: int, generator: torch.Generator | None) -> Tensor:
    """`bias` at every step; a random share of dropped/65536 of the units is set so low that ReLU must give 0."""
    if not dropped:
        return torch.empty_like(like_TBH).copy_(bias)
    bits = random_bits(like_TBH.shape, like_TBH.device, generator)
    drop = torch.lt(bits, dropped - 32768, out=torch.empty_like(like_TBH))
    return torch.add(bias, drop, alpha=torch.finfo(drop.dtype).min, out=drop)


def random_bits(shape: torch.Size, device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Uniform int16 numbers. One 64-bit number makes four: several times faster than a number for each unit.

    On the CPU one number of the generator seeds a stream of NumPy's SFC64, which is ten times as fast as torch's own.
    """
    count = -(-shape.numel() // 4)
    if device.type == "cpu":
        seed = torch.empty((), dtype=torch.int64).random_(generator=generator).item()
        # Not `integers`: over the whole range of 64 bits this is the stream itself, without a test for each number.
        words = torch.from_numpy(np.random.SFC64(int(seed)).random_raw(count).view(np.int64))
    else:
        words = torch.empty(count, dtype=torch.int64, device=device).random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[: shape.numel()].view(shape)


def _gate_slopes(gates_TBG: Tensor, states_TBC: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of the mixture f c + g delta by delta and by the logits of f and g, [T, B, 3, C]; and f itself."""
    gates_TB3C = gates_TBG.view(*states_TBC.shape[:2], 3, -1)
    slopes_TB3C = torch.empty_like(gates_TB3C)
    for place, factor_TBC in enumerate((gates_TB3C[..., 2, :], states_TBC, gates_TB3C[..., 0, :])):
        slopes_TB3C[..., place, :] = factor_TBC
    by_logits = slopes_TB3C[..., 1:, :]
    _sigmoid_backward(by_logits, gates_TB3C[..., 1:, :], grad_input=by_logits)
    return slopes_TB3C, gates_TB3C[..., 1, :]


def _weight_gradients(d_outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of weight and bias of each affine map, in turn, from all steps [T, B, x] in one product."""
    gradients = []
    for d_output_TBx, input_TBx in zip(d_outputs, inputs, strict=True):
        d_output = d_output_TBx.flatten(0, 1)
        gradients += [d_output.t() @ input_TBx.flatten(0, 1), d_output.sum(0)]
    return gradients
