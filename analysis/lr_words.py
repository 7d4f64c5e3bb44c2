"""The laws of the best learning rate in plain sentences and in numbers."""

import math
from itertools import pairwise
from typing import Any

from .families import FAMILY
from .load import Sweep
from .lr_fit import fit_lr_law
from .lr_law import BATCH, EXPONENTS, SIZE, Interval, LrLaw, Optimum, Recommendation
from .once import once
from .words import digits, listed

_NAMES = {BATCH: ("batch size", "batch"), SIZE: ("number of parameters", "size")}


@once
def lr_laws(sweep: Sweep) -> list[LrLaw]:
    """The laws that a sweep can be asked for: against what differs between its trials, if their learning rates do."""
    trials = sweep.trials
    if trials["lr"].nunique() < 2:
        return []
    # Models of several families differ in more than their size.
    sizes = [] if FAMILY in sweep.searched and trials[FAMILY].nunique() > 1 else [SIZE]
    varied = [path for path in (BATCH, *sizes) if path in trials and trials[path].nunique() > 1]
    return [fit_lr_law(trials, path) for path in varied]


def law_sentences(law: LrLaw) -> list[str]:
    """Verdict first, then what to set, then what was left out."""
    said = [_verdict(law), *_recommended(law)]
    for edge, word in (("low edge", "lowest"), ("high edge", "highest")):
        sizes = [digits(each.size) for each in law.optima if each.position == edge]
        if sizes:
            left = (
                f"At {_NAMES[law.against][1]} {listed(sizes)} the best learning rate is the {word} tried or beyond it"
            )
            said.append(f"{left}, so {'it is' if len(sizes) == 1 else 'they are'} left out.")
    return said


def _verdict(law: LrLaw) -> str:
    name, short = _NAMES[law.against]
    if law.interval is None:
        return f"How the best learning rate follows the {name} is not determined: {law.reason}."
    power = f"{name}^{_number(law.exponent)}" + (f" ({_between(law.interval)})" if _bounded(law) else "")
    if law.verdict == "not determined":
        return f"How the best learning rate follows the {name} is not determined: {law.reason}; the fit says {power}."
    if law.verdict == "bend" and law.bend is not None:
        first, last = (digits(each.size) for each in _inside(law)[:: max(1, len(_inside(law)) - 1)][:2])
        turn = "" if math.isnan(law.bend.turn) else f"; beyond about {digits(law.bend.turn, 2)} it no longer grows"
        return (
            f"The best learning rate follows no single power of the {name}: the exponent goes from "
            f"{_number(law.bend.small)} at {short} {first} to {_number(law.bend.large)} at {last} (chance of such a "
            f"bend without one {digits(law.bend.p, 2)}){turn}."
        )
    others = [each for each in EXPONENTS[law.against] if each != law.verdict]
    grows = f"The best learning rate goes with {power}"
    if law.verdict == "neither":
        return f"{grows}: {_neither(law)}."
    return f"{grows}: {law.verdict} fits, {' and '.join(others)} {'does' if len(others) == 1 else 'do'} not."


def _neither(law: LrLaw) -> str:
    laws = sorted(EXPONENTS[law.against].items(), key=lambda each: each[1])
    around = [names for names in pairwise(laws) if names[0][1] < law.exponent < names[1][1]]
    if around:
        return f"between {around[0][0][0]} and {around[0][1][0]}, neither of which fits"
    return f"none of {', '.join(name for name, _ in laws[:-1])} and {laws[-1][0]} fits"


def _recommended(law: LrLaw) -> list[str]:
    """The best learning rate at both ends of what was measured."""
    inside = _inside(law)
    if law.interval is None or not _bounded(law) or len(inside) < 2:
        return []
    parts = []
    for each in (inside[0], inside[-1]):
        advice = law.predict(each.size)
        around = "" if advice.interval is None else f" ({_between(advice.interval, 2)})"
        parts.append(f"{digits(advice.lr, 2)} at {_NAMES[law.against][1]} {digits(each.size)}{around}")
    return [f"By that the learning rate to use is {' and '.join(parts)}."]


def _inside(law: LrLaw) -> list[Optimum]:
    return [each for each in law.optima if each.position == "inside"]


def _bounded(law: LrLaw) -> bool:
    return law.interval is not None and math.isfinite(law.interval.low) and math.isfinite(law.interval.high)


def _between(interval: Interval, significant: int | None = None) -> str:
    ends = [_number(end) if significant is None else digits(end, significant) for end in interval]
    return f"95 % interval {ends[0]} to {ends[1]}"


def _number(exponent: float) -> str:
    return f"{exponent:.2f}"


def recommendations(law: LrLaw) -> list[tuple[float, Recommendation]]:
    """What the law says for every size that was measured, and for those twice and four times as far out."""
    inside = [each.size for each in _inside(law)]
    if law.interval is None or not inside:
        return []
    beyond = [inside[0] / 4, inside[0] / 2, inside[-1] * 2, inside[-1] * 4] if law.against == BATCH else []
    sizes = sorted({*(each.size for each in law.optima), *(size for size in beyond if size >= 1)})
    return [(size, law.predict(size)) for size in sizes]


def law_summary(law: LrLaw) -> dict[str, Any]:
    """All numbers of a law."""
    content = {name: getattr(law, name) for name in ("against", "verdict", "reason", "exponent", "coefficient")}
    content |= {name: getattr(law, name) for name in ("interval", "p", "curvature", "noise", "n", "excluded")}
    content |= {"optima": [each._asdict() for each in law.optima]}
    content |= {"recommended": [{"size": size} | advice._asdict() for size, advice in recommendations(law)]}
    bend = None if law.bend is None else law.bend._asdict()
    return content | {"bend": bend, "sentences": law_sentences(law)}
