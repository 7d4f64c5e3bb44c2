"""How the best learning rate follows the batch size and the size of the model."""

import math
from html import escape

from .. import figures
from ..load import Sweep
from ..lr_law import BATCH, Interval, LrLaw, Optimum
from ..lr_words import law_sentences, lr_laws, recommendations
from ..markup import Section, table
from ..words import digits, shown

_POSITIONS = {
    "inside": "",
    "low edge": "at the lowest rate tried or below",
    "high edge": "at the highest rate tried or above",
    "too few": "too few rates near its best one",
}


def lr_batch(sweep: Sweep) -> Section | None:
    if figures.lr_batch_data(sweep) is None:
        return None
    guide = (
        "Each dot is a trial that ran to its end, coloured by its validation loss; small circles were stopped early, "
        "crosses diverged or failed. Rings mark the best trial of each batch size."
    )
    law = figures.batch_law(sweep)
    if law is None:
        return Section("lr-batch", "Learning rate and batch size", guide, [figures.lr_batch(sweep)])
    if figures.law_lines_data(law) is not None:
        guide += (
            " Diamonds are the fitted optima with 95 % intervals, the line is the law that joins them, the broken ones "
            "are what other laws would say from its middle on."
        )
    return Section("lr-batch", "Learning rate and batch size", guide, [figures.lr_batch(sweep)], body=_body(law))


def bowls(sweep: Sweep) -> Section | None:
    law = figures.batch_law(sweep)
    if law is None or not figures.bowls_data(sweep, law):
        return None
    guide = (
        "Trials that ran to their end, and where there are enough of them the bowls fitted to those near the lowest "
        "points: one shape for all batch sizes."
    )
    return Section("bowls", "Loss by learning rate, for each batch size", guide, [figures.bowls_figure(sweep, law)])


def lr_size(sweep: Sweep) -> Section | None:
    law = next((law for law in lr_laws(sweep) if law.against != BATCH), None)
    if law is None:
        return None
    drawn = [] if figures.law_lines_data(law) is None else [figures.law_figure(law)]
    guide = (
        "Diamonds are the fitted optima of each model size with 95 % intervals, the line is the law that joins them."
    )
    return Section("lr-size", "Learning rate and model size", guide if drawn else "", drawn, body=_body(law))


def _body(law: LrLaw) -> str:
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in law_sentences(law))
    head = [
        ("batch size" if law.against == BATCH else "parameters", "number"), ("trials", "number"), ("rates tried", ""),
        ("best rate", "number"), ("95 % interval", ""),
        ("diverged from", "number"), ("", ""),
    ]  # fmt: skip
    cells = [_row(each) for each in law.optima]
    shown_at = [index for index, _ in enumerate(head) if any(row[index] for row in cells)]
    head, cells = [head[index] for index in shown_at], [[row[index] for index in shown_at] for row in cells]
    return f'<div class="after">{said}</div>{table(head, cells)}{_advice(law)}{_facts(law)}'


def _row(optimum: Optimum) -> list[str]:
    own = [shown(optimum.size), str(optimum.trials), _ends(optimum.tried), _rate(optimum.lr), _ends(optimum.interval)]
    return [*own, _rate(optimum.diverged), _POSITIONS[optimum.position]]


def _advice(law: LrLaw) -> str:
    """The law in numbers."""
    rows = [
        [shown(size), _rate(advice.lr), _ends(advice.interval), _beyond(advice.beyond)]
        for size, advice in recommendations(law)
    ]
    name = "batch size" if law.against == BATCH else "parameters"
    head = [(name, "number"), ("learning rate by the law", "number"), ("95 % interval", ""), ("", "")]
    return f'<h3 class="after">Recommended learning rates</h3>{table(head, rows)}' if rows else ""


def _beyond(times: float) -> str:
    return "" if times < 1.01 else f"{digits(times, 2)} times beyond what was measured"


def _facts(law: LrLaw) -> str:
    """What the verdict rests on."""
    facts = [
        "One fit over all trials of equal final budget: bowls of one shape over the learning rate, whose "
        "lowest points lie on a power of the size. Intervals allow for noise that differs between trials."
    ]
    if law.interval is not None:
        tests = ", ".join(f"{name} p = {digits(p, 2)}" for name, p in law.p.items())
        facts.append(f"{law.n} trials in the fit. Tests of the exponent: {tests}.")
        if law.bend is not None:
            facts.append(f"Test for a bend: p = {digits(law.bend.p, 2)}.")
        facts.append(
            f"The bowls rise by {digits(law.curvature, 2)} nats per squared nat of learning rate; a trial scatters by "
            f"{digits(law.noise, 2)} nats."
        )
    if law.excluded:
        facts.append("Not in the fit: " + ", ".join(f"{count} {why}" for why, count in law.excluded.items()) + ".")
    return f'<p class="note after">{escape(" ".join(facts))}</p>'


def _rate(value: float) -> str:
    return "" if math.isnan(value) else digits(value, 3)


def _ends(interval: Interval | None) -> str:
    if interval is None or not all(map(math.isfinite, interval)):
        return ""
    return f"{digits(interval.low, 3)} to {digits(interval.high, 3)}"
