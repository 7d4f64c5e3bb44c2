"""What a sweep says in plain sentences."""

import math
from collections.abc import Mapping
from typing import Any

from .clip_schedules import clip_schedules
from .effect_words import clip_sentences, interaction_sentences
from .families import family_sentences
from .incidents import incident_sentences
from .interactions import interactions
from .load import Sweep
from .pareto import pareto_sentences
from .summary import summary
from .tables import configured
from .untrusted import printable
from .words import LONGEST_REASON, STATES, counted, cut, digits, duration, label, resume_command, shown


def answers(sweep: Sweep, test_loss: float | None = None) -> list[str]:
    """The sweep's findings and its state in plain sentences, the most important first; the same in report and
    terminal."""
    return [*findings(sweep, test_loss), *(printable(sentence) for sentence in _on_status(sweep))]


def findings(sweep: Sweep, test_loss: float | None = None) -> list[str]:
    """What the records say, whenever they are read."""
    content = summary(sweep, test_loss, k=2, importances=False)
    found = ["No trial has been created yet."]
    if not sweep.trials.empty:
        found = [*_on_best(content), *_on_plateau(content), *_on_margin(content), *_on_test(content)]
        found += family_sentences(sweep)
        found += [sentence for law in content["lr_laws"] for sentence in law["sentences"]]
        found += _on_next(content)
        found += [*interaction_sentences(interactions(sweep)), *clip_sentences(clip_schedules(sweep))]
        found += pareto_sentences(sweep)
        found += content["data_law"]["sentences"] if content["data_law"] else []
        found += _on_trials(content)
    return [printable(sentence) for sentence in (*found, *incident_sentences(content["incidents"]))]


def _on_best(content: Mapping[str, Any]) -> list[str]:
    if not content["best"]:
        return ["There is no best configuration yet: no trial has finished an epoch with a finite loss."]
    row = content["best"][0]
    settings = ", ".join(f"{label(path)} {shown(value)}" for path, value in row["parameters"].items())
    words = f"The best configuration is trial {row['trial_id']}" + (f" ({settings})" if settings else "")
    words += f": validation loss {digits(row['value'])}, perplexity {_ppl(row['ppl'])}"
    if content["full_fidelity"]:
        return [f"{words}, reached in epoch {row['best_epoch']} of {row['epochs']}.", *_on_seeds(content)]
    ended = (
        f"is {STATES[row['state']]}" if row["state"] in ("running", "interrupted") else f"was {STATES[row['state']]}"
    )
    return [
        f"{words} after {counted(row['epochs'], 'epoch')}.",
        f"No trial has run to its end yet, and this one {ended}: the ranking is provisional.",
    ]


def _ppl(value: float | None) -> str:
    """A perplexity; JSON has no number for one that is beyond all."""
    return digits(math.inf if value is None else value)


def _on_seeds(content: Mapping[str, Any]) -> list[str]:
    """What the seeds of the best configuration say; nothing where each was trained once, as asked."""
    row, asked = content["best"][0], content["seeds"]
    if asked == 1:
        return []
    if row["replicates"] < asked:
        ended = f"{row['replicates']} of the {asked} seeds" if row["replicates"] > 1 else f"one of the {asked} seeds"
        return [f"Only {ended} of that configuration ran to the end: the ranking is shaky."]
    return [
        f"It is the best of {asked} seeds of that configuration; their mean loss, by which configurations are ranked, "
        f"is {digits(row['mean'])}, the standard deviation {digits(row['deviation'], 2)}."
    ]


def _on_margin(content: Mapping[str, Any]) -> list[str]:
    if not content["full_fidelity"]:
        return []
    if content["margin"] is None:
        return ["No other configuration ran to its end, so there is nothing to compare it with."]
    margin, noise = content["margin"], content["noise"]
    words = f"The runner-up, trial {content['best'][1]['trial_id']}, is {digits(margin, 2)} nats per token behind"
    lowest = content["best"][0]["mean"]
    words += f" ({digits(100 * margin / lowest, 2)} %)" if lowest else ""
    if any(row["replicates"] < content["seeds"] for row in content["best"][:2]):
        return [f"{words}; seeds are missing, so how much of that is chance is not known."]
    if noise is None:
        return [f"{words}; each was trained once, so how much of that is chance is not known."]
    words += f" in the mean over {content['seeds']} seeds"
    if margin > 2 * noise:
        return [f"{words}: more than the noise of the seeds, ± {digits(2 * noise, 2)} (two standard errors)."]
    return [
        f"{words}: within the noise of the seeds, ± {digits(2 * noise, 2)} (two standard errors), so it is not known "
        "which of the two is better.",
        *_on_alike(content),
    ]


