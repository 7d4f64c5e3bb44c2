import pytest
import torch

from tune_newllm.errors import DivergedError
from tune_newllm.sweep import trial


def beyond_main_memory():
    torch.empty(1 << 60, dtype=torch.uint8)


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "state", "reason"),
    [
        (raising(DivergedError(1, 3, float("nan"))), "diverged", "optimizer step 3"),
        (raising(MemoryError()), "infeasible", "out of memory"),
        (raising(torch.OutOfMemoryError("CUDA out of memory")), "infeasible", "out of memory"),
        (beyond_main_memory, "infeasible", "out of memory"),
        (raising(RuntimeError("mat1 and mat2\nshapes")), "failed", "RuntimeError: mat1 and mat2"),
    ],
    ids=["diverged", "python", "device", "allocator", "other"],
)
def test_every_way_to_go_wrong_is_a_last_result(work, state, reason, tmp_path, monkeypatch):
    def epochs(asked, folder):
        yield {"epoch": 1, "done": False}
        work()

    monkeypatch.setattr(trial, "_epochs", epochs)
    first, last = trial._run({"folder": str(tmp_path), "id": "t1"})
    assert first["epoch"] == 1
    assert (last["epoch"], last["state"], last["done"]) == (None, state, True)
    assert reason in last["reason"]
    assert (tmp_path / "trials" / "t1" / "log.txt").read_text()
