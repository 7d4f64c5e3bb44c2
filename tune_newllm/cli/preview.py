"""`search --dry-run`: what a sweep file means, before anything is started."""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analysis.words import duration, shown

if TYPE_CHECKING:
    from tune_newllm.sweep.spec import SweepSpec

SAMPLES = 10


def preview(spec: "SweepSpec", as_json: bool) -> None:
    """Print the resolved file, sampled configurations, the rung table and a cost estimate."""
    samples = _samples(spec)
    rungs, cost = _rungs(spec), _cost(spec, samples)
    if as_json:
        from ruamel.yaml import YAML

        resolved = YAML(typ="safe", pure=True).load(spec.to_yaml())
        click.echo(json.dumps({"spec": resolved, "samples": samples, "rungs": rungs, "cost": cost}, indent=2))
        return
    click.echo(spec.to_yaml())
    click.echo(f"first configurations (of {spec.run_cap or 'no fixed number of'} trials):")
    for sample in samples:
        click.echo("  " + "  ".join(f"{path} {shown(value)}" for path, value in sample.items()))
    for rung in rungs:
        click.echo(f"ASHA: about {rung['share']:.0%} of the trials go on after epoch {rung['epoch']}")
    click.echo(
        f"\ncost: {cost['parameters']:,} parameters, {cost['train_windows']:,} windows an epoch; a full trial takes "
        f"{duration(cost['seconds_per_trial'])} on this machine, one thread if it has no GPU (measured: a few steps of "
        f"each configuration above), the whole sweep at most {duration(cost['seconds'])}, divided by the trials at once"
    )


def _samples(spec: "SweepSpec") -> list[dict[str, Any]]:
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


def _rungs(spec: "SweepSpec") -> list[dict[str, Any]]:
    if spec.early_terminate is None:
        return []
    share = 1 / spec.early_terminate.eta
    return [{"epoch": rung, "share": share} for rung in spec.early_terminate.rungs(spec.training.epochs)]


def _cost(spec: "SweepSpec", samples: list[dict[str, Any]]) -> dict[str, Any]:
    """An upper bound, since ASHA and patience stop trials."""
    from tune_newllm.cli.training import sizes, trial_seconds
    from tune_newllm.data.corpora import prepare

    corpus = prepare(spec.corpus, progress=True)
    seconds = statistics.fmean(trial_seconds(spec.configuration(sample), corpus) for sample in samples or [{}])
    total = seconds * (spec.run_cap or len(samples))
    return sizes(spec.configuration(), corpus) | {"seconds_per_trial": seconds, "seconds": total}
