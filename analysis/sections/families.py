"""Families of models against each other."""

from ..load import Sweep
from ..markup import Section, table
from ..rows import FAMILIES, TEXTS, family_rows


def family_comparison(sweep: Sweep) -> Section | None:
    rows = family_rows(sweep)
    if not rows:
        return None
    guide = (
        "The best configuration of each family, of those that ran to their end, so each with its own best learning "
        "rate. Noise is two standard errors of the difference by the spread over seeds; seconds are those of one trial."
    )
    head = [(name, "" if name in TEXTS else "number") for name in FAMILIES]
    return Section("families", "Families of models", guide, body=table(head, rows, mark_first=True))
