"""What the schedules and scaling rules of a sweep file come to: the numbers that `search --dry-run` draws."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from analysis.words import shown

if TYPE_CHECKING:
    from tune_newllm.data.corpora import PreparedCorpus
    from tune_newllm.sweep.spec import SweepSpec
    from tune_newllm.training.config import Configuration, TrainingConfig
    from tune_newllm.training.schedules import Position

Sample = tuple[dict[str, Any], "Configuration"]
"""Searched values and the configuration they make."""

POINTS = 160
"""Steps at which a schedule is read off, or all where a run has fewer."""
MOST_BATCHES = 9


class Curve(NamedTuple):
    """One schedule or rule; `y` is None where it gives no number."""

    label: str
    x: list[float]
    y: list[float | None]

    @property
    def is_constant(self) -> bool:
        """Whether there is nothing to see."""
        known = [value for value in self.y if value is not None]
        return not known or max(known) - min(known) <= 1e-9 * max(known)


class Plot(NamedTuple):
    """Curves over one axis."""

    title: str
    x_label: str
    log: bool
    """Whether both axes are logarithmic."""
    curves: list[Curve]

    @property
    def is_constant(self) -> bool:
        """Whether no curve needs to be drawn."""
        return all(curve.is_constant for curve in self.curves)


def plots(spec: "SweepSpec", samples: list[Sample], corpus: "PreparedCorpus") -> list[Plot]:
    """The course of the learning rate and of the clip limit over a run, and the rates that scaling rules give.

    For each searched name of a schedule there is one curve; of its numbers those are searched that the first of
    `samples` with that name has, or else the file's. Plots without a curve that changes are left out.
    """
    if not samples:
        return []
    made = [_learning_rate(spec, samples, corpus), _batch_rules(spec, samples, corpus)]
    made += [_size_rules(spec, samples, corpus), _clip(spec, samples, corpus)]
    return [plot for plot in made if not plot.is_constant]


def follows_gradients(spec: "SweepSpec", samples: list[Sample]) -> bool:
    """Whether a clip limit depends on the gradients of the run, so that no curve can be given in advance."""
    variants = _variants(spec, samples, "training.clip", "schedule") if samples else {}
    return any(configuration.training.clip.schedule == "percentile" for configuration in variants.values())


def _variants(spec: "SweepSpec", samples: list[Sample], section: str, key: str) -> dict[str, "Configuration"]:
    """A configuration for each searched value of a section or of the key that names its kind, by what it is called."""
    path = next((path for path in (section, f"{section}.{key}") if path in spec.searched), None)
    choices = spec.searched[path].choices if path else None
    if path is None or choices is None:
        first = samples[0][1]
        return {str(getattr(getattr(first.training, section.removeprefix("training.")), key)): first}
    found: dict[str, Configuration] = {}
    for choice in choices:
        drawn = (made for values, made in samples if path in values and values[path] == choice)
        try:
            found[shown(choice)] = next(drawn, None) or spec.assembled({path: choice})
        except ValueError:
            # Possible only together with other values, none of which was among the samples.
            continue
    return found


def _learning_rate(spec: "SweepSpec", samples: list[Sample], corpus: "PreparedCorpus") -> Plot:
    from tune_newllm.training.schedules import lr_at

    curves = []
    for label, configuration in _variants(spec, samples, "training.lr_schedule", "name").items():
        places = list(_positions(configuration, corpus))
        stages = [configuration.training.lr_stage(place.step // place.steps_per_epoch) for place in places]
        rates: list[float | None] = [
            lr_at(place.within(stage), stage.lr / configuration.training.lr, stage.lr_schedule)
            for place, stage in zip(places, stages, strict=True)
        ]
        curves.append(Curve(label, [place.at("epoch") for place in places], rates))
    return Plot("learning rate, as a share of its peak", "epoch", False, curves)


def _clip(spec: "SweepSpec", samples: list[Sample], corpus: "PreparedCorpus") -> Plot:
    from tune_newllm.training.clip import clip_limit

    curves = []
    for label, configuration in _variants(spec, samples, "training.clip", "schedule").items():
        places = list(_positions(configuration, corpus))
        limits = [clip_limit(configuration.training.clip, place, []) for place in places]
        curves.append(Curve(label, [place.at("epoch") for place in places], limits))
    return Plot("largest norm of the gradient", "epoch", False, curves)


def _positions(configuration: "Configuration", corpus: "PreparedCorpus") -> Iterator["Position"]:
    """Places of a run before evenly spaced steps of it, the first and the last included."""
    from tune_newllm.training.batches import target_count
    from tune_newllm.training.loop import steps_per_epoch
    from tune_newllm.training.schedules import Position

    train = corpus.first(configuration.corpus.max_samples).train
    steps, epochs = steps_per_epoch(len(train), configuration.training.batch_size), configuration.training.epochs
    tokens, last = target_count(train), steps * epochs - 1
    for step in sorted({round(index * last / POINTS) for index in range(POINTS + 1)}):
        yield Position(step, steps, configuration.training.laid_out_over, round(step * tokens / steps), tokens)


def _batch_rules(spec: "SweepSpec", samples: list[Sample], corpus: "PreparedCorpus") -> Plot:
    """The rules over the batch sizes that are searched; without any, curves of one point, which are constant."""
    sizes, model_size = _batch_sizes(spec), _model_size(samples[0][1], corpus)
    curves = []
    for rule in _names(spec, "training.lr_rule", spec.training.lr_rule):
        rates = [_rate(spec.training, {"lr_rule": rule, "batch_size": size}, model_size) for size in sizes]
        curves.append(Curve(rule, [*map(float, sizes)], rates))
    title = f"learning rate by lr_rule, for training.lr {shown(spec.training.lr)}"
    return Plot(title, "batch size", True, curves)


def _size_rules(spec: "SweepSpec", samples: list[Sample], corpus: "PreparedCorpus") -> Plot:
    """The rules over the sizes of the sampled models."""
    sizes = sorted({_model_size(configuration, corpus) for _, configuration in samples})
    curves = []
    for rule in _names(spec, "training.lr_size_rule", spec.training.lr_size_rule):
        rates = [_rate(spec.training, {"lr_size_rule": rule}, size) for size in sizes]
        curves.append(Curve(rule, [*map(float, sizes)], rates))
    title = f"learning rate by lr_size_rule, for training.lr {shown(spec.training.lr)}"
    return Plot(title, "parameters of the model", True, curves)


def _batch_sizes(spec: "SweepSpec") -> list[int]:
    searched = spec.searched.get("training.batch_size")
    if searched is None:
        return [spec.training.batch_size]
    if searched.choices is not None and len(searched.choices) <= 2 * MOST_BATCHES:
        return sorted(searched.choices)
    low, high = searched.extremes()
    ratio = (high / low) ** (1 / (MOST_BATCHES - 1))
    return sorted({round(low * ratio**index) for index in range(MOST_BATCHES)})


def _names(spec: "SweepSpec", path: str, base: str) -> list[str]:
    return list(spec.searched[path].choices or [base]) if path in spec.searched else [base]


def _model_size(configuration: "Configuration", corpus: "PreparedCorpus") -> int:
    from tune_newllm.models import parameter_count

    return parameter_count(configuration.model, len(corpus.tokenizer))


def _rate(training: "TrainingConfig", changed: dict[str, Any], model_size: int) -> float | None:
    from tune_newllm.training.optim import effective_lr

    try:
        return effective_lr(replace(training, **changed), model_size)
    except ValueError:
        # A rule may refuse batch sizes or optimizers.
        return None
