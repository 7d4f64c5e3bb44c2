"""The sections of a page as HTML, their figures as data for the page's script."""

from collections.abc import Sequence
from html import escape

from .figures import Figure
from .figures.compact import Texts, compact
from .markup import Section


def body(parts: Sequence[Section]) -> str:
    """All sections, and after them the texts that their figures share."""
    texts = Texts()
    made = [_section(part, texts) for part in parts]
    return "\n".join([*made, f'<script type="application/json" id="data-texts">{texts.to_json()}</script>'])


def _section(part: Section, texts: Texts) -> str:
    made = [compact(figure, texts) for figure in part.figures]
    drawn = [_figure(figure, one.json, part.least_width) for figure, one in zip(part.figures, made, strict=True)]
    for index, (title, text) in enumerate(part.captions):
        drawn[index] = (
            f'<div class="panel"><h3>{escape(title)}</h3><p class="note">{escape(text)}</p>{drawn[index]}</div>'
        )
    figures = "\n".join(drawn)
    if len(part.figures) > 1:
        figures = f'<div class="grid">{figures}</div>'
    guide = f'<p class="guide">{escape(part.guide)}</p>' if part.guide else ""
    shown, points = sum(one.drawn for one in made), sum(one.points for one in made)
    if shown < points:
        guide += f'<p class="note">Drawn are {shown:,} of {points:,} points, evenly chosen.</p>'
    return f'<section id="{part.anchor}">\n<h2>{escape(part.title)}</h2>\n{guide}\n{figures}\n{part.body}</section>'


def _figure(figure: Figure, content: str, least_width: int) -> str:
    # Its height keeps the page from jumping while figures are drawn one after the other.
    style = f"min-height: {figure.layout.height:g}px" + (f"; --least: {least_width}px" if least_width else "")
    return (
        f'<div class="wide"><div class="figure" style="{style}"></div>'
        f'<script type="application/json">{content}</script></div>'
    )
