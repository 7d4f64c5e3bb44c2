"""Products of one matrix with many small batches, in the way that suits the processor.

Shape suffixes: B sequences.
"""

from functools import cache, partial

import torch
from torch import Tensor


class Plain:
    """Products with the transpose of a matrix [out, in], by torch's own operators."""

    def __init__(self, matrix: Tensor) -> None:
        self._matrix = matrix.t()

    def times(self, x: Tensor) -> Tensor:
        """x [B, in] times it."""
        return x.mm(self._matrix)

    def add(self, total: Tensor, x: Tensor) -> Tensor:
        """total [B, out] plus x times it; the total may be overwritten."""
        return total.addmm_(x, self._matrix)

    def added(self, total: Tensor, x: Tensor) -> Tensor:
        """The same as a new tensor."""
        return torch.addmm(total, x, self._matrix)


class Packed:
    """The same by oneDNN, with the matrix laid out for its kernels once instead of in every step."""

    def __init__(self, matrix: Tensor, batch: int) -> None:
        self._matrix = torch.ops.mkldnn._reorder_linear_weight(matrix.contiguous(), batch)

    def times(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._matrix, None, "none", [], "")
        return product

    def add(self, total: Tensor, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, total, self._matrix, None, "add")
        return product

    added = add


PACKED_SIZE, PACKED_BATCH = 2**17, 512
"""Packing pays from so many elements of a matrix on, and up to so many sequences: below, oneDNN takes longer to begin
than to multiply; above, the layout is a small part of the work."""


def factor(matrix: Tensor, batch: int) -> Plain | Packed:
    """A matrix [out, in] as the factor of many products with [batch, in], in the way that suits the processor."""
    suits = matrix.device.type == "cpu" and matrix.numel() >= PACKED_SIZE and 1 < batch <= PACKED_BATCH
    several = torch.get_num_threads() > 1
    return Packed(matrix, batch) if suits and packing_pays(matrix.dtype, several) else Plain(matrix)


@cache
def packing_pays(dtype: torch.dtype, several_threads: bool) -> bool:
    """Whether oneDNN's packed products are there, right, and worth it: with AVX-512, or with several threads, among
    which other kernels divide a small batch badly (asked once a process).

    They are not part of torch's public interface, so what they give is compared first.
    """
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    if dtype not in (torch.float32, torch.bfloat16) or not (wide or several_threads):
        return False
    generator = torch.Generator().manual_seed(0)
    x, matrix, total = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((8, 64), (32, 64), (8, 32)))
    try:
        packed = Packed(matrix, 8)
        products = (packed.times(x), packed.add(total.clone(), x))
    except (AttributeError, RuntimeError):
        return False
    plain, tolerance = Plain(matrix), 1e-4 if dtype == torch.float32 else 0.05
    close = partial(torch.allclose, rtol=tolerance, atol=tolerance)
    return all(map(close, products, (plain.times(x), plain.add(total, x))))
