"""How one trial trained, in sentences: when it left the plateau, what came when, and whether it was over."""

import math
from collections.abc import Iterator

from ..load import Sweep
from ..markdown import bullets, plain
from ..phases import LEAST_RATE, MUCH_LOWER
from ..tables import absent, configured
from ..words import counted, digits
from .course import Course, percent

CONVERGED = LEAST_RATE
"""Nats per token and epoch below which training has converged, unless early stopping has a least progress."""
UNIGRAM = 0.15
"""Nats per token within which a plateau is that of word frequencies."""


def phase_words(sweep: Sweep, one: Course) -> str:
    """What its epochs and phases say, as a list."""
    said = [*_on_phase_one(one), *_on_plateau(one), *_on_gain(one), *_on_signals(one), *_on_end(sweep, one)]
    return bullets(plain(sentence) for sentence in said)


def _on_phase_one(one: Course) -> Iterator[str]:
    """The fixed points that contexts were brought to before the first epoch, in the family that does so."""
    first = one.rows.iloc[0]
    taken, settled = first.get("fixed_point_iterations"), first.get("fixed_point_converged")
    if taken is not None and not absent(taken):
        share = "" if settled is None else percent(settled)
        share = f", by which {share} of the contexts had settled" if share else ""
        yield f"Phase one took {counted(int(taken), 'iteration')}{share}."


def _on_plateau(one: Course) -> Iterator[str]:
    """The plateau of word frequencies, by the signals on record where there are any, else by the curve."""
    above = "" if math.isnan(one.frequencies) else f" (validation loss {digits(one.frequencies)})"
    if one.watched and one.left_step is None:
        yield f"The unigram plateau was never left: the model learned little more than word frequencies{above}."
    elif one.left_step is not None:
        last = one.rows.iloc[-1]
        epoch = one.left_step / (float(last["step"]) / float(last["epoch"]))
        yield (
            f"The unigram plateau, what word frequencies alone give{above}, was left at step {one.left_step:,} "
            f"(epoch {digits(epoch, 2)})."
        )
    if math.isnan(one.found.left):
        return
    said = f"The loss stood still at {digits(one.found.level)} (perplexity {digits(math.exp(one.found.level))}) until "
    said += f"epoch {digits(one.found.left, 3)}"
    if one.watched or math.isnan(one.frequencies):
        yield f"{said}."
    elif abs(one.found.level - one.frequencies) < UNIGRAM:
        yield f"{said}: the unigram plateau, as word frequencies alone give {digits(one.frequencies)}."
    else:
        yield f"{said}; word frequencies alone give {digits(one.frequencies)}."


def _on_gain(one: Course) -> Iterator[str]:
    """How much of what was learned came when."""
    lowest, first = one.trial["value"], float(one.rows["val_loss"].iloc[0])
    if absent(lowest):
        return
    whole = one.frequencies - lowest
    if whole > 0 and not one.fine_tuned:
        share = (one.frequencies - first) / whole
        yield (
            f"From word frequencies to the lowest loss it is {digits(whole, 3)} nats; "
            f"{digits(100 * max(share, 0.0), 2)} % of them were gained in the first epoch."
        )
    fast = [phase for phase in one.found.phases if phase.kind == "fast"][-1:]
    if fast and first > lowest and len(one.found.phases) > 1:
        share = (fast[0].start - fast[0].end) / (first - lowest)
        yield (
            f"Of what came after the first epoch, {digits(100 * share, 2)} % came in the fast descent of epochs "
            f"{fast[0].first} to {fast[0].last}."
        )
    best = one.rows[one.rows["epoch"] == one.trial["best_epoch"]].iloc[0]
    gap = float(best["val_loss"] - best["train_loss"])
    if math.isfinite(gap):
        than = "above" if gap >= 0 else "below"
        yield f"At the lowest loss, validation was {digits(abs(gap), 2)} nats {than} training."


def _on_end(sweep: Sweep, one: Course) -> Iterator[str]:
    """Whether training was over."""
    found, last = one.found, int(one.rows["epoch"].iloc[-1])
    kind = found.phases[-1].kind if found.phases else ""
    if one.trial["state"] == "diverged":
        yield f"Diverged: {one.trial['reason']}."
    elif kind == "divergence":
        yield f"Diverged after epoch {found.best}: both losses rise."
    elif kind == "overfitting":
        rise = found.phases[-1].end - found.phases[-1].start
        yield (
            f"Overfitting from epoch {found.best} on: validation rose by {digits(rise, 2)} nats to epoch {last} while "
            "training went on falling."
        )
    elif kind == "flat" and found.best == last and found.tail_rate >= least_progress(sweep):
        yield (
            f"Whether it has converged cannot be told: {digits(found.tail_rate, 2)} nats per epoch over the last "
            f"{counted(found.tail, 'epoch')} may be noise."
        )
    elif kind == "flat":
        after = f"no lower loss after epoch {found.best}" if found.best < last else "next to no progress in all epochs"
        yield f"Converged: {after}."
    elif found.tail:
        over = f"over the last {counted(found.tail, 'epoch')}"
        if found.tail_rate < least_progress(sweep):
            yield f"Converged: {digits(max(found.tail_rate, 0.0), 2)} nats per epoch {over}."
        else:
            yield f"Still improving at the end: {digits(found.tail_rate, 2)} nats per epoch {over}{_doubling(one)}."
    peak, end = one.rows["lr"].max(), one.rows["lr"].iloc[-1]
    if end < MUCH_LOWER * peak:
        yield f"The learning rate had fallen to {digits(100 * end / peak, 2)} % of its peak by then."


def _doubling(one: Course) -> str:
    last = int(one.rows["epoch"].iloc[-1])
    if math.isnan(one.found.doubled) or last < 2:
        return ""
    said = f"; doubling the epochs from {digits(last / 2)} to {last} brought {digits(one.found.doubled, 2)} nats"
    if math.isnan(one.found.doubling):
        return said
    return f"{said}, the next doubling may bring {digits(one.found.doubling, 2)} if that goes on shrinking as it has"


def least_progress(sweep: Sweep) -> float:
    """Nats per token and epoch below which nobody would train on."""
    asked = configured(sweep.spec, "training.early_stopping.min_delta")
    return float(asked) if isinstance(asked, int | float) and asked > 0 else CONVERGED


def _on_signals(one: Course) -> Iterator[str]:
    """What the model looked like at the lowest loss."""
    best = one.rows[one.rows["epoch"] == one.trial["best_epoch"]]
    if best.empty:
        return
    row = best.iloc[0]
    words = [
        ("noise_scale", f"gradient noise of {_shown(row['noise_scale'], 2)} windows"),
        ("update_ratio", f"updates of {_shown(row['update_ratio'], 2)} of the weights"),
        ("dead_relu", f"{percent(row['dead_relu'])} of the hidden units dead"),
        ("ctx_norm", f"contexts of length {_shown(row['ctx_norm'], 2)}"),
        ("ctx_rank", f"{_shown(row['ctx_rank'], 2)} dimensions filled by them"),
    ]
    if known := [text for name, text in words if not absent(row[name])]:
        yield f"Then: {', '.join(known)}."


def _shown(value: float, significant: int) -> str:
    return "" if absent(value) else digits(value, significant)
