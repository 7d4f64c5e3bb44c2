"""The weights that a model starts with, all from one generator."""

import torch
from torch import Tensor, nn

from .context_vector import ContextVectorModel
from .fixed_point import FixedPointModel
from .protocol import Init


@torch.no_grad()
def draw(model: ContextVectorModel, init: Init, generator: torch.Generator) -> None:
    """Draw all weights from `generator`, always in the same order: embedding, layers, gates, output.

    All biases become 0 (so f = g = 0.5 on average) and the layer norm the identity.

    `he` keeps the size of the signal, and so of the gradients, independent of depth: embeddings have unit variance,
    as the normalised context has; a layer with n inputs draws from N(0, 2/n), which makes up for the half that ReLU
    cuts off (He et al. 2015); the heads see hidden units of mean square 1 and draw from N(0, 1/H).

    `orthogonal` keeps its direction as well: with `he`, different tokens look more alike after every layer. All
    matrices are multiples of semi-orthogonal ones, the layers' in mirrored blocks (`_mirror`).

    `original` draws everything from N(0, 0.02^2). Every layer then shrinks the signal about threefold at H = 512,
    so deep models start with vanishing gradients; it is kept to reproduce the original tables.

    With a residual ffn all matrices that are added to a sum of L terms are divided by L: as no term is negative, their
    means add up, and with 1/sqrt(L) the sum would still grow with depth.
    """
    for parameter in model.parameters():
        parameter.zero_()
    model.norm.weight.fill_(1)
    model.embedding.weight.normal_(0, 0.02 if init == "original" else 1.0, generator=generator)
    layers = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    for layer in layers:
        if init == "orthogonal":
            _mirror(layer.weight, layer is layers[0], generator)
        else:
            std = 0.02 if init == "original" else (2 / layer.in_features) ** 0.5
            layer.weight.normal_(0, std, generator=generator)
        if model.ffn == "residual" and layer is not layers[0]:
            layer.weight.div_(len(layers))
    heads = [model.gates, *(module for module in model.output.modules() if isinstance(module, nn.Linear))]
    for head in heads:
        if init == "orthogonal":
            _semi_orthogonal(head.weight, generator)
        else:
            head.weight.normal_(0, 0.02 if init == "original" else head.in_features**-0.5, generator=generator)


@torch.no_grad()
def draw_fixed_point(model: FixedPointModel, init: Init, generator: torch.Generator) -> None:
    """Draw all weights of a fixed-point model, always in the same order: embedding, context blocks, token layers.

    The output layer starts with zeros, and so the loss at the log of the vocabulary; layer norms are the identity.

    `original` draws the blocks' matrices from N(0, 0.1^2), their biases from N(0, 0.01^2), the embedding from
    N(0, 0.02^2). Else biases are 0 and the embedding has rows of length 1, about: what is read of it is normalised,
    and where it is the output matrix too, logits then have unit variance. A matrix before a ReLU with n inputs draws
    from N(0, 2/n) (`he`) or has orthonormal rows times sqrt(2), which makes up for the half that is cut off; a
    projection around it keeps the mean square of what it reads.
    """
    embed_dim = model.embedding.embedding_dim
    std = 0.02 if init == "original" else embed_dim**-0.5
    model.take_embedding(torch.empty(model.vocab_size, embed_dim).normal_(0, std, generator=generator))
    for name, layer in model.named_modules():
        if isinstance(layer, nn.LayerNorm):
            layer.weight.fill_(1)
            layer.bias.zero_()
        if not isinstance(layer, nn.Linear):
            continue
        if name == "output":
            layer.weight.zero_()
            layer.bias.zero_()
        elif init == "original":
            layer.weight.normal_(0, 0.1, generator=generator)
            layer.bias.normal_(0, 0.01, generator=generator)
        else:
            gain = 1.0 if name.endswith("residual") else 2**0.5
            if init == "he":
                layer.weight.normal_(0, layer.in_features**-0.5, generator=generator)
            else:
                _semi_orthogonal(layer.weight, generator)
            layer.weight.mul_(gain)
            layer.bias.zero_()


def _semi_orthogonal(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Fill a matrix [n, m] with orthonormal rows, or columns if n > m, times what keeps the mean square of a vector."""
    rows, columns = weight.shape
    return nn.init.orthogonal_(weight, max(1, rows / max(1, columns)) ** 0.5, generator=generator)


def _mirror(weight: Tensor, first: bool, generator: torch.Generator) -> None:
    """Fill a layer's matrix so that the layer is linear at the start, whatever its depth (Balduzzi et al. 2017).

    The first layer's matrix is [U; -U], the others' [[U, -U], [-U, U]]: units come in pairs ReLU(y), ReLU(-y), and the
    next layer reads their difference, which is y. U is orthogonal, so that no direction shrinks. Where H is odd, the
    last unit has no partner: it starts as with `he`, and nothing reads it yet.
    """
    half, columns = weight.shape[0] // 2, weight.shape[1]
    weight.zero_()
    if first:
        # ReLU halves the mean square of the pairs, which is to be 1.
        block = _semi_orthogonal(weight.new_empty(half, columns), generator) * 2**0.5
    else:
        square = _semi_orthogonal(weight.new_empty(half, half), generator)
        block = torch.cat([square, -square], dim=1)
    weight[: 2 * half, : block.shape[1]] = torch.cat([block, -block])
    if weight.shape[0] % 2:
        weight[-1].normal_(0, (2 / columns) ** 0.5, generator=generator)
