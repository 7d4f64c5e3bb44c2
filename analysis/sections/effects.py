"""What the settings do: the effect of each, their importance, which depend on each other, ways of clipping."""

import math
from html import escape

from .. import figures
from ..clip_schedules import Schedule, clip_schedules
from ..effect_words import chance, clip_sentences, effects_sentences, interaction_sentences, reached
from ..effects import Effect
from ..effects import effects as find_effects
from ..importance import importances as find_importances
from ..interactions import interactions as find_interactions
from ..load import Sweep
from ..markup import Section, table
from ..regression import LEVEL
from ..words import cut, digits, fixed, label, shown

_VERDICTS = {
    "best": "best",
    "alike": "within the noise",
    "behind": "worse",
    "edge": "not known: its best rate may lie beyond those tried",
    "unknown": "too few configurations",
}


def effects(sweep: Sweep) -> Section | None:
    found = find_effects(sweep)
    if found.reason and (not sweep.searched or not found.configurations):
        return None
    title, said = "Effect of each setting", "".join(f"<p>{escape(text)}</p>" for text in effects_sentences(found))
    if not found.effects:
        return Section("effects", title, body=f'<div class="note">{said}</div>')
    guide = (
        f"What changing one setting does to the loss while the others stay the same, against the average of the "
        f"{found.configurations} configurations that ran to their end, with 95 % bands. All panels have the same scale."
    )
    chosen = figures.effects_data(sweep)
    frame = figures.effect_frame(chosen)
    drawn = [figures.effect_figure(one, frame) for one in chosen]
    facts = (
        "One least-squares fit of effects that add up: curves for ranges, a level for each value of a list. It "
        f"explains {digits(100 * found.explained, 3)} % of the variance; {digits(found.deviation, 2)} nats per "
        "configuration are left to chance and to whatever does not add up. Early stopping lets the good configurations "
        "through, which makes effects look smaller than they are."
    )
    if found.limit is not None:
        facts += f" Losses above {digits(found.limit)} were taken as that."
    body = f'<div class="after">{said}</div>{_effects_table(found.effects)}<p class="note after">{escape(facts)}</p>'
    return Section("effects", title, guide, drawn, body=body)


def _effects_table(found: list[Effect]) -> str:
    head = [
        ("setting", ""), ("lowest loss at", ""), ("moves the loss by", "number"), ("configurations", "number"),
        ("test", "number"), ("", ""),
    ]  # fmt: skip
    rows = [
        [
            one.label,
            _value(one.values[int(one.effect.argmin())]),
            f"{fixed(one.span, 2)} nats",
            str(one.configurations),
            chance(one.p),
            "" if one.p < LEVEL else "no effect shown",
        ]
        for one in sorted(found, key=lambda one: -one.span)
    ]
    return table(head, rows)


def _value(value: object) -> str:
    return cut(shown(float(f"{value:.2g}") if isinstance(value, float) else value), 40)


def importances(sweep: Sweep) -> Section | None:
    found = find_importances(sweep)
    if not sweep.searched or not found.configurations:
        return None
    title = "Importance of each setting"
    if found.reason:
        return Section("importances", title, body=f'<p class="note">Not determined: {escape(found.reason)}.</p>')
    guide = (
        f"How much each setting decides whether a configuration is among the best {found.best} of the "
        f"{found.configurations} that were compared (PED-ANOVA); lines show how much that changes when half of them "
        "are left out."
    )
    return Section("importances", title, guide, [figures.importances_figure(sweep)])


def interactions(sweep: Sweep) -> Section | None:
    found = find_interactions(sweep)
    if not found:
        return None
    head = [("settings", ""), ("moves the loss by", "number"), ("of what they leave unexplained", "number")]
    head += [("test", "number"), ("", "")]
    rows = [
        [
            " and ".join(one.labels),
            f"{fixed(one.nats, 2)} nats",
            f"{digits(100 * one.share, 2)} %",
            chance(one.adjusted),
            "they depend on each other" if one.significant else "not shown",
        ]
        for one in found
    ]
    guide = (
        "Whether the best value of one setting depends on another, tested for the pairs where that is worth knowing; "
        "p-values allow for the number of pairs."
    )
    said = "".join(f'<p class="after">{escape(text)}</p>' for text in interaction_sentences(found))
    return Section("interactions", "Settings that depend on each other", guide, body=table(head, rows) + said)


def clipping(sweep: Sweep) -> Section | None:
    found = clip_schedules(sweep)
    if found is None:
        return None
    own = "each at its own best learning rate and the other settings equal" if found.lr_searched else "all else equal"
    guide = f"The loss to expect of each, {own}, from one fit to all configurations that ran to their end."
    drawn = [figures.clip_schedules_figure(sweep)] if figures.clip_schedules_data(sweep) else []
    said = clip_sentences(found) or ([f"Not compared: {found.reason}."] if found.reason else [])
    body = "".join(f'<p class="after">{escape(text)}</p>' for text in said)
    head = [
        (label(found.path), ""), ("expected loss", "number"), ("95 % interval", ""), ("behind", "number"),
        ("best rate", "number"), ("lowest seen", "number"), ("trial", ""), ("trials", "number"), ("failed", "number"),
        ("", ""),
    ]  # fmt: skip
    body += table(head, [_schedule(one) for one in found.schedules])
    return Section("clipping", "Ways of clipping", guide if drawn else "", drawn, body=body)


def _schedule(one: Schedule) -> list[str]:
    def number(value: float, significant: int) -> str:
        return "" if math.isnan(value) else fixed(value, significant)

    behind = "" if one.verdict == "best" else number(one.behind, 2)
    rate = "" if math.isnan(one.lr) else digits(one.lr, 2)
    cells = [cut(one.name, 60), number(one.loss, 4), reached(one.low, one.high), behind, rate]
    counts = [number(one.observed, 4), one.best or "", str(one.trials), str(one.failed)]
    return [*cells, *counts, _VERDICTS[one.verdict]]
