"""Tables that the page and the record both have: heads, and rows of texts not escaped yet."""

from .data_law import DataLaw
from .families import families
from .load import Sweep
from .power_law import Prediction
from .words import digits, fixed, shown

Head = tuple[str, ...]

FAMILIES: Head = (
    *("family", "trial", "val loss", "behind", "noise", "learning rate", "parameters", "tokens", "seconds"),
    "configurations",
)
POINTS: Head = ("tokens", "texts", "perplexity", "val loss", "seeds", "configurations", "best trial")
TEXTS = ("family", "trial", "best trial")
"""Columns that hold no numbers."""


def family_rows(sweep: Sweep) -> list[list[str]]:
    """Under `FAMILIES`, the best family first; empty where no families were compared."""
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


def point_rows(found: DataLaw) -> list[list[str]]:
    """Under `POINTS`, the least data first."""
    return [
        [
            f"{row['tokens']:,.0f}",
            "all" if row["texts"] != row["texts"] else f"{row['texts']:,.0f}",
            digits(row["ppl"]),
            digits(row["loss"]),
            str(row["replicates"]),
            str(row["configurations"]),
            row["trial_id"],
        ]
        for row in found.points.to_dict("records")
    ]


def extrapolation(found: DataLaw) -> tuple[Head, list[list[str]]]:
    """What the law says of more data; no rows where there is no law."""
    head: Head = ("tokens", "beyond the data", "perplexity", "95 % prediction interval")
    said = found.extrapolation()
    rows = [[digits(each.tokens, 3), f"{shown(round(each.beyond, 1))} times", *_predicted(each)] for each in said]
    if said and found.floor.above_zero:
        head += ("with a floor", "95 % prediction interval")
        rows = [[*row, *_predicted(found.floor.predict(each.tokens))] for row, each in zip(rows, said, strict=True)]
    return head, rows


def _predicted(each: Prediction) -> list[str]:
    return [digits(each.estimate, 3), f"{digits(each.interval[0], 3)} to {digits(each.interval[1], 3)}"]
