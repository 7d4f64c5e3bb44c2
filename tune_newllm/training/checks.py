"""The checks that configurations make of their values."""

import math
from typing import Any, get_args


def require(holds: bool, rule: str, got: object) -> None:
    """Refuse a value that breaks a rule.

    Raises:
        ValueError: it does; the message is the rule and what was got.
    """
    if not holds:
        raise ValueError(f"{rule}, got {got!r}")


def one_of(choices: Any, name: str, got: object) -> None:
    """Refuse a value that is none of a Literal's.

    Raises:
        ValueError: it is none of them.
    """
    allowed = get_args(choices)
    require(got in allowed, f"{name} must be one of {', '.join(allowed)}", got)


def positive(value: float) -> bool:
    """Whether it is a finite number above 0."""
    return 0 < value < math.inf


def whole(value: object) -> bool:
    """Whether it is a whole number above 0 that 64 bits can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**63
