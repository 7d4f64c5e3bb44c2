"""What configurations cost: fronts of loss against size, time and memory; throughput and memory."""

from html import escape

from .. import figures
from ..load import Sweep
from ..markup import Section, table
from ..pareto import Front, pareto_sentences, priced
from ..words import digits, export_command, fixed

_TITLES = {"parameters": "Against size", "seconds": "Against training time", "memory": "Against memory"}

MOST_ROWS = 8
"""Points of a front that its table holds: the best ones."""


def fronts(sweep: Sweep) -> Section | None:
    found = figures.pareto_data(sweep)
    if not found:
        return None
    guide = (
        "Each dot is a configuration that ran to its end. Those on the line are worth choosing: nothing costs less and "
        "is better. The diamond is the best one."
    )
    said = "".join(f'<p class="after">{escape(text)}</p>' for text in pareto_sentences(sweep))
    body = said + "".join(_table(sweep, front) for front in found)
    drawn = [figures.pareto_figure(sweep, front) for front in found]
    captions = [(_TITLES[front.cost], "") for front in found]
    return Section("pareto", "Loss against cost", guide, drawn, captions, body=body)


def _table(sweep: Sweep, front: Front) -> str:
    head = [("trial", ""), ("cost", "number"), ("val loss", "number"), ("behind", "number"), ("", "html")]
    points = front.points[-MOST_ROWS:]
    rows = [
        [
            point.trial_id,
            priced(front.cost, point.cost),
            fixed(point.mean),
            f"{digits(100 * point.behind / abs(front.points[-1].mean), 2)} %" if point.behind else "",
            f'<details class="export"><summary>export</summary>'
            f'<code class="command">{escape(export_command(sweep.folder, point.trial_id))}</code></details>',
        ]
        for point in points
    ]
    more = len(front.points) - len(points)
    note = f'<p class="note">The best {len(points)} of the {len(front.points)} on the line.</p>' if more else ""
    return f'<h3 class="after">{_TITLES[front.cost]}</h3>{table(head, rows)}{note}'


def throughput(sweep: Sweep) -> Section | None:
    panels = figures.cost_data(sweep)
    if not panels:
        return None
    guide = (
        "Tokens trained per second (median of a trial's epochs) and the highest memory of any epoch; the line joins "
        "the medians, the diamond is the best trial. Trials that ran at once shared the machine."
    )
    return Section(
        "throughput", "Throughput and memory", guide, [figures.cost_figure(sweep, panel) for panel in panels]
    )
