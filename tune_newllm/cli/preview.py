"""`search --dry-run`: what a sweep file means, before anything is started."""

import dataclasses
import json
import math
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.words import digits, duration, shown

if TYPE_CHECKING:
    from tune_newllm.cli.curves import Plot, Sample
    from tune_newllm.data.corpora import PreparedCorpus
    from tune_newllm.sweep.memory_plan import MemoryPlan
    from tune_newllm.sweep.provenance import Hardware
    from tune_newllm.sweep.spec import SweepSpec
    from tune_newllm.training.config import Configuration

SAMPLES = 10
WIDEST = 100
"""Characters of a plot, on however wide a terminal."""


def preview(spec: "SweepSpec", as_json: bool, base: Path) -> None:
    """Print the resolved file, sampled configurations, the rung table, schedules and rules, and a cost estimate.

    Args:
        base: folder of the file.
    """
    from tune_newllm.cli.curves import follows_gradients, plots
    from tune_newllm.cli.starting import prepared

    suggested = _suggestions(spec)
    corpus, _ = prepared(spec.widest_corpus, spec.base, base, progress=True)
    here, hardware, memory = _resolved(spec, len(corpus.tokenizer))
    spec = here if spec.resources.address == "local" else spec
    samples = _possible(here, suggested)
    curves, rungs, cost = plots(spec, samples, corpus), _rungs(spec), _cost(here, samples, corpus, memory)
    if as_json:
        from ruamel.yaml import YAML

        resolved = YAML(typ="safe", pure=True).load(spec.to_yaml())
        drawn = [{**plot._asdict(), "curves": [curve._asdict() for curve in plot.curves]} for plot in curves]
        content = {"spec": resolved, "samples": suggested, "rungs": rungs, "plots": drawn}
        content |= {"choices": hardware.chosen(), "memory": memory.facts(), "cost": cost}
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(spec.to_yaml())
    click.echo(f"first configurations (of {_total(spec, cost['configurations'], cost['further'])}):")
    for sample in suggested:
        click.echo("  " + "  ".join(f"{path} {shown(value)}" for path, value in sample.items()))
    if len(samples) < len(suggested):
        click.echo(f"{len(suggested) - len(samples)} of these are impossible and will not be trained")
    for rung in rungs:
        click.echo(f"ASHA: about {rung['share']:.0%} of the trials go on after epoch {rung['epoch']}")
    _draw(curves)
    if follows_gradients(spec, samples):
        click.echo("\nclip schedule percentile: its limit follows the gradients of the run, so it has no curve yet")
    click.echo(f"\n{_on_choices(spec, hardware)}")
    click.echo(f"\n{_on_memory(memory)}")
    click.echo(f"\n{_on_cost(here, cost)}")


