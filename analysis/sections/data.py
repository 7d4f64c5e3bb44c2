"""Whether more data pays."""

from html import escape

from .. import figures
from ..data_law import DataLaw, data_law
from ..load import Sweep
from ..markup import Section, table
from ..rows import POINTS, TEXTS, extrapolation, point_rows
from ..words import counted, digits


def data(sweep: Sweep) -> Section | None:
    found = data_law(sweep)
    if found is None or found.points.empty:
        return None
    trained = f", all trained for {counted(found.epochs, 'epoch')}" if found.epochs else ""
    guide = (
        f"Orange is the best configuration of each amount of data, of those that ran to their end{trained}; tokens are "
        "the words predicted in one epoch. In equal epochs more data also means more steps."
    )
    if not found.law.reason:
        guide += " The band holds 95 of 100 further measurements, if the law holds; dotted lines go beyond the data."
    said = "".join(f'<p class="note">{escape(sentence)}</p>' for sentence in _sentences(found))
    body = f'<div class="after">{said}</div>{_points(found)}{_extrapolation(found)}'
    return Section("data", "Perplexity against data", guide, [figures.ppl_tokens(sweep)], body=body)


def _sentences(found: DataLaw) -> list[str]:
    law = found.law
    said = list(dict.fromkeys([*found.sentences, law.curvature_verdict, found.floor.verdict]))
    if not law.reason:
        said.insert(1, f"The law explains {digits(100 * law.r2, 3)} % of the variance of the {law.n} logarithms (R²).")
    return [sentence for sentence in said if sentence]


def _points(found: DataLaw) -> str:
    head = [(name, "" if name in TEXTS else "number") for name in POINTS]
    return table(head, point_rows(found))


def _extrapolation(found: DataLaw) -> str:
    head, rows = extrapolation(found)
    if not rows:
        return ""
    note = "What the law says of more data, should it go on to hold there, which no measurement shows:"
    return f'<p class="after note">{note}</p>{table([(name, "number") for name in head], rows)}'
