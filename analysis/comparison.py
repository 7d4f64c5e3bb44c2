"""Several sweeps and one set of questions: what each answers, which is better, and whether that may be asked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .anytime import best_so_far
from .best import best
from .data_law import data_law
from .differences import differences
from .fairness import Fairness, fairness
from .load import Sweep
from .lr_law import BATCH
from .power_law import Interval, ends, near
from .questions import QUESTIONS
from .standings import Standing, standings
from .summary import plain, summary
from .untrusted import printable
from .words import counted, digits
from .yardstick import by_value, conjoined


def compare(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """The same questions to several sweeps, ready for JSON.

    Returns:
        `names` of the sweeps, which everything else uses in their order; `answers`, sentences on all together;
        `questions`, each with one text for each sweep; `fairness`; `standings`, the lowest loss first, empty where the
        losses cannot be compared or fewer than two sweeps have a trial that ran to its end; `differences` of the sweep
        files; `sweeps`, the summary of each, with its best `curve` and its `best_so_far`.

    Raises:
        ValueError: fewer than two sweeps.
    """
    if len(sweeps) < 2:
        raise ValueError(f"a comparison needs at least two sweeps, got {len(sweeps)}")
    names = short_names(sweeps)
    contents = [summary(sweep, k=1) for sweep in sweeps]
    fair = fairness(sweeps, names)
    ranked = standings(sweeps, names) if fair.comparable is not False else []
    said = [*_on_fairness(fair, names), *_on_best(ranked, contents, names, fair), *fair.budget]
    said += [*_on_work(sweeps, names, fair), *_on_exponents(contents, names), *_on_data(sweeps), *fair.notes]
    return {
        "names": [printable(name) for name in names],
        "answers": [printable(sentence) for sentence in said],
        "questions": [
            {"question": question, "answers": texts}
            for question, ask in QUESTIONS.items()
            if any(texts := [printable(ask(content)) for content in contents])
        ],
        "fairness": fair._asdict() | {"fair": fair.fair},
        "standings": [plain(standing._asdict()) for standing in ranked],
        "differences": [difference._asdict() for difference in differences(sweeps)],
        "sweeps": [_described(sweep, content) for sweep, content in zip(sweeps, contents, strict=True)],
    }


def short_names(sweeps: Sequence[Sweep]) -> list[str]:
    """The folder's name of each sweep, with as many folders above it as tell equal names apart."""
    parts = [sweep.folder.resolve().parts for sweep in sweeps]
    names = [sweep.name for sweep in sweeps]
    for depth in range(2, max(map(len, parts)) + 1):
        count = Counter(names)
        names = ["/".join(part[-depth:]) if count[name] > 1 else name for name, part in zip(names, parts, strict=True)]
    return names


def _on_fairness(fair: Fairness, names: Sequence[str]) -> list[str]:
    if fair.comparable:
        return []
    which = f"The losses of {conjoined(names)}"
    if fair.comparable is None:
        return [f"It is not known whether the losses of {conjoined(names)} can be compared.", *fair.reasons]
    return [f"{which} cannot be compared: they were not measured alike.", *fair.reasons]


def _on_best(
    ranked: Sequence[Standing], contents: Sequence[Mapping[str, Any]], names: Sequence[str], fair: Fairness
) -> list[str]:
    """Which sweep has the lowest loss, and by more than chance or not."""
    if fair.comparable is False:
        return []
    without = [name for name in names if name not in {standing.sweep for standing in ranked}]
    missing = [f"No trial of {conjoined(without)} has run to its end."] if without else []
    if len(ranked) < 2:
        return [*missing, "So there is nothing to compare yet."] if missing else []
    first, others = ranked[0], ranked[1:]
    words = f"{first.sweep} has the lowest validation loss, {digits(first.loss)}"
    said = [f"{words}; {', '.join(_behind(standing) for standing in others)}."]
    if all(standing.noise is None for standing in others):
        said.append("No sweep trained a configuration with several seeds, so how much of that is chance is not known.")
    elif any(content["seeds"] == 1 for content in contents):
        said.append("The noise is that of the sweeps with several seeds, taken for the others as well.")
    return said + missing


def _behind(standing: Standing) -> str:
    words = f"{standing.sweep} is {digits(standing.behind, 2)} nats per token behind"
    if standing.noise is None:
        return words
    if standing.behind > standing.noise:
        return f"{words} (more than the noise of the seeds, ± {digits(standing.noise, 2)})"
    return f"{words} (within the noise of the seeds, ± {digits(standing.noise, 2)}: not known which is better)"


def _on_work(sweeps: Sequence[Sweep], names: Sequence[str], fair: Fairness) -> list[str]:
    """How far each had come after as much work as the shortest did."""
    curves = [(name, *best_so_far(sweep)) for name, sweep in zip(names, sweeps, strict=True)]
    curves = [(name, spent, lowest) for name, spent, lowest in curves if spent.size]
    if fair.comparable is False or len(curves) < 2:
        return []
    common = min(int(spent[-1]) for _, spent, _ in curves)
    reached = [(name, lowest[spent <= common]) for name, spent, lowest in curves]
    if not all(lowest.size for _, lowest in reached):
        return []
    texts = [f"{name} {digits(float(lowest[-1]))}" for name, lowest in reached]
    return [f"After {counted(common, 'epoch')} of all trials together the lowest loss was: {', '.join(texts)}."]


def _on_exponents(contents: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    """The exponents of the learning rate against the batch size, where two sweeps or more have one with an interval."""
    found: list[tuple[float, Interval, str]] = []
    for content, name in zip(contents, names, strict=True):
        for law in content["lr_laws"]:
            if law["against"] == BATCH and law["interval"] and None not in law["interval"]:
                found.append((law["exponent"], (law["interval"][0], law["interval"][1]), name))
    if len(found) < 2:
        return []
    texts = [f"{near(value, reach)} ({' to '.join(ends(reach))})" for value, reach, _ in found]
    alike = max(reach[0] for _, reach, _ in found) <= min(reach[1] for _, reach, _ in found)
    overlap = "the intervals overlap" if alike else "the intervals do not all overlap"
    who = by_value(texts, [name for _, _, name in found])
    return [f"The best learning rate goes with the batch size to the power of {who} (95 % intervals): {overlap}."]


def _on_data(sweeps: Sequence[Sweep]) -> list[str]:
    """What all of them together say of the amount of data, where that is enough for a law."""
    found = data_law(sweeps)
    return [] if found is None or found.law.reason else found.sentences


def _described(sweep: Sweep, content: Mapping[str, Any]) -> dict[str, Any]:
    spent, lowest = best_so_far(sweep)
    first = sweep.trials.loc[best(sweep, 1).trials.index, "trial_id"]
    curve = sweep.epochs[sweep.epochs["trial_id"].isin(first)]
    added = {
        "folder": str(sweep.folder),
        "curve": curve[["epoch", "val_loss"]].values.tolist(),
        "best_so_far": np.column_stack([spent, lowest]).tolist(),
    }
    return {key: value for key, value in content.items() if key != "provenance"} | dict(plain(added))
