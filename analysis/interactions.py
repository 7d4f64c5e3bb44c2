"""Whether the best value of one parameter depends on another: tested for the pairs that are worth knowing."""

import math
from itertools import product
from typing import NamedTuple

import numpy as np

from .least_squares import f_tail, fit, holm
from .load import Sweep
from .once import once
from .regression import LEVEL, Design, design
from .terms import Term

LEAST_FREEDOM = 5
"""Configurations beyond the number of coefficients, interaction included."""


class Interaction(NamedTuple):
    """Of two parameters."""

    first: str
    second: str
    labels: tuple[str, str]
    configurations: int
    degrees: int
    """Coefficients of the interaction."""
    freedom: int
    p: float
    """Of the F-test."""
    adjusted: float
    """The same, adjusted for the number of pairs tested (Holm)."""
    share: float
    """Of the variance that the parameters by themselves leave unexplained."""
    nats: float
    """Root mean square of what the interaction adds to the loss of a configuration."""

    @property
    def significant(self) -> bool:
        return self.adjusted < LEVEL


@once
def interactions(sweep: Sweep) -> list[Interaction]:
    """Learning rate and batch size, clipping and learning rate, layers and initial weights, where both are searched.

    Each pair is tested by the F-test of products added to the additive regression: of straight lines
    through the positions, and of each category's values. That finds a best value of one parameter that rises or falls
    with the other, not one that rises and falls again. Empty where that regression is not determined or the pair varies
    too little together. It assumes what `effects` assumes.
    """
    made = design(sweep)
    if isinstance(made, str):
        return []
    tested = [one for pair in _pairs(made) if (one := _test(made, *pair)) is not None]
    adjusted = holm([one.p for one in tested])
    return [one._replace(adjusted=p) for one, p in zip(tested, adjusted, strict=True)]


def _pairs(made: Design) -> list[tuple[Term, Term]]:
    found = {one.path: one for one in made.terms}
    clipping = [path for path in found if path == "training.clip" or path.startswith("training.clip.")]
    wanted = [
        ("training.lr", "training.batch_size"),
        *product(clipping, ["training.lr"]),
        ("model.num_layers", "model.init"),
    ]
    return [(found[first], found[second]) for first, second in wanted if first in found and second in found]


def _test(made: Design, first: Term, second: Term) -> Interaction | None:
    alone, both = (
        fit(columns, made.loss) for columns in (made.columns, np.hstack([made.columns, products(first, second)]))
    )
    degrees, gained = both.rank - alone.rank, alone.residual - both.residual
    if degrees == 0 or both.freedom < LEAST_FREEDOM or not both.residual > 0:
        return None
    p = f_tail(gained / degrees / both.variance, degrees, both.freedom)
    return Interaction(
        first.path,
        second.path,
        (first.label, second.label),
        len(made.loss),
        degrees,
        both.freedom,
        p,
        p,
        gained / alone.residual,
        math.sqrt(max(gained, 0.0) / len(made.loss)),
    )


def products(first: Term, second: Term) -> np.ndarray:
    """[n, d] the columns of an interaction."""
    made = np.einsum("ni,nj->nij", first.straight, second.straight).reshape(len(first.position), -1)
    # The length of a column says nothing, and the rank is judged by it.
    lengths = np.linalg.norm(made, axis=0)
    return made[:, lengths > 0] / lengths[lengths > 0] * math.sqrt(len(made))
