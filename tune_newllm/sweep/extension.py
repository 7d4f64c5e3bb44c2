"""More configurations or more epochs for a sweep that has begun: who goes on, as one record."""

import itertools
import logging
import math
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from tune_newllm.errors import UsageError
from tune_newllm.records import SweepExtended
from tune_newllm.sweep.history import History, Suggestion, TrialHistory, stratum
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.sweep.study import grid
from tune_newllm.sweep.widening import most_widened
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.continuation import continued, rescheduled
from tune_newllm.training.schedules import Position, lr_at

_logger = logging.getLogger(__name__)


def extension(
    spec: SweepSpec,
    history: History,
    trials: str | None = None,
    epochs: int | None = None,
    best: int | None = None,
    new_schedule: bool = False,
) -> SweepExtended:
    """The record that extends a sweep.

    Args:
        spec: in force until now.
        history: everything on record.
        trials: configurations in all, `60`, or so many more, `+20`; None: as many as until now.
        epochs: of a full trial; None: as many as until now.
        best: how many of the configurations that have trained all their epochs go on to more. None: where
            `early_terminate` stops trials, one in eta, rounded up, among those that it compares; else all.
        new_schedule: of more epochs: trials that there are follow their learning-rate schedule once more over these.

    Raises:
        UsageError: nothing is asked for, or less than the sweep has.
        SpecError: with so many epochs a configuration that is to go on would be impossible.
    """
    if trials is None and epochs is None:
        raise UsageError("extend needs something to extend the sweep by: give --trials, --epochs or both")
    if best is not None and epochs is None:
        raise UsageError(f"--best {best} says how many configurations go on to more epochs: give --epochs too")
    if new_schedule and epochs is None:
        raise UsageError("--new-schedule says how trials go on to more epochs: give --epochs too")
    chosen = [] if epochs is None else _chosen(spec, history, best)
    extended = SweepExtended(
        time=time.time(),
        run_cap=spec.run_cap if trials is None else _cap(spec, trials),
        epochs=spec.training.epochs if epochs is None else _longer(spec, epochs),
        epochs_before=spec.training.epochs,
        continued=[trial.id for suggestion in chosen for trial in _full(suggestion)],
        new_schedule=new_schedule,
    )
    if extended.epochs > spec.training.epochs:
        _check(apply(spec, extended), history, extended)
    return extended


def apply(spec: SweepSpec, extended: SweepExtended) -> SweepSpec:
    """The spec that is in force after an extension."""
    training = replace(spec.training, epochs=extended.epochs)
    return spec.model_copy(update={"run_cap": extended.run_cap, "training": training})


def extended_training(training: TrainingConfig, longer: Iterable[SweepExtended]) -> TrainingConfig:
    """The training of a trial that there was before these extensions to more epochs."""
    for index, extended in enumerate(longer):
        assert extended.epochs_before is not None
        if index == 0:
            training = replace(training, epochs=extended.epochs_before)
        if extended.new_schedule:
            stage = extended.epochs_before, extended.epochs
            training = rescheduled(training, *stage, training.lr, training.lr_schedule)
        else:
            training = continued(training, extended.epochs)
    return training


def _cap(spec: SweepSpec, trials: str) -> int:
    """The new `run_cap`."""
    if not re.fullmatch(r"\+?[0-9]{1,9}", trials):
        raise UsageError(f"--trials takes configurations in all, as 60, or so many more, as +20; got {trials!r}")
    if spec.run_cap is None:
        raise UsageError("--trials raises run_cap, and this sweep has none: resume goes on to its end")
    cap = int(trials) + (spec.run_cap if trials.startswith("+") else 0)
    if cap <= spec.run_cap:
        raise UsageError(
            f"--trials must be above the present {spec.run_cap} configurations, got {trials}: "
            "give a larger number, or resume to go on with these"
        )
    if all(parameter.choices is not None for parameter in spec.searched.values()):
        configurations = list(itertools.islice(grid(spec, spec.order, {}), spec.run_cap + 1))
        there_are = len(configurations) + most_widened(spec, configurations)
        if there_are <= spec.run_cap:
            raise UsageError(
                f"run_cap {spec.run_cap} covers the whole search space of {there_are} already: "
                "resume to go on with these, or start a sweep of a wider space"
            )
    return cap


