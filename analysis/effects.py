"""What each searched parameter does to the loss, the others held fixed."""

import math
from typing import Any, NamedTuple

import numpy as np

from .interactions import interactions, products
from .least_squares import Fit, fit, holm, t_quantile
from .load import Sweep
from .once import once
from .regression import LEVEL, design, full_fidelity
from .terms import Kind, Term


class Effect(NamedTuple):
    """Of one parameter on the loss, in nats per token, against the average over the configurations that have it."""

    path: str
    label: str
    kind: Kind
    values: list[Any]
    """Where the effect is given: values of a list or category, evenly spaced values of a range."""
    effect: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % interval at each value by itself."""
    span: float
    """From the lowest to the highest effect."""
    p: float
    """Of the F-test that the parameter does nothing, adjusted for the number of parameters (Holm)."""
    configurations: int
    """That have the parameter."""


class Effects(NamedTuple):
    """The regression of a sweep.

    `effects` is in the order of the sweep file and empty where nothing is determined; `reason` then says why, in words
    that follow "because". `confounded` are parameters that always changed together with others.
    """

    configurations: int
    effects: list[Effect]
    confounded: list[str]
    deviation: float
    """Of the errors, in nats per token: noise of the seeds and whatever is not additive."""
    explained: float
    """R squared."""
    limit: float | None
    """Losses above it were taken as this; None: there were none."""
    reason: str


@once
def effects(sweep: Sweep) -> Effects:
    """Regression of the loss on all searched parameters that vary.

    The unit is a configuration at full fidelity, as `best` ranks them, with the mean of its seeds. A range enters as a
    polynomial or cubic spline (in the logarithm where its distribution is one or it spans a factor of 20), with one
    coefficient more than Akaike's criterion asks for; lists and categories with an effect of each value. The intervals
    are those of ordinary least squares.

    It assumes that effects add up, but for the interactions that `interactions` finds, which enter too (the effect is
    then that at the average of the other parameter); that errors are about normal and equally large everywhere, that
    curves are smooth, and that configurations at full fidelity are like the others: early stopping lets the good ones
    through, which makes effects look smaller than they are. In simulations with curves as real
    sweeps have them 92 % of the intervals hold the truth, fewer where a curve has a kink. Losses more than five times
    as far above the lowest as the median is are taken as that limit.
    """
    made = design(sweep)
    if isinstance(made, str):
        return Effects(len(full_fidelity(sweep)), [], [], math.nan, math.nan, None, made)
    by_path = {one.path: one for one in made.terms}
    joint = [products(by_path[one.first], by_path[one.second]) for one in interactions(sweep) if one.significant]
    fitted = fit(np.hstack([made.columns, *joint]), made.loss)
    places = [made.place(index) for index in range(len(made.terms))]
    tests = [fitted.block(place) for place in places]
    adjusted = holm(tests)
    found = [
        _effect(one, fitted, place, p)
        for one, place, p in zip(made.terms, places, adjusted, strict=True)
        if not math.isnan(p)
    ]
    confounded = [one.path for one, p in zip(made.terms, tests, strict=True) if math.isnan(p)]
    total = float(((made.loss - made.loss.mean()) ** 2).sum())
    explained = 1 - fitted.residual / total if total > 0 else math.nan
    deviation = math.sqrt(fitted.variance)
    return Effects(len(made.rows), found, confounded, deviation, explained, made.limit, "")


def _effect(one: Term, fitted: Fit, place: slice, p: float) -> Effect:
    contrast = np.zeros((len(one.grid), len(fitted.coefficients)))
    contrast[:, place] = one.grid
    effect, error = fitted.contrasts(contrast)
    reach = t_quantile(1 - LEVEL / 2, fitted.freedom) * error
    span = float(effect.max() - effect.min())
    present = int((~np.isnan(one.position)).sum())
    return Effect(one.path, one.label, one.kind, one.values, effect, effect - reach, effect + reach, span, p, present)
