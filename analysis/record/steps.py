"""What to run next, as far as numbers say so, each with its command."""

import math
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..answers import larger_budget
from ..commands import constants
from ..data_law import DATA, data_law
from ..hazard import hazard, hazard_sentence
from ..load import Sweep
from ..phases import MUCH_LOWER
from ..proposal import NEXT_FILE, proposal
from ..tables import absent, configured
from ..words import counted, digits, duration, resume_command
from .course import Course
from .course_words import least_progress
from .step import Step, again, search, setting
from .widening import widenings

MOST_SEEDS = 30
"""Beyond which nobody would replicate: the two are equal for all purposes."""
LEAST_SEEDS = 3
MANY_FAILED = 0.15
"""Share of the trials that came to nothing from which on the range is worth narrowing."""
WITHOUT_DROPOUT = ("fixed_point",)
"""Families that do not read `model.dropout`."""
LEAST_GAIN = 0.005
"""Nats per token that are worth as many epochs again."""


def steps(sweep: Sweep, one: Course | None, content: Mapping[str, Any], beside: Path) -> list[Step]:
    """The next steps, the most urgent first.

    Args:
        one: the course of the best trial; None where no trial has one.
        content: the sweep's summary.
        beside: the folder that `next.yaml` is written to.
    """
    found = [*_unfinished(sweep)]
    # What a sweep has not trained yet may still answer the rest.
    if not found and one is not None and content["best"]:
        found += [*_stuck(sweep, content), *_diverged(sweep), *widenings(sweep), *_longer(sweep, one)]
        found += [*_law(sweep, beside), *_seeds(sweep, content), *_overfitting(sweep, one), *_more_data(sweep)]
        found += [*_test(sweep, content)]
    return found


def _unfinished(sweep: Sweep) -> Iterator[Step]:
    if sweep.status in ("interrupted", "budget", "failing", "halted") or (sweep.status == "open" and not sweep.running):
        why = {"budget": "its budget was reached", "failing": "its first trials all failed"}.get(
            sweep.status, "it stopped"
        )
        larger = larger_budget(sweep) if sweep.status == "budget" else {}
        yield Step(f"The sweep has not ended: {why}.", resume_command(sweep.folder, larger))


def _stuck(sweep: Sweep, content: Mapping[str, Any]) -> Iterator[Step]:
    found = content["plateau"]
    if found and 2 * found["stuck"] > found["judged"] and configured(sweep.spec, "model.init") == "original":
        said = f"{found['stuck']} of {found['judged']} trials never left the unigram plateau with model.init: original."
        yield Step(said, search(sweep, "orthogonal", setting("model.init", "orthogonal")))


def _diverged(sweep: Sweep) -> Iterator[Step]:
    trials = sweep.trials
    gone = trials["state"] == "diverged"
    share = float(gone.mean()) if len(trials) else 0.0
    if share < MANY_FAILED:
        return
    where = hazard(sweep)
    said = f"{int(gone.sum())} of {counted(len(trials), 'trial')} diverged ({digits(100 * share, 2)} %)."
    said += "" if where is None else f" {hazard_sentence(where)}"
    fine = trials.loc[trials["full_fidelity"], "lr"].max()
    lowest = trials.loc[gone, "training.lr"].min() if "training.lr" in trials else math.nan
    rule = (sweep.spec.get("parameters") or {}).get("training.lr")
    # Where the highest rate that worked lies below all that diverged, the search can end there.
    narrower = isinstance(rule, Mapping) and "max" in rule and where is not None and where.path == "training.lr"
    if narrower and lowest == lowest and fine < trials.loc[gone, "lr"].min():
        command = search(sweep, "narrower", setting("parameters.training.lr.max", float(f"{lowest:.2g}")))
        yield Step(f"{said} Search below.", command)
    else:
        yield Step(said, "")


def _longer(sweep: Sweep, one: Course) -> Iterator[Step]:
    """More epochs, where the best trial was still improving."""
    said, trial = gain(sweep, one), one.trial
    if said is None:
        return
    said = (
        f"The best trial was still improving at the end: {said}, for {duration(float(trial['seconds']))} more a trial."
    )
    epochs, lr = 2 * int(trial["epochs"]), one.rows["lr"]
    if lr.iloc[-1] < MUCH_LOWER * lr.max():
        # Given more epochs a trial goes on with the learning rate at which its schedule ended.
        said += " Its learning rate had fallen by then, so a longer schedule has to begin anew."
        yield Step(said, _anew(sweep, trial, epochs))
        return
    kept = min(5, int(sweep.trials["full_fidelity"].sum()))
    yield Step(said, again("extend", sweep.folder, f"--epochs {epochs} --best {kept}"))


def gain(sweep: Sweep, one: Course) -> str | None:
    """What twice the epochs should bring; None where training was over, or it is too little to be worth them."""
    found, trial = one.found, one.trial
    by_epochs = trial["state"] == "completed" and trial["reason"] == "epochs"
    falling = bool(found.phases) and found.phases[-1].kind in ("fast", "slow")
    if not by_epochs or not falling or not found.tail_rate >= least_progress(sweep):
        return None
    known = not math.isnan(found.doubling)
    nats = found.doubling if known else found.doubled
    if not nats >= LEAST_GAIN:
        return None
    word = "about" if known else "at most"
    return f"twice the epochs should bring {word} {digits(nats, 2)} nats"


