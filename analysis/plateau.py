"""When trials left the unigram plateau: the loss of a model that knows how often each word occurs and nothing more."""

from typing import Any

import pandas as pd

from .load import Sweep
from .tables import configured
from .words import counted, digits, listed

SIGNALS = ("noise_scale", "update_ratio", "dead_relu", "ctx_norm", "ctx_rank")
"""Columns of `Sweep.epochs` that say how a trial learns; a sweep of an older program has none of them."""
WINDOWS, TARGETS = 1024, 2**16
"""Windows, or targets, of which training takes the mean loss to see whether the plateau was left: with fewer of both
it does not look."""


def plateau(sweep: Sweep) -> pd.DataFrame:
    """The rows of `Sweep.trials` whose learning signals are known, with the further column `plateau_epoch`.

    It counts finished epochs and their parts (step 150 of 100 a time is 1.5), and is NaN where the trial never left.
    A trial that has not left counts as known only once it has surely read enough windows to be looked at.
    There are none where trials began with trained weights, which know more than word frequencies from the start.
    """
    rows = sweep.epochs[sweep.epochs[[*SIGNALS, "plateau_step"]].notna().any(axis=1)]
    per_epoch = rows.assign(steps=rows["step"] / rows["epoch"]).groupby("trial_id")["steps"].last()
    trials = sweep.trials[sweep.trials["trial_id"].isin(per_epoch.index)]
    trials = trials[trials["plateau_step"].notna() | trials["trial_id"].isin(_looked_at(sweep))]
    if configured(sweep.spec, "training.start"):
        trials = trials.iloc[:0]
    steps = trials["plateau_step"].astype("Float64").astype("float64")
    return trials.assign(plateau_epoch=steps / trials["trial_id"].map(per_epoch).astype("float64"))


def _looked_at(sweep: Sweep) -> list[str]:
    """Trials that have read enough windows; all of them where the length of a window is not known."""
    window, tokens = configured(sweep.spec, "corpus.window"), sweep.epochs.groupby("trial_id")["tokens"].max()
    # A full window has one target less than tokens, a padded one fewer.
    least = min(WINDOWS * (window - 1), TARGETS) if isinstance(window, int) else 0
    return [str(trial) for trial in tokens[tokens >= least].index]


def plateau_summary(sweep: Sweep) -> dict[str, Any] | None:
    """The same in numbers; None where nothing is known.

    `left_at` holds the moment for each trial that left, `judged` are the trials at full fidelity, or all while there
    are none, `stuck` those of them that never left.
    """
    trials = plateau(sweep)
    if trials.empty:
        return None
    never, full = trials["plateau_step"].isna(), trials["full_fidelity"]
    judged = full if full.any() else ~never | never
    return {
        "trials": len(trials),
        "left": int((~never).sum()),
        "never": trials.loc[never, "trial_id"].tolist(),
        "judged": int(judged.sum()),
        "stuck": int((judged & never).sum()),
        "left_at": {
            trial: {"step": int(step), "epoch": float(epoch)}
            for trial, step, epoch in zip(
                trials["trial_id"], trials["plateau_step"].fillna(-1), trials["plateau_epoch"], strict=True
            )
            if step >= 0
        },
        "median_step": None if never.all() else float(trials["plateau_step"].dropna().quantile(interpolation="lower")),
    }


def plateau_sentence(sweep: Sweep) -> str:
    """When the plateau was left, and by which trials it never was; empty where nothing is known."""
    trials = plateau(sweep).sort_values("plateau_step")
    if trials.empty:
        return ""
    left, never = trials[trials["plateau_step"].notna()], trials[trials["plateau_step"].isna()].sort_index()
    said = f"{len(left)} of {counted(len(trials), 'trial')} left the unigram plateau"
    if len(left):
        steps, epochs = left["plateau_step"].tolist(), left["plateau_epoch"].tolist()
        first, middle, last = (
            f"step {steps[at]:,} (epoch {digits(epochs[at], 2)})" for at in (0, (len(left) - 1) // 2, -1)
        )
        said += f": the first at {first}, half of them by {middle}, the last at {last}"
    names = never["trial_id"].tolist()
    return f"{said}." + (f" Never left by {listed(names)}." if names and len(left) else "")
