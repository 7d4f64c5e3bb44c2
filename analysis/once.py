"""Results that cost time, computed once for each sweep."""

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

from .load import Sweep

Result = TypeVar("Result")


def once(compute: Callable[[Sweep], Result]) -> Callable[[Sweep], Result]:
    """The same function, whose result stays with the sweep; whoever changes a sweep makes a new one of it."""
    key = f"_{compute.__module__}.{compute.__qualname__}"

    @wraps(compute)
    def kept(sweep: Sweep) -> Result:
        # As functools.cached_property does, which is for methods of the class alone.
        found = vars(sweep)
        if key not in found:
            found[key] = compute(sweep)
        result: Result = found[key]
        return result

    return kept
