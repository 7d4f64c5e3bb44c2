"""The page of one training under a name: what its `NAME_progress.json` says, in words and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from .figures.training_curves import (
    accuracy_figure,
    loss_figure,
    ppl_figure,
    rate_figure,
    training_curves_data,
)
from .markup import Section
from .phases import MUCH_LOWER
from .words import counted, digits, duration

IMPROVEMENT = 0.001
"""Nats per token that an epoch must gain to be called one (original research, early stopping)."""


def about(progress: Mapping[str, Any]) -> str:
    """The experiment in one line."""
    config = progress["config"]
    sizes = f"{config['parameters']:,} parameters, {config['corpus']}, batch size {config['batch_size']:,}"
    return f"{sizes}, learning rate {digits(config['learning_rate'])}, {config['precision']}"


def said(progress: Mapping[str, Any]) -> list[str]:
    """How far it is, how good, and how it ended."""
    best, done, asked = progress["best_epoch"], progress["current_epoch"], progress["total_epochs"]
    ppl, accuracy = progress["best_val_ppl"], progress["val_accs"][best - 1]
    sentences = [
        f"The best epoch is {best}: validation loss {progress['best_val_loss']:.4f}"
        + (f", perplexity {digits(ppl)}" if ppl is not None else "")
        + f", accuracy {accuracy:.1%}."
    ]
    seconds = sum(progress["seconds"])
    time = f"in {duration(seconds)}, {digits(seconds / done, 3)} s an epoch"
    if progress["stopped_early"]:
        late = f"{done - best} after the best"
        sentences.append(f"Early stopping ended it after epoch {done} of {asked}, {late}; {time}.")
    elif progress["finished"]:
        sentences.append(f"{_all(done)} trained {time}.")
        losses = progress["val_losses"]
        if best == done and done > 1 and losses[-2] - losses[-1] > IMPROVEMENT:
            sentences.append(_more(progress["lrs"]))
    else:
        sentences.append(f"So far {done} of {counted(asked, 'epoch')} are trained, {time}.")
    sentences += [
        f"From epoch {stage['after'] + 1} on the learning rate follows a new course, {stage['lr_schedule']['name']} "
        f"from {digits(stage['lr'])}, laid out over {counted(stage['epochs'], 'epoch')}."
        for stage in progress["lr_stages"]
    ]
    return sentences


def _more(rates: Sequence[float]) -> str:
    """What more epochs may do for a training that was still improving."""
    said, share = "It was still improving at the end", rates[-1] / max(rates)
    if share < MUCH_LOWER:
        return (
            f"{said}, where its learning rate had fallen to {digits(100 * share, 2)} % of the highest: more epochs may "
            "pay with a new course of it (--new-schedule)."
        )
    return f"{said}: more epochs may pay."


def _all(epochs: int) -> str:
    return "Its one epoch was" if epochs == 1 else f"All {epochs:,} epochs were"


def parts(progress: Mapping[str, Any]) -> list[Section]:
    """The page's sections."""
    data = training_curves_data(progress)
    cut = "" if data.tallest is None else " The axis is cut: the first epochs lie above it."
    course = " Dotted lines: a new course of the learning rate begins." if data.courses else ""
    dropout = ", with dropout," if progress["config"]["dropout"] else ""
    learned = [
        ("Loss", f"Train{dropout} over the epoch, before each step; validation after it.{course}"),
        ("Perplexity", f"e to the power of the loss: among how many words the model hesitates.{cut}"),
    ]
    steered = [
        ("Accuracy", "How often the likeliest word of the validation text was the right one."),
        ("Learning rate and clip limit", "Of the last step of each epoch."),
    ]
    return [
        Section("learned", "Loss and perplexity", "", [loss_figure(data), ppl_figure(data)], learned),
        Section("steered", "Accuracy and what steered it", "", [accuracy_figure(data), rate_figure(data)], steered),
    ]
