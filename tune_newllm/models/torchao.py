"""torchao, loaded without its warnings where it is installed at all.

transformers loads it along with its models. It then warns of kernels for GPUs that are not there, and torch of how it
registers its types: nothing that anybody here could act on.
"""

import contextlib
import logging
from collections.abc import Iterator
from importlib import import_module


def load_torchao() -> None:
    """Load it before transformers does; nothing happens where it is not installed."""
    with contextlib.suppress(ImportError), quietly():
        for part in ("quantization", "prototype.safetensors.safetensors_support"):
            import_module(f"torchao.{part}")


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Let pass only errors of torchao, and of torch's register of types."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
