"""How the trials trained: learning curves, signals, early stopping."""

from html import escape

import numpy as np

from .. import figures
from ..best import UNFIT
from ..load import Sweep
from ..markup import Section
from ..plateau import plateau_sentence


def curves(sweep: Sweep) -> Section | None:
    if sweep.epochs.empty:
        return None
    rungs = "; dotted lines are the rungs at which trials are compared" if _any_rung(sweep) else ""
    guide = (
        f"Validation loss after each epoch, one line per trial, coloured by how it ended{rungs}. Hover for the trial."
    )
    return Section("curves", "Learning curves", guide, [figures.learning_curves(sweep)])


def _any_rung(sweep: Sweep) -> bool:
    return any(row.reached for row in figures.rung_survival_data(sweep))


def stopping(sweep: Sweep) -> Section | None:
    if not _any_rung(sweep):
        return None
    guide = "How many of the trials that reached a rung were let on, and how many were stopped there to save epochs."
    return Section("rungs", "Early stopping", guide, [figures.rung_survival(sweep)])


def signals(sweep: Sweep) -> Section | None:
    lines, said = figures.signals_data(sweep), plateau_sentence(sweep)
    if not said:
        return None
    drawn = [figures.signal_figure(one) for one in lines]
    captions = [(one.signal.title, one.signal.guide) for one in lines]
    if np.isfinite(figures.plateau_data(sweep).epoch).any():
        drawn.append(figures.plateau_figure(sweep))
        guide = (
            "Until then a trial only knows how often each word occurs. Early is good; what never left has not learned."
        )
        captions.append(("Leaving the unigram plateau", guide))
    which = "the trials that ran to their end" if sweep.trials["full_fidelity"].any() else "the trials"
    full = sweep.trials["full_fidelity"]
    if (full if full.any() else ~sweep.trials["state"].isin(UNFIT)).sum() > figures.MOST_LINES:
        which = f"the {figures.MOST_LINES} best of {which}"
    guide = f"What went on inside {which}, one line per trial, the best one orange."
    return Section(
        "signals", "Learning signals", guide, drawn, captions, body=f'<p class="after note">{escape(said)}</p>'
    )
