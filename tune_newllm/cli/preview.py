"""`search --dry-run`: what a sweep file means, before anything is started."""

import dataclasses
import json
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
    from tune_newllm.sweep.spec import SweepSpec
    from tune_newllm.training.config import Configuration

SAMPLES = 10
WIDEST = 100
"""Characters of a plot, on however wide a terminal."""


def preview(spec: "SweepSpec", as_json: bool) -> None:
    """Print the resolved file, sampled configurations, the rung table, schedules and rules, and a cost estimate."""
    from tune_newllm.cli.curves import follows_gradients, plots
    from tune_newllm.data.corpora import prepare

    suggested = _suggestions(spec)
    samples = _possible(spec, suggested)
    corpus = prepare(spec.widest_corpus, progress=True)
    memory = _memory(spec, corpus)
    memory.warn()
    curves, rungs, cost = plots(spec, samples, corpus), _rungs(spec), _cost(spec, samples, corpus, memory)
    if as_json:
        from ruamel.yaml import YAML

        resolved = YAML(typ="safe", pure=True).load(spec.to_yaml())
        drawn = [{**plot._asdict(), "curves": [curve._asdict() for curve in plot.curves]} for plot in curves]
        content = {"spec": resolved, "samples": suggested, "rungs": rungs, "plots": drawn}
        content |= {"memory": memory.facts(), "cost": cost}
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(spec.to_yaml())
    click.echo(f"first configurations (of {_total(spec, cost['configurations'])}):")
    for sample in suggested:
        click.echo("  " + "  ".join(f"{path} {shown(value)}" for path, value in sample.items()))
    if len(samples) < len(suggested):
        click.echo(f"{len(suggested) - len(samples)} of these are impossible and will not be trained")
    for rung in rungs:
        click.echo(f"ASHA: about {rung['share']:.0%} of the trials go on after epoch {rung['epoch']}")
    _draw(curves)
    if follows_gradients(spec, samples):
        click.echo("\nclip schedule percentile: its limit follows the gradients of the run, so it has no curve yet")
    click.echo(f"\n{_on_memory(memory)}")
    click.echo(f"\n{_on_cost(spec, cost)}")


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


def _memory(spec: "SweepSpec", corpus: "PreparedCorpus") -> "MemoryPlan":
    """As a sweep on this machine would plan it. Precision, where it is `auto`, is fp32, which needs most."""
    import torch

    from tune_newllm.sweep.memory_plan import measure_largest
    from tune_newllm.sweep.resolve import share, with_device
    from tune_newllm.training.device import resolve_device

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    here = [{"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}]
    training = with_device(spec, here)[0].training
    device = resolve_device(training.device)
    precision = "fp32" if training.precision == "auto" else training.precision
    training = dataclasses.replace(training, device=device, precision=precision)
    plan = measure_largest(spec.model_copy(update={"training": training}), len(corpus.tokenizer), device)
    return share(spec.resources, here, plan)[1]


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
    """An upper bound, since ASHA and patience stop trials. `configurations` and `seconds` are None for no end, both
    times where memory does not suffice for one of the samples."""
    from tune_newllm.cli.training import sizes
    from tune_newllm.sweep.study import grid

    base = spec.configuration()
    measured = [_seconds(made, corpus, memory) for _, made in samples or [({}, base)]]
    known = [seconds for seconds in measured if seconds is not None]
    each = statistics.fmean(known) if known else None
    count = spec.run_cap or (sum(1 for _ in grid(spec, spec.order, {})) if spec.method == "grid" else None)
    bounds = [] if count is None or each is None else [count * spec.seeds * each]
    if spec.budget.epochs is not None and each is not None:
        bounds.append(spec.budget.epochs * each / spec.training.epochs)
    if spec.budget.device_hours is not None:
        bounds.append(spec.budget.device_hours * 3600)
    total = {"configurations": count, "seeds": spec.seeds, "budget": spec.budget.model_dump(exclude_none=True)}
    times = {"seconds_per_trial": each, "seconds": min(bounds, default=None)}
    return sizes(base, corpus.first(base.corpus.max_samples)) | total | times


def _seconds(configuration: "Configuration", corpus: "PreparedCorpus", memory: "MemoryPlan") -> float | None:
    """Of a full trial; None where memory does not suffice for it."""
    from tune_newllm.cli.training import trial_seconds
    from tune_newllm.errors import InfeasibleError
    from tune_newllm.sweep.memory_plan import within

    # What the largest configuration can begin with, all can.
    micro_batch = configuration.training.micro_batch if memory.per_trial is None else memory.micro_batch or 1
    training = dataclasses.replace(configuration.training, device=memory.device, micro_batch=micro_batch)
    made = dataclasses.replace(configuration, training=training)
    rows = corpus.first(configuration.corpus.max_samples)
    try:
        return within(memory.available, made, len(corpus.tokenizer), partial(trial_seconds, made, rows))
    except InfeasibleError:
        return None


def _total(spec: "SweepSpec", configurations: int | None) -> str:
    count = f"{configurations or 'no fixed number'}"
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
    words += (
        f"a full trial takes {duration(cost['seconds_per_trial'])} on this machine, one thread if it has no GPU "
        "(measured: a few steps of each configuration above), the whole sweep "
    )
    if cost["seconds"] is None:
        words += "goes on until it is stopped"
    else:
        words += f"at most {duration(cost['seconds'])}, divided by the trials at once"
    return words + (f"; its budget, {' or '.join(limits)}, stops it resumably" if limits else "")
