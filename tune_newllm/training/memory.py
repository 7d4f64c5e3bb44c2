"""Memory that a training step needs, and running out of it."""

import gc

import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device or this machine has no memory left for a tensor."""
    # For main memory torch has no error class of its own, only its allocator's name in the message.
    allocator = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return allocator or isinstance(error, MemoryError | torch.OutOfMemoryError)


def free_memory(device: str) -> None:
    """Give back what is not used any more, so that the next attempt finds all of it."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
