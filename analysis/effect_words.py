"""Effects, interactions, importances and clip schedules in plain sentences and in numbers."""

import math
from typing import Any

from .clip_schedules import ClipSchedules, Schedule, clip_schedules
from .effects import Effects, effects
from .importance import importances
from .interactions import Interaction, interactions
from .load import Sweep
from .regression import LEVEL
from .words import digits, label, listed


def findings_summary(sweep: Sweep) -> dict[str, Any]:
    """All of them, ready for JSON but for numpy's types."""
    found, schedules = effects(sweep), clip_schedules(sweep)
    return {
        "effects": {
            **found._asdict(),
            "effects": [
                one._asdict() | {name: getattr(one, name).tolist() for name in ("effect", "low", "high")}
                for one in found.effects
            ],
        },
        "interactions": [one._asdict() | {"significant": one.significant} for one in interactions(sweep)],
        "clip_schedules": None
        if schedules is None
        else schedules._asdict()
        | {"schedules": [one._asdict() | {"verdict": one.verdict} for one in schedules.schedules]},
    }


def importances_summary(sweep: Sweep) -> dict[str, Any]:
    found = importances(sweep)
    return found._asdict() | {"parameters": [one._asdict() for one in found.parameters]}


def effects_sentences(found: Effects) -> list[str]:
    """Which parameters do something, which cannot be shown to, and which cannot be judged."""
    if found.reason:
        return [f"What each parameter does by itself is not determined: {found.reason}."]
    known = sorted(found.effects, key=lambda one: -one.span)
    shown = [f"{one.label} (by up to {digits(one.span, 2)} nats)" for one in known if one.p < LEVEL]
    others = [one.label for one in known if one.p >= LEVEL]
    said = [f"With the others held fixed, these move the loss: {listed(shown)}."] if shown else []
    if others:
        said.append(f"No effect could be shown of {listed(others)}.")
    if found.confounded:
        names = listed([label(path) for path in found.confounded])
        said.append(f"What is due to each of these cannot be told, as they always changed together: {names}.")
    return said


def interaction_sentences(found: list[Interaction]) -> list[str]:
    """One sentence with the interactions that are there; none if none is."""
    pairs = [
        f"which {one.labels[0]} is best depends on the {one.labels[1]} ({chance(one.adjusted)}; it "
        f"moves the loss by {digits(one.nats, 2)} nats on average)"
        for one in found
        if one.significant
    ]
    said = "; ".join(pairs)
    return [f"{said[0].upper()}{said[1:]}."] if said else []


def chance(p: float) -> str:
    """A p-value in few digits."""
    return "p < 0.0001" if p < 1e-4 else f"p = {digits(p, 2)}"


def clip_sentences(found: ClipSchedules | None) -> list[str]:
    """Which way of clipping is best, and which ones are not worse for all that is known."""
    if found is None or found.reason:
        return []
    by_verdict: dict[str, list[Schedule]] = {}
    for one in found.schedules:
        by_verdict.setdefault(one.verdict, []).append(one)
    best, alike, behind, edge = (by_verdict.get(name, []) for name in ("best", "alike", "behind", "edge"))
    own = ", each at its own best learning rate" if found.lr_searched else ""
    what = label(found.path)
    if not best:
        return []
    if not behind and not edge:
        if not alike:
            return []
        spread = max(one.behind for one in alike)
        rest = f"lowest for {best[0].name}, the others up to {digits(spread, 2)} nats behind, within the noise"
        return [f"No value of {what} is shown to be better than the others{own}: {rest}."]
    said = f"Best {what}{own}: {best[0].name}, with loss {digits(best[0].loss)}"
    for group, words in ((behind, "behind by more than chance"), (alike, "within the noise")):
        if group:
            names = listed([f"{one.name} ({digits(one.behind, 2)} nats behind)" for one in group])
            said += f"; {words}: {names}"
    if edge:
        names = listed([one.name for one in edge])
        said += f"; not known, as the best learning rate may lie beyond those tried: {names}"
    return [f"{said}."]


def reached(low: float, high: float) -> str:
    """An interval, empty where there is none."""
    return "" if math.isnan(low) else f"{digits(low)} to {digits(high)}"
