"""The best configuration against what else is known: word frequencies, the other configurations, published runs."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..best import best
from ..load import Sweep
from ..markdown import bullets, paragraph, plain, table
from ..phases import phases
from ..published import PUBLISHED, PublishedRun
from ..tables import configured
from ..words import counted, digits, fixed
from .course import Course, word_frequencies

LOSSES = ("what", "val loss", "perplexity", "above the best")
_PUBLISHED_CORPUS = {"corpus.name": "wikitext-2", "corpus.vocab_size": 1000, "corpus.window": 64}


def against(sweep: Sweep, one: Course, content: Mapping[str, Any]) -> Iterator[str]:
    """Blocks of Markdown.

    Args:
        one: the course of the best trial.
        content: the sweep's summary.
    """
    yield "## Comparison"
    rows = list(_losses(sweep, one, content))
    yield table(LOSSES, rows)
    if measured_as_published(sweep):
        yield from published(sweep, one)


def _losses(sweep: Sweep, one: Course, content: Mapping[str, Any]) -> Iterator[list[str]]:
    first = content["best"][0]["mean"]
    frequencies = word_frequencies(sweep)
    if not math.isnan(frequencies):
        yield loss_row("word frequencies alone", frequencies, first)
    others = best(sweep, len(sweep.trials))
    if others.full_fidelity and len(others.trials) > 2:
        count = counted(len(others.trials), "configuration")
        yield loss_row(f"median of the {count} that ran to the end", float(others.trials["mean"].median()), first)
    seeds = f", mean of {content['best'][0]['replicates']} seeds" if content["best"][0]["replicates"] > 1 else ""
    yield loss_row(f"best, trial {plain(one.trial['trial_id'])}{seeds}", first, None)
    if content["test_loss"] is not None:
        yield loss_row("the same on the test split", content["test_loss"], None)


def loss_row(what: str, loss: float, first: float | None) -> list[str]:
    """Of the table of losses: `first` is the best one."""
    ppl = math.exp(loss) if loss < 700 else math.inf
    return [what, fixed(loss), fixed(ppl), "" if first is None else fixed(loss - first, 3)]


def measured_as_published(sweep: Sweep) -> bool:
    """Whether the sweep's corpus is that of the published runs, be it cut into other windows."""
    words = configured(sweep.spec, "corpus.tokenizer") in (None, "words")
    alike = all(configured(sweep.spec, path) == value for path, value in _PUBLISHED_CORPUS.items())
    return words and alike and configured(sweep.spec, "corpus.max_samples") is None


def published(sweep: Sweep, one: Course) -> Iterator[str]:
    """A table of the runs that the original research published, beside the best trial."""
    yield "### The original research's runs on this corpus"
    losses = np.fmin.accumulate(one.rows["val_loss_legacy"].to_numpy(dtype="float64"))
    epochs = one.rows["epoch"].to_numpy()
    head = ["run", "layers", "context", "parameters", "batch", "lr", "epochs", "left plateau", "perplexity"]
    rows = [[*_described(run), *_ours(run, epochs, losses)] for run in PUBLISHED]
    yield table([*head, "here by then", "here"], [*rows, _own(sweep, one, float(losses[-1]))])
    notes = "Perplexity by the mean of batch means, as the original measured; here by then is the lowest one of trial "
    notes += f"{plain(one.trial['trial_id'])} up to the epochs of that run, and by how much lower or higher it is."
    if configured(sweep.spec, "corpus.windowing") != "original":
        notes += " The original dropped 9 % of the text and counted half of the rest twice (windowing: original), which"
        notes += " this sweep does not, so its perplexities are of a slightly other text."
    yield paragraph(notes)
    yield bullets(f"{run.name} ({run.device}, {run.precision}): {plain(run.caution)}." for run in PUBLISHED)


def _described(run: PublishedRun) -> list[str]:
    left = phases(list(run.curve), [math.log(ppl) for ppl in run.curve.values()]).left
    numbers = [str(run.layers), str(run.ctx_dim), f"{run.parameters:,}", f"{run.batch_size:,}", digits(run.lr)]
    return [run.name, *numbers, str(run.epochs), "" if math.isnan(left) else f"epoch {left:.0f}", fixed(run.ppl)]


def _ours(run: PublishedRun, epochs: np.ndarray, losses: np.ndarray) -> list[str]:
    """Our lowest perplexity in as many epochs; nothing where we trained for fewer."""
    if epochs[-1] < run.epochs:
        return ["", ""]
    ppl = math.exp(float(losses[np.searchsorted(epochs, run.epochs, side="right") - 1]))
    return [fixed(ppl), f"{100 * (ppl / run.ppl - 1):+.1f} %"]


def _own(sweep: Sweep, one: Course, lowest: float) -> list[str]:
    row = sweep.trials.index[sweep.trials["trial_id"] == one.trial["trial_id"]][0]
    paths = ("model.num_layers", "model.ctx_dim", "training.batch_size")
    layers, ctx, batch = (sweep.setting(path)[row] for path in paths)
    last = one.rows.iloc[-1]
    left = "" if one.left_step is None else f"epoch {digits(one.left_step * last['epoch'] / last['step'], 2)}"
    size = one.trial["model_size"]
    whole = ["" if each is None else digits(int(each)) for each in (layers, ctx)]
    return [
        *("here", *whole, f"{size:,}" if size == size and size is not None else "", digits(int(batch))),
        *(digits(one.trial["lr"]), str(one.trial["epochs"]), left, fixed(math.exp(lowest)), "", ""),
    ]
