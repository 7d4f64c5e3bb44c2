"""Families of models against each other."""

from ..families import families
from ..load import Sweep
from ..markup import Section, table
from ..words import digits, fixed

HEAD = (
    *(("family", ""), ("trial", ""), ("val loss", "number"), ("behind", "number"), ("noise", "number")),
    *(("learning rate", "number"), ("parameters", "number"), ("tokens", "number"), ("seconds", "number")),
    ("configurations", "number"),
)


def family_rows(sweep: Sweep) -> list[list[str]]:
    """One row of texts per family, the best one first, under `HEAD`."""
    return [
        [
            each.name,
            each.trial_id,
            fixed(each.loss),
            "" if not at else fixed(each.behind, 2),
            "" if each.noise is None else f"± {fixed(each.noise, 2)}",
            digits(each.lr) + (f" ({each.edge} tried)" if each.edge else ""),
            "" if each.parameters is None else f"{each.parameters:,}",
            f"{each.tokens:,}",
            f"{each.seconds:,.0f}",
            str(each.configurations),
        ]
        for at, each in enumerate(families(sweep))
    ]


def family_comparison(sweep: Sweep) -> Section | None:
    rows = family_rows(sweep)
    if not rows:
        return None
    guide = (
        "The best configuration of each family, of those that ran to their end, so each with its own best learning "
        "rate. Noise is two standard errors of the difference by the spread over seeds; seconds are those of one trial."
    )
    return Section("families", "Families of models", guide, body=table(HEAD, rows, mark_first=True))