def _anew(sweep: Sweep, trial: Mapping[str, Any], epochs: int) -> str:
    """The command that trains the same configuration from the beginning for so many epochs."""
    given = {path: trial[path] for path in sweep.searched if not absent(trial[path])}
    given |= constants(sweep, given) | {"training.epochs": epochs, "training.seed": trial["seed"]}
    options = [setting(path, value) for path, value in given.items()]
    target = shlex.quote(f"runs/{sweep.name}-{trial['trial_id']}-{epochs}")
    return again("train", sweep.folder / "sweep.yaml", *options, f"--to {target}")


def _law(sweep: Sweep, beside: Path) -> Iterator[Step]:
    found = proposal(sweep)
    if found is not None:
        said = f"How the best learning rate follows the batch size is not determined; {NEXT_FILE} holds "
        said += f"{counted(len(found['points']), 'trial')} that would tell most."
        yield Step(said, again("search", beside / NEXT_FILE, f"--name {shlex.quote(f'{sweep.name}-next')}"))


def _seeds(sweep: Sweep, content: Mapping[str, Any]) -> Iterator[Step]:
    """Replicates of the two best, where they cannot be told apart."""
    margin, noise, rows = content["margin"], content["noise"], content["best"][:2]
    if not content["full_fidelity"] or margin is None or len(rows) < 2:
        return
    seeds = LEAST_SEEDS
    if noise is None:
        said = f"The two best are {digits(margin, 2)} nats apart, and the noise of the seeds is not known: train both "
        said += f"with {seeds} seeds."
    elif margin <= 2 * noise:
        # Of n seeds the standard error of the difference falls as 1 / sqrt(n).
        wanted = 4 * rows[0]["replicates"] * (noise / margin) ** 2 if margin > 0 else math.inf
        if wanted > MOST_SEEDS:
            text = f"about {round(wanted)}" if math.isfinite(wanted) else "any number of"
            said = f"The two best are within the noise of the seeds; to tell them apart would take {text} seeds, so "
            yield Step(f"{said}choose between them by what they cost.", "")
            return
        seeds = max(math.ceil(wanted - 1e-6), rows[0]["replicates"] + 1)
        said = (
            f"The two best are within the noise of the seeds: {counted(seeds, 'seed')} of each would tell them apart."
        )
    else:
        return
    yield Step(said, search(sweep, "seeds", *_two_best(sweep, rows), f"--trials 2 {setting('seeds', seeds)}"))


def _two_best(sweep: Sweep, rows: list[dict[str, Any]]) -> list[str]:
    points = [{path: _short(value) for path, value in row["parameters"].items()} for row in rows]
    options = [setting("points", points)]
    if sweep.spec.get("method") == "grid":
        # A grid takes no points, and only a grid widens.
        rules = (sweep.spec.get("parameters") or {}).items()
        for path in [path for path, rule in rules if isinstance(rule, Mapping) and rule.get("widen")]:
            values = list(dict.fromkeys(point[path] for point in points if path in point))
            options.append(setting(f"parameters.{path}", {"values": values}))
        options.append(setting("method", "random"))
    dropped = [key for key in ("early_terminate", "balanced", "budget") if sweep.spec.get(key)]
    return options + [setting(key, None) for key in dropped]


def _short(value: Any) -> Any:
    """Four digits of a number are enough to train the same again, and can be read."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _overfitting(sweep: Sweep, one: Course) -> Iterator[Step]:
    last = one.found.phases[-1] if one.found.phases else None
    if last is None or last.kind != "overfitting":
        return
    said = f"The best trial overfits from epoch {one.found.best} on, so longer training does not help"
    family = one.trial.get("model.family", configured(sweep.spec, "model.family"))
    without = configured(sweep.spec, "model.dropout") == 0 and "model.dropout" not in sweep.searched
    if without and family not in WITHOUT_DROPOUT:
        yield Step(f"{said}; dropout may.", search(sweep, "dropout", setting("model.dropout", 0.1)))
    else:
        yield Step(f"{said}; more data or a smaller model may.", "")


def _more_data(sweep: Sweep) -> Iterator[Step]:
    found = data_law(sweep)
    if found is None or found.law.reason or not found.law.determined or found.law.exponent >= 0:
        return
    largest = found.points.iloc[-1]
    most, there = largest["texts"], configured(sweep.provenance, "data.stats.train.texts")
    known = isinstance(there, int)
    # More were asked for than there were.
    if absent(most) or (known and there < most):
        return
    said_of, texts = found.law.predict(found.law.measured[1] * 2), int(2 * most)
    low, high = (digits(end, 3) for end in said_of.interval)
    said = f"Twice the data should bring perplexity {digits(largest['ppl'], 3)} to {digits(said_of.estimate, 3)} "
    said += f"(95 % prediction interval {low} to {high}), if the law goes on to hold"
    said += "." if known and there >= texts else f" and the corpus has {texts:,} texts."
    yield Step(said, search(sweep, f"{texts}-texts", setting(DATA, texts)))


def _test(sweep: Sweep, content: Mapping[str, Any]) -> Iterator[Step]:
    """The test split, where it has not been measured and can be."""
    row = content["best"][0]
    weights = sweep.folder / "trials" / row["trial_id"] / "model.safetensors"
    if content["test_loss"] is None and content["full_fidelity"] and weights.is_file():
        yield Step("The best trial's loss on the test split is not known yet.", row["export"])