def _resolved(spec: "SweepSpec", vocab_size: int) -> tuple["SweepSpec", "Hardware", "MemoryPlan"]:
    """As a sweep on this machine alone would be resolved."""
    import torch

    from tune_newllm.sweep.resolve import resolve_here
    from tune_newllm.sweep.spec import Resources

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if spec.resources.address != "local":
        # What was asked of a cluster's machines this one may not have.
        spec = spec.model_copy(update={"resources": Resources()})
    return resolve_here(spec, [{"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}], vocab_size)


def _on_choices(spec: "SweepSpec", hardware: "Hardware") -> str:
    address = spec.resources.address
    lines = [f"chosen for this machine ({hardware.name}):"]
    if address != "local":
        lines = [f"the cluster at {address} chooses for itself; what this machine alone would:"]
    lines += [f"  {path} {shown(each.value)}: {each.reason}" for path, each in hardware.choices.items()]
    return "\n".join(lines)


def _suggestions(spec: "SweepSpec") -> list[dict[str, Any]]:
    """The configurations that a search would begin with, before any result is known."""
    from tune_newllm.records import TrialCreated
    from tune_newllm.sweep.history import History, TrialHistory
    from tune_newllm.sweep.study import Study, config_id

    samples: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        study = Study(spec, Path(scratch) / "study.journal", History())
        while len(samples) < min(SAMPLES, spec.run_cap or SAMPLES) and (suggestion := study.suggest()):
            parameters, origin = suggestion
            row = {"time": time.time(), "trial_id": f"t{len(samples):04d}", "config_id": config_id(parameters)}
            row |= {"number": len(samples), "seed": 0, "origin": origin, "parameters": parameters}
            study.add(TrialHistory(TrialCreated.model_validate(row)))
            samples.append(parameters)
    return samples


def _possible(spec: "SweepSpec", suggested: list[dict[str, Any]]) -> list["Sample"]:
    """Those of the suggestions that make a configuration."""
    from tune_newllm.errors import SpecError

    made = []
    for values in suggested:
        try:
            made.append((values, spec.configuration(values)))
        except SpecError:
            continue
    return made


def _rungs(spec: "SweepSpec") -> list[dict[str, Any]]:
    if spec.early_terminate is None:
        return []
    share = 1 / spec.early_terminate.eta
    return [{"epoch": rung, "share": share} for rung in spec.early_terminate.rungs(spec.training.epochs)]


def _draw(curves: list["Plot"]) -> None:
    from tune_newllm.cli.plots import drawn

    width = min(shutil.get_terminal_size().columns, WIDEST)
    for plot in curves:
        click.echo(f"\n{drawn(plot, width)}")


def _on_memory(plan: "MemoryPlan") -> str:
    words = f"memory ({plan.device}): {plan}"
    if not plan.micro_batch:
        return f"{words}; trials of that size will be infeasible"
    if plan.bound == "upper":
        return f"{words}; so memory is no question"
    if plan.micro_batch < plan.rows:
        words += "; gradients add up to the same batch"
    return words


def _cost(spec: "SweepSpec", samples: list["Sample"], corpus: "PreparedCorpus", memory: "MemoryPlan") -> dict[str, Any]:
    """An upper bound, since ASHA and patience stop trials, and few grids are widened. `configurations` and `seconds`
    are None for no end, both times where memory does not suffice for one of the samples.

    Args:
        spec: as resolved for this machine.
    """
    from tune_newllm.cli.cost import sizes
    from tune_newllm.sweep.sharing import threads

    base, resources = spec.configuration(), spec.resources
    measured = [_seconds(made, corpus, memory, threads(spec)) for _, made in samples or [({}, base)]]
    known = [seconds for seconds in measured if seconds is not None]
    each = statistics.fmean(known) if known else None
    count, further = _counted(spec)
    assert resources.gpus_per_trial != "auto"
    assert resources.max_concurrent != "auto"
    at_once = resources.max_concurrent
    bounds = []
    if count is not None and each is not None:
        bounds.append(math.ceil((count + further) * spec.seeds / at_once) * each)
    if spec.budget.epochs is not None and each is not None:
        bounds.append(spec.budget.epochs * each / spec.training.epochs / at_once)
    if spec.budget.device_hours is not None:
        bounds.append(spec.budget.device_hours * 3600 / (resources.gpus_per_trial or resources.cpus) / at_once)
    total = {
        "configurations": count,
        "further": further,
        "seeds": spec.seeds,
        "budget": spec.budget.model_dump(exclude_none=True),
    }
    used = {"threads": threads(spec), "at_once": at_once, "precision": spec.training.precision}
    times = {"seconds_per_trial": each, "seconds": min(bounds, default=None)}
    return sizes(base, corpus.first(base.corpus.max_samples)) | total | used | times


def _counted(spec: "SweepSpec") -> tuple[int | None, int]:
    """(configurations, those that widening may add): None where nothing limits them."""
    from tune_newllm.sweep.study import grid
    from tune_newllm.sweep.widening import most_widened

    if spec.method != "grid":
        return spec.run_cap, 0
    whole = list(grid(spec, spec.order, {}))
    cap = len(whole) + most_widened(spec, whole) if spec.run_cap is None else spec.run_cap
    count = min(cap, len(whole))
    return count, min(cap - count, most_widened(spec, whole))


def _seconds(
    configuration: "Configuration", corpus: "PreparedCorpus", memory: "MemoryPlan", threads: int
) -> float | None:
    """Of a full trial; None where memory does not suffice for it."""
    from tune_newllm.cli.cost import trial_seconds
    from tune_newllm.errors import InfeasibleError
    from tune_newllm.sweep.memory_plan import within

    training = configuration.training
    if memory.per_trial is not None:
        # What the largest configuration can begin with, all can.
        training = dataclasses.replace(training, micro_batch=memory.micro_batch or 1)
    made = dataclasses.replace(configuration, training=training)
    work = partial(trial_seconds, made, corpus.first(configuration.corpus.max_samples), threads)
    try:
        return within(memory.available, made, len(corpus.tokenizer), work)
    except InfeasibleError:
        return None


def _total(spec: "SweepSpec", configurations: int | None, further: int) -> str:
    count = f"{configurations or 'no fixed number'}"
    count += f", up to {further} more where an optimum lies on the edge of the grid" if further else ""
    return count if spec.seeds == 1 else f"{count}, each with {spec.seeds} seeds"


def _on_cost(spec: "SweepSpec", cost: dict[str, Any]) -> str:
    limits = []
    if spec.budget.wall is not None:
        limits.append(f"{duration(spec.budget.wall)} of wall time")
    if spec.budget.device_hours is not None:
        limits.append(f"{digits(spec.budget.device_hours)} device hours")
    if spec.budget.epochs is not None:
        limits.append(f"{spec.budget.epochs:,} epochs")
    words = f"cost: {cost['parameters']:,} parameters, {cost['train_windows']:,} windows an epoch; "
    if cost["seconds_per_trial"] is None:
        return f"{words}memory does not suffice for any of the configurations above"
    count, at_once = cost["threads"], cost["at_once"]
    words += (
        f"a full trial takes {duration(cost['seconds_per_trial'])} on this machine, with {count} "
        f"thread{'s' * (count > 1)} in {_precisions(spec)} (measured: a few steps of each configuration above), the "
        "whole sweep "
    )
    if cost["seconds"] is None:
        words += "goes on until it is stopped"
    else:
        words += f"at most {duration(cost['seconds'])} with {at_once} trial{'s' * (at_once > 1)} at once"
    return words + (f"; its budget, {' or '.join(limits)}, stops it resumably" if limits else "")


def _precisions(spec: "SweepSpec") -> str:
    searched = spec.parameters.get("training.precision")
    return " or ".join(map(str, searched.values or ())) if searched else spec.training.precision
