"""Language models behind one protocol: `forward(tokens_BT, state=None) -> (logits_BTV, state)`.

The state is all that a model remembers of the tokens it has read; passing it on continues a text where it stopped.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import ModelConfig, parameter_count

if TYPE_CHECKING:
    from .context_vector import ContextVectorModel
    from .families import MODEL_FAMILIES, build
    from .protocol import LanguageModel, Signals

__all__ = [
    "MODEL_FAMILIES",
    "ContextVectorModel",
    "LanguageModel",
    "ModelConfig",
    "Signals",
    "build",
    "parameter_count",
]


def __getattr__(name: str) -> Any:
    """What computes, once it is asked for: whoever only counts or checks a configuration need not wait for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {"ContextVectorModel": ".context_vector", "LanguageModel": ".protocol", "Signals": ".protocol"}
    return getattr(import_module(homes.get(name, ".families"), __name__), name)