def _on_alike(content: Mapping[str, Any]) -> list[str]:
    """How many are like the best; nothing where that is the runner-up alone, of which all has been said."""
    count = content["alike"]
    if count is None or count < 2:
        return []
    return [f"{count} configurations cannot be told apart from the best one (difference below two standard errors)."]


def _on_plateau(content: Mapping[str, Any]) -> list[str]:
    """A warning where most of the trials that count learned next to nothing."""
    found = content["plateau"]
    if found is None or 2 * found["stuck"] <= found["judged"]:
        return []
    trials = "trials that ran to their end" if content["full_fidelity"] else "trials"
    of = f"of the {found['judged']} {trials}"
    who = f"{found['stuck']} {of} never left"
    if found["stuck"] == found["judged"]:
        who = f"Not one {of} left" if found["judged"] > 1 else "The only trial that counts never left"
    return [
        f"{who} the unigram plateau: they learned how often each word occurs and little more, so their losses say "
        "nothing about the settings. Train for more epochs, with a higher learning rate, or help a deep model: "
        "model.init: orthogonal, and no dropout or model.ffn: residual."
    ]


def _on_status(sweep: Sweep) -> list[str]:
    on = resume_command(sweep.folder, {})
    if sweep.status == "open":
        return [_on_driver(sweep, on)]
    if sweep.status == "interrupted":
        return [f"The sweep was interrupted; go on with: {on}"]
    why = f": {cut(sweep.detail, LONGEST_REASON)}" if sweep.detail else "."
    if sweep.status == "failing":
        return [
            f"The sweep stopped because its first trials all failed for one reason{why}",
            f"Once that is mended, go on with: {on}",
        ]
    if sweep.status == "halted":
        return [f"The sweep stopped{why}", f"Once that is mended, go on with: {on}"]
    if sweep.status != "budget":
        return []
    return [_on_budget(sweep)]


def _on_driver(sweep: Sweep, command: str) -> str:
    """What became of a driver whose end is not on record."""
    if sweep.running:
        return "The sweep is running."
    news = f"the last news is {duration(sweep.silence)} old"
    if sweep.running is None:
        return (
            f"It is not known whether the sweep is running: no process is seen at work on it, and {news}. Unless it "
            f"runs on another machine, it was killed; go on with: {command}"
        )
    return f"The sweep was killed or lost its machine: no process works on it, and {news}; go on with: {command}"


def larger_budget(sweep: Sweep) -> dict[str, int]:
    """Twice each limit that is spent, by its key in the sweep file."""
    gpus, cpus = (configured(sweep.spec, f"resources.{kind}_per_trial") for kind in ("gpus", "cpus"))
    hours = float(sweep.trials["seconds"].sum()) / 3600 * float(gpus or cpus or 1)
    used = {"wall": sweep.wall, "device_hours": hours, "epochs": len(sweep.epochs)}
    limits = {key: configured(sweep.spec, f"budget.{key}") for key in used}
    # An earlier resume may have raised a limit already: what was used counts as well as what the file says.
    spent = {key: limit for key, limit in limits.items() if limit and used[key] >= limit} or limits
    return {f"budget.{key}": math.ceil(2 * max(limit, used[key])) for key, limit in spent.items() if limit}


def _on_budget(sweep: Sweep) -> str:
    command = resume_command(sweep.folder, larger_budget(sweep))
    return f"The sweep reached its budget; go on with a larger one, for example: {command}"


def _on_test(content: Mapping[str, Any]) -> list[str]:
    if content["older_best"]:
        return ["best/ is older than this result, so no test loss is quoted; `resume` or `export` renews it."]
    if content["test_loss"] is None:
        return []
    return [
        f"On the test split, which played no part in the choice, its loss is {digits(content['test_loss'])}, "
        f"perplexity {_ppl(content['test_ppl'])}."
    ]


def _on_next(content: Mapping[str, Any]) -> list[str]:
    if not content["next"]:
        return []
    points = counted(len(content["next"]["points"]), "further trial")
    return [f"{points} that would tell more stand in next.yaml beside the report; `search` runs that file."]


def _on_trials(content: Mapping[str, Any]) -> list[str]:
    trials, epochs, seconds = content["trials"], content["epochs"], content["seconds"]
    states = ", ".join(f"{trials[state]} {word}" for state, word in STATES.items() if state in trials)
    were = "was" if epochs["trained"] == 1 else "were"
    words = f"{counted(epochs['trained'], 'epoch')} {were} trained in {duration(seconds['wall'])}"
    full = trials["total"] * epochs["asked_per_trial"] if isinstance(epochs["asked_per_trial"], int) else 0
    if content["status"] == "finished" and full > epochs["trained"]:
        words += (
            f", {digits(100 * epochs['trained'] / full, 2)} % of what running every trial to its end would have taken"
        )
    return [f"{counted(trials['total'], 'trial')}: {states}.", f"{words}."]
