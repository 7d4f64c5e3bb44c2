"""How one trial trained: its epochs, and the phases of its curve in numbers."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pandas as pd

from ..load import Sweep
from ..markdown import table
from ..phases import Phases, phases
from ..plateau import plateau
from ..tables import absent, configured
from ..words import digits, fixed

EVERY = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MOST_ROWS = 24
"""Of the evenly spaced rows of a table by epoch; turning points come on top."""

KINDS = {
    "fast": "fast descent",
    "slow": "slow descent",
    "plateau": "plateau",
    "setback": "setback",
    "flat": "no progress",
    "overfitting": "overfitting",
    "divergence": "divergence",
}


def percent(share: float) -> str:
    """Empty where it is not known."""
    # As Python's own number, whose overflow is infinity without a word.
    return "" if absent(share) else f"{100 * float(share):.1f} %"


def _number(value: float, significant: int = 4) -> str:
    return "" if absent(value) else fixed(value, significant)


COLUMNS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("epoch", "epoch", str),
    ("step", "step", "{:,}".format),
    ("train_loss", "train loss", _number),
    ("val_loss", "val loss", _number),
    ("val_ppl", "perplexity", _number),
    ("val_acc", "accuracy", percent),
    ("lr", "learning rate", digits),
    ("clip", "clip norm", lambda value: "" if absent(value) else digits(value, 3)),
    ("clipped_share", "clipped", percent),
    ("grad_norm", "gradient", partial(_number, significant=3)),
    ("seconds", "seconds", "{:,.1f}".format),
)
"""Of a table by epoch: fields of the records, their heads, and how their values are put."""
CONSTANT = ("lr", "clip", "clipped_share")
"""Those that are left out where they never change."""


class Course(NamedTuple):
    """One trial's epochs and what its curve did."""

    trial: dict[str, Any]
    """Its row of `Sweep.trials`."""
    rows: pd.DataFrame
    found: Phases
    frequencies: float
    """Loss of a model that knows how often each word occurs and nothing more (nats per token); NaN: not known."""
    parameters: int | None
    """Scalars of the model."""
    left_step: int | None
    """Optimizer step at which the training loss was clearly below that, by the trial's own records."""
    watched: bool
    """Whether the records say when that was; then no `left_step` means never."""
    fine_tuned: bool
    """Whether it began with trained weights, which know more than word frequencies from the start."""


def course(sweep: Sweep, trial_id: str) -> Course:
    """The course of a trial that has epochs."""
    rows = sweep.epochs[sweep.epochs["trial_id"] == trial_id].sort_values("epoch")
    found = sweep.trials[sweep.trials["trial_id"] == trial_id].to_dict("records")[0]
    trial = {str(name): value for name, value in found.items()}
    known = plateau(sweep)
    watched, step = bool((known["trial_id"] == trial_id).any()), trial["plateau_step"]
    return Course(
        trial=trial,
        rows=rows,
        found=phases(*(rows[name].tolist() for name in ("epoch", "val_loss", "train_loss"))),
        frequencies=word_frequencies(sweep),
        left_step=int(step) if watched and not pd.isna(step) else None,
        parameters=None if pd.isna(trial["model_size"]) else int(trial["model_size"]),
        watched=watched,
        fine_tuned=configured(sweep.spec, "training.start") is not None,
    )


def word_frequencies(sweep: Sweep) -> float:
    """Validation loss of word frequencies alone (nats per token); NaN where it is not known."""
    ppl = configured(sweep.provenance, "data.stats.validation.unigram_ppl")
    return math.log(ppl) if isinstance(ppl, int | float) and ppl > 0 else math.nan


def epoch_table(one: Course) -> str:
    """Evenly spaced epochs, and those at which the curve turns."""
    chosen, marks = epochs_shown(one), _marks(one)
    shown = [(name, head, text) for name, head, text in COLUMNS if _changes(one, name)]
    cells = [
        [*(text(row[name]) for name, _, text in shown), marks.get(row["epoch"], "")]
        for row in one.rows[one.rows["epoch"].isin(chosen)].to_dict("records")
    ]
    return table([*(head for _, head, _ in shown), ""], cells, [*[True] * len(shown), False])


def epoch_notes(one: Course) -> str:
    """What the table's columns mean, and what they leave out because it never changed."""
    said = ["Losses are nats per token, that of training the mean over the epoch; gradient is the mean norm before"]
    said.append("clipping.")
    same = [(name, head, text) for name, head, text in COLUMNS if name in CONSTANT and not _changes(one, name)]
    held = [f"{head} {text(one.rows[name].iloc[0])}" for name, head, text in same if one.rows[name].notna().any()]
    return " ".join([*said, *([f"Throughout: {', '.join(held)}."] if held else [])])


def _changes(one: Course, name: str) -> bool:
    """Whether a column has anything to show."""
    values = one.rows[name].dropna()
    return bool(len(values)) and (name not in CONSTANT or values.nunique() > 1)


def epochs_shown(one: Course) -> set[int]:
    """Evenly spaced epochs, the first, the last and the lowest one, and those at which the curve turns."""
    epochs = one.rows["epoch"].tolist()
    step = next((step for step in EVERY if len(epochs) <= step * MOST_ROWS), EVERY[-1])
    return {epoch for epoch in epochs if epoch % step == 0} | {
        *epochs[:1],
        *epochs[-1:],
        *one.found.turns,
        *_marks(one),
    }


def _marks(one: Course) -> dict[int, str]:
    """What is to be said of single epochs."""
    found = {} if pd.isna(one.trial["best_epoch"]) else {int(one.trial["best_epoch"]): "lowest"}
    if not math.isnan(one.found.left):
        found.setdefault(math.ceil(one.found.left), "left the plateau")
    return found


def phase_table(one: Course) -> str:
    """One row for each phase; empty where the curve is too short for any."""
    steps = dict(zip(one.rows["epoch"], one.rows["step"], strict=True))
    rows = [
        [
            KINDS[phase.kind] if phase.kind != "fast" or not _before_plateau(one, at) else "first fall",
            f"{phase.first} to {phase.last}",
            f"{steps[phase.first]:,} to {steps[phase.last]:,}" if {phase.first, phase.last} <= steps.keys() else "",
            f"{fixed(phase.start)} to {fixed(phase.end)}",
            digits(phase.rate, 2),
        ]
        for at, phase in enumerate(one.found.phases)
    ]
    head = ["phase", "epochs", "steps", "val loss", "nats per epoch"]
    return table(head, rows) if rows else ""


def _before_plateau(one: Course, at: int) -> bool:
    return any(phase.kind == "plateau" for phase in one.found.phases[at + 1 :])
