"""What ran: the best configurations, all settings at once, loss by setting, failures."""

import math
from collections import Counter
from html import escape

from .. import figures
from ..best import best
from ..failures import MEANINGS, failures
from ..figures.style import varied
from ..hazard import hazard_sentence
from ..listing import listing_html
from ..load import Sweep
from ..markup import Section, kind, table
from ..plateau import plateau
from ..tables import absent
from ..words import ABSENT, LONGEST_REASON, STATES, counted, cut, digits, export_command, fixed, label, shown


def best_configurations(sweep: Sweep) -> Section | None:
    ranking = best(sweep, 10)
    rows = ranking.trials.to_dict("records")
    if not rows:
        return None
    judged, left = ranking.alike is not None, _left_plateau(sweep)
    columns = ["trial", *(["mean val loss", "std", "seeds"] if sweep.seeds > 1 else []), "val loss", "behind"]
    columns += [*([""] if judged else []), "perplexity", "epochs", *(["left plateau"] if left else [])]
    head = [(name, "" if name in ("trial", "") else "number") for name in columns]
    head += [(label(path), kind(row[path] for row in rows)) for path in sweep.searched] + [("", "html")]
    cells = [
        [
            row["trial_id"],
            *([fixed(row["mean"]), _spread(row["deviation"]), str(row["replicates"])] if sweep.seeds > 1 else []),
            fixed(row["value"]),
            "" if index == 0 else fixed(row["behind"], 2),
            *(["within the noise" if index and row["alike"] is True else ""] if judged else []),
            fixed(row["ppl"]),
            str(row["epochs"]),
            *([left.get(row["trial_id"], "")] if left else []),
            *["" if absent(row[path]) else shown(row[path]) for path in sweep.searched],
            f'<details class="export"><summary>export</summary>{_command(sweep, row["trial_id"])}</details>',
        ]
        for index, row in enumerate(rows)
    ]
    guide = "Lowest validation loss first, among trials that ran to their end."
    if sweep.seeds > 1:
        guide = (
            f"Lowest mean validation loss over {sweep.seeds} seeds first, among trials that ran to their end, with the "
            "standard deviation over the seeds; val loss and perplexity are those of the trial named, the best of its "
            "seeds."
        )
    if judged:
        guide += (
            " Those within the noise are less than two standard errors behind: they cannot be told apart from the best."
        )
    elif len(rows) > 1:
        guide += " Which of them cannot be told apart from the best is not known: that takes several seeds of each."
    if left:
        guide += " “Left plateau” is the epoch in which the trial began to know more than word frequencies."
    if not ranking.full_fidelity:
        guide = "Lowest validation loss first. None of these trials has run to its end: the order may change."
    command = f'<p class="after note">Export the best one:</p><pre>{_command(sweep, rows[0]["trial_id"])}</pre>'
    return Section("best", "Best configurations", guide, body=table(head, cells, mark_first=True) + command)


def _left_plateau(sweep: Sweep) -> dict[str, str]:
    """The epoch in which each trial left the unigram plateau; empty where nothing is known."""
    known = plateau(sweep)
    return {
        trial: "never" if math.isnan(epoch) else digits(epoch, 2)
        for trial, epoch in zip(known["trial_id"], known["plateau_epoch"], strict=True)
    }


def _spread(deviation: float) -> str:
    return "" if math.isnan(deviation) else fixed(deviation, 2)


def _command(sweep: Sweep, trial_id: str) -> str:
    return f'<code class="command">{escape(export_command(sweep.folder, trial_id))}</code>'


def parallel(sweep: Sweep) -> Section | None:
    if sweep.trials.empty:
        return None
    data = figures.parallel_coordinates_data(sweep)
    if data.best is None or not data.high > data.low or len(data.axes) < 2:
        return Section("trials", "Trials", "Click a trial for commands about it.", body=listing_html(sweep))
    guide = (
        "Each line is a trial, the orange one the best; colour is the validation loss. "
        "Drag along an axis to keep only the lines that cross there; click the kept range to let go. "
        "The table shows the trials that are kept: click one for commands about it." + _on_absence(sweep)
    )
    if len(sweep.trials) > figures.MOST_DRAWN:
        guide += f" Drawn are {figures.MOST_DRAWN:,} of {len(sweep.trials):,} trials, evenly chosen; the table has all."
    return Section(
        "parallel",
        "All settings at once",
        guide,
        [figures.parallel_coordinates(sweep)],
        body=listing_html(sweep),
        least_width=150 + 105 * len(data.axes),
    )


def _on_absence(sweep: Sweep) -> str:
    some = any(sweep.trials[path].map(absent).any() for path in varied(sweep))
    return f" A trial that does not have a setting stands at “{ABSENT}”." if some else ""


def slices(sweep: Sweep) -> Section | None:
    if not varied(sweep) or sweep.trials["value"].isna().all():
        return None
    guide = (
        "The validation loss against one setting at a time. Blue dots ran to their end, grey circles were stopped "
        "early, orange is the best; crosses on the upper edge diverged or failed, triangles there lie above the frame."
        + _on_absence(sweep)
    )
    return Section("slices", "Loss by setting", guide, [figures.slice_figure(sweep, path) for path in varied(sweep)])


def failed(sweep: Sweep) -> Section:
    rows = failures(sweep)
    if not rows:
        return Section("failures", "Failures", "No failures.")
    head = [("trial", ""), ("state", ""), ("reason", "text"), ("epochs", "number")]
    settings = {path: [row.parameters.get(path, math.nan) for row in rows] for path in sweep.searched}
    head += [(label(path), kind(values)) for path, values in settings.items()]
    cells = [
        [
            row.trial_id,
            STATES[row.state],
            cut(row.reason, LONGEST_REASON),
            str(row.epochs),
            *(shown(settings[path][at]) for path in settings),
        ]
        for at, row in enumerate(rows)
    ]
    guide = f"{counted(len(rows), 'trial')} gave no result. Epochs are those finished before the end."
    found = Counter(row.state for row in rows)
    meant = [(f"{found[state]} {STATES[state]}", meaning) for state, meaning in MEANINGS.items() if found[state]]
    listed = "".join(f"<dt>{escape(count)}</dt><dd>{escape(meaning)}</dd>" for count, meaning in meant)
    where = figures.hazard_data(sweep)
    drawn = [figures.hazard_figure(where)] if where else []
    said = f'<p class="after">{escape(hazard_sentence(where))}</p>' if where else ""
    return Section("failures", "Failures", guide, drawn, body=f"{said}<dl>{listed}</dl>{table(head, cells)}")
