"""Ways of computing that hold for a whole process."""

import pytest
import torch

from tune_newllm.errors import UsageError
from tune_newllm.training import device


@pytest.fixture
def matmul_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


AMD = {"avx512_bw": True, "cpu_name": "AMD EPYC"}


@pytest.mark.usefixtures("matmul_precision")
@pytest.mark.parametrize(
    ("processor", "right", "mode"),
    [
        (AMD, True, "medium"),
        (AMD, False, "highest"),
        (AMD | {"avx512_bw": False}, True, "highest"),
        (AMD | {"cpu_name": "Intel(R) Xeon(R)"}, True, "highest"),
        ({}, True, "highest"),
    ],
)
def test_faster_products_are_for_some_processors_and_only_where_they_keep_their_digits(
    processor, right, mode, monkeypatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
    monkeypatch.setattr(device, "products_are_float32", lambda: right)
    device.use_fast_products.__wrapped__()
    assert torch.get_float32_matmul_precision() == mode


def test_products_with_fewer_digits_are_noticed(monkeypatch):
    assert device.products_are_float32()
    full = torch.Tensor.__matmul__

    def rounded(left, right):
        return (
            full(left.bfloat16().float(), right.bfloat16().float())
            if left.dtype == torch.float32
            else full(left, right)
        )

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    assert not device.products_are_float32()


@pytest.mark.usefixtures("matmul_precision")
def test_tf32_is_for_cuda_and_ends_with_its_context():
    with device.autocast("tf32", "cuda"):
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(UsageError, match="precision tf32 is not offered by this cpu: use fp32 or bf16"):
        device.require_number("tf32", "cpu")
