"""What a refusal says of a name that is not there."""

import difflib
from collections.abc import Sequence

_SHOWN = 12


def among(wanted: str, known: Sequence[str]) -> str:
    """`did you mean NEAREST? known are A, B, ...`, or how many more there are where they are many."""
    folded = {name.lower(): name for name in known}
    nearest = [folded[name] for name in difflib.get_close_matches(wanted.lower(), folded, n=1)]
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"{hint}known are {', '.join(known[:_SHOWN])}{more}"