def _longer(spec: SweepSpec, epochs: int) -> int:
    if epochs <= spec.training.epochs:
        raise UsageError(
            f"--epochs must be above the present {spec.training.epochs} epochs of a full trial, got {epochs}: "
            "give a larger number, or resume to go on with these"
        )
    return epochs


def _full(suggestion: Suggestion) -> list[TrialHistory]:
    """The replicates that ended because their epochs were over; one that ran out of patience has had all it needs."""
    ended = [(trial, trial.ended) for trial in suggestion.trials]
    return [trial for trial, end in ended if end and end.state == "completed" and end.reason == "epochs"]


def _chosen(spec: SweepSpec, history: History, best: int | None) -> list[Suggestion]:
    """The configurations that go on, in order of creation: the best, and those of which a replicate goes on anyway."""
    able = [suggestion for suggestion in history.suggestions.values() if _full(suggestion)]
    under_way = [suggestion for suggestion in able if suggestion.state == "running"]
    ranked = [suggestion for suggestion in able if suggestion.state == "completed" and suggestion.value is not None]
    ranked.sort(key=lambda suggestion: suggestion.value or 0.0)
    rule = spec.early_terminate
    if best is not None:
        ranked = ranked[:best]
    elif rule is not None:
        strata: dict[str, list[Suggestion]] = {}
        for suggestion in ranked:
            strata.setdefault(stratum(suggestion.parameters, rule.within), []).append(suggestion)
        ranked = [one for alike in strata.values() for one in alike[: math.ceil(len(alike) / rule.eta)]]
    return sorted(ranked + under_way, key=lambda suggestion: suggestion.trials[0].created.number)


def _check(spec: SweepSpec, history: History, extended: SweepExtended) -> None:
    """Refuse more epochs that nobody would train or that a configuration cannot have, and warn of what takes another
    course than in a run that had them from its start."""
    unfinished = history.unfinished()
    to_come = spec.run_cap is None or history.next_number < spec.run_cap
    if not (extended.continued or unfinished or to_come):
        raise UsageError(
            f"no trial would go on to {extended.epochs} epochs: none has trained all its {extended.epochs_before} "
            "and none is unfinished; give --trials too"
        )
    kept = spec.resources.keep_checkpoints
    if len(extended.continued) > kept:
        _logger.warning(
            "%d trials go on and resources.keep_checkpoints kept those of %d: the others train all their epochs again",
            len(extended.continued), kept,
        )  # fmt: skip
    begun = [history.trials[name] for name in extended.continued] + [trial for trial in unfinished if trial.epochs]
    try:
        trainings = [
            extended_training(spec.configuration(trial.parameters).training, [*trial.longer, extended])
            for trial in begun
        ]
    except ValueError as error:
        raise UsageError(f"--new-schedule: {error}") from None
    keys = dict.fromkeys(key for training in trainings for key in _relative(training))
    for key in [each for each in keys if each != "lr_schedule" or not extended.new_schedule]:
        _logger.warning(
            "`training.%s` is laid out over the length of a run: trials that have begun keep it as laid out for %s "
            "epochs and then stay at its last value, those to come have it laid out over %s",
            key, extended.epochs_before, extended.epochs,
        )  # fmt: skip
    if any(_lr_share(training, extended.epochs_before or 0) == 0 for training in trainings):
        _logger.warning(
            "a learning rate has fallen to 0 after %s epochs, and trials that stay there learn nothing more; "
            "--new-schedule lets trials follow their schedule once more over the epochs to come",
            extended.epochs_before,
        )


def _lr_share(training: TrainingConfig, epoch: int) -> float | None:
    """What is left of the learning rate after so many epochs; not known of schedules in steps or tokens."""
    stage = training.lr_stage(epoch)
    place = Position(epoch, 1, training.laid_out_over, epoch, 1).within(stage)
    return lr_at(place, 1.0, stage.lr_schedule) if stage.lr_schedule.by in ("share", "epoch") else None


def _relative(training: TrainingConfig) -> Iterator[str]:
    """Keys whose course depends on how many epochs the whole run has."""
    course, clip = training.lr_schedule, training.clip
    by_share = course.by == "share" and (course.name != "constant" or course.warmup)
    to_the_end = course.length is None and course.name != "constant" and not (course.name == "step" and course.every)
    if by_share or to_the_end:
        yield "lr_schedule"
    if clip.schedule == "linear" and clip.until is None:
        yield "clip"
