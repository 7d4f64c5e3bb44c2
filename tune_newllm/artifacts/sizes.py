"""How much memory things take, whatever they are made of."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def stored_bytes(value: Any) -> int:
    """Bytes of all tensors in a value: in models, lists, mappings and the attributes of objects; each counted once."""
    seen: dict[int, int] = {}
    _count(value, seen)
    return sum(seen.values())


def _count(value: Any, seen: dict[int, int]) -> None:
    if id(value) in seen or isinstance(value, str | int | float | bool | type(None)):
        return
    seen[id(value)] = 0
    if isinstance(value, nn.Module):
        parts: list[Any] = [*value.parameters(), *value.buffers()]
    elif isinstance(value, Tensor) and hasattr(value, "__tensor_flatten__"):
        # A tensor made of others, such as integers and their scales.
        parts = [getattr(value, name) for name in value.__tensor_flatten__()[0]]
    elif isinstance(value, Tensor):
        seen[id(value)] = value.numel() * value.element_size()
        return
    elif isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        parts = list(vars(value).values()) if hasattr(value, "__dict__") else []
    for part in parts:
        _count(part, seen)
