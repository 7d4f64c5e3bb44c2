"""How many trials share the memory of a device, and with how many sequences at a time each of them begins."""

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from tune_newllm.errors import DivergedError, InfeasibleError, SpecError
from tune_newllm.models import ModelConfig, parameter_count
from tune_newllm.models.config import context_widths, frozen_count, token_widths
from tune_newllm.sweep.activity import parents
from tune_newllm.sweep.spec import SweepSpec
from tune_newllm.training.config import Configuration
from tune_newllm.training.device import available_memory, process_bytes, resolve_micro_batch
from tune_newllm.training.memory import StepMemory, measure_step, unless_out_of_memory

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")
_MARGIN = 4
"""What a configuration needs was always below 1.5 times its `_size`."""
_NO_QUESTION = 0.01
"""Share of the memory for a trial below which a rough bound of its need will do."""


class MemoryPlan(NamedTuple):
    """What the largest configuration of a sweep needs, and what there is for it."""

    device: str
    step: StepMemory
    rows: int
    """Its micro-batch as asked for."""
    available: int
    """Bytes on one GPU, or in main memory, for all trials that share it."""
    trials: int = 1
    """How many do."""
    wanted: int = 1
    """How many would if there were memory enough."""
    bound: Literal["", "upper", "lower"] = ""
    """Of what kind `step` is where it was not measured: `upper` where even such a bound is next to nothing, `lower`
    where memory does not suffice for measuring, and so not for training."""

    @property
    def share(self) -> int:
        """Bytes that each of them may use: every process but the first takes something for itself."""
        return max(0, self.available - (self.trials - 1) * process_bytes(self.device)) // self.trials

    @property
    def micro_batch(self) -> int:
        """Sequences with which the largest configuration begins; 0 where it cannot be trained at all."""
        return 0 if self.bound == "lower" else self.step.largest(self.share, self.rows)

    @property
    def per_trial(self) -> int | None:
        """Bytes that a trial must keep to; None where memory is no question."""
        return self.share if self.micro_batch < self.rows else None

    def shared(self, most: int, rows: int) -> "MemoryPlan":
        """By as many trials, up to `most`, as can each read so many sequences at a time; by one if no two can."""
        most = max(1, most)
        plans = (self._replace(trials=trials, wanted=most) for trials in range(most, 0, -1))
        return next(plan for plan in plans if plan.trials == 1 or self.step.need(rows) <= plan.share)

    def facts(self) -> dict[str, Any]:
        """As JSON types, sizes in bytes; `per_trial` is None where memory is no question."""
        needs = {"need": self.step.need(self.rows), "need_of_one": self.step.need(1), "bound": self.bound}
        passes = {"sequences": self.rows, "micro_batch": self.micro_batch}
        there = {"available": self.available, "trials": self.trials, "wanted": self.wanted, "share": self.share}
        return {"device": self.device} | needs | passes | there | {"per_trial": self.per_trial, "reason": str(self)}

    def __str__(self) -> str:
        """In one clause."""
        there = f"{amount(self.available)} are free"
        if self.micro_batch and self.trials < self.wanted:
            there += f", enough for {self.trials} of {self.wanted} trials at once"
        elif self.trials > 1:
            there += f", {amount(self.share)} for each of {self.trials} trials at once"
        return f"to train, the largest configuration needs {self._needs()}; {there}"

    def _needs(self) -> str:
        begin, one = self.micro_batch, amount(self.step.need(1))
        if self.bound == "lower":
            return f"more than {one}"
        if self.bound == "upper":
            return f"under {amount(self.step.need(self.rows))} with {self.rows:,} sequences in a pass"
        if not begin or self.rows == 1:
            return f"{one} with one sequence in a pass" + ("" if begin else ", so not even one fits")
        whole = f"{amount(self.step.need(self.rows))} with {self.rows:,} sequences in a pass"
        if begin == self.rows:
            return f"{whole}, {one} with one"
        if begin == 1:
            return f"{whole}, {one} with the one it begins with"
        return f"{whole}, {amount(self.step.need(begin))} with the {begin:,} it begins with, {one} with one"

    def warn(self) -> None:
        """Say it where the largest configuration does not fit, or keeps trials from running at once."""
        if not self.micro_batch:
            _logger.warning(
                "memory: %s: trials of that size will be infeasible; search smaller models, shorter windows, or let "
                "fewer trials run at once",
                self,
            )
        elif self.trials < self.wanted:
            _logger.warning("memory: %s", self)


def measure_largest(spec: SweepSpec, vocab_size: int, device: str) -> MemoryPlan:
    """What the largest configuration of the search space needs, and the memory that is free now, for one trial.

    It is only measured where there is any question whether it fits: that takes seconds.
    """
    configuration = largest(spec, vocab_size, device)
    training = configuration.training
    rows = min(training.batch_size, resolve_micro_batch(training.micro_batch, device))
    available = available_memory(device)
    rough = StepMemory(_MARGIN * _size(configuration, vocab_size, device), 0)
    most = max(1, int((os.cpu_count() or 1) / spec.resources.cpus))
    plan = MemoryPlan(device, rough, rows, available, bound="upper")
    if rough.need(rows) <= _NO_QUESTION * plan._replace(trials=most).share:
        return plan
    weights = weights_alone(configuration, vocab_size)
    try:
        step = within(available, configuration, vocab_size, partial(measure_step, configuration, vocab_size))
    except InfeasibleError:
        return plan._replace(step=weights, bound="lower")
    except DivergedError:
        # Nothing is to be learnt from a model that cannot take a step; its trials will say so.
        step = weights
    return plan._replace(step=step, bound="")


def within(available: int, configuration: Configuration, vocab_size: int, work: Callable[[], _Result]) -> _Result:
    """What `work` on a configuration returns. It is not begun where the weights alone are too much, because trying it
    out could cost the machine.

    Raises:
        InfeasibleError: memory does not suffice.
    """
    least = weights_alone(configuration, vocab_size).need(0)
    result = unless_out_of_memory(work, configuration.training.device) if least <= available else None
    if result is None:
        raise InfeasibleError(
            f"{amount(available)} of memory are too few for a model whose weights need {amount(least)}"
        )
    return result


def largest(spec: SweepSpec, vocab_size: int, device: str) -> Configuration:
    """The configuration of the search space that needs most memory, about.

    Each parameter in turn takes the value, of those listed or the ends of its range, with which the configuration is
    largest and still possible. One that does not change its size stays as in the base configuration.
    """
    values: dict[str, Any] = {}
    found = spec.configuration()
    for path in spec.order:
        if not spec.is_active(path, values):
            continue
        possible: dict[int, tuple[Configuration, Any]] = {}
        for value in spec.parameters[path].values or spec.parameters[path].extremes():
            try:
                made = spec.configuration({**values, path: value})
            except SpecError:
                continue
            possible.setdefault(_size(made, vocab_size, device), (made, value))
        changes = possible.keys() - {_size(found, vocab_size, device)}
        # What others depend on must have a value for them to exist.
        if changes or (possible and any(path in parents(other, spec.parameters) for other in spec.order)):
            found, values[path] = possible[max(possible)]
    return found


def _size(configuration: Configuration, vocab_size: int, device: str) -> int:
    """Roughly its bytes, good enough for comparing two."""
    model, training = configuration.model, configuration.training
    rows = min(training.batch_size, resolve_micro_batch(training.micro_batch, device))
    number = 2 if training.precision in ("bf16", "fp16") else 4
    window = configuration.corpus.window
    widths = _widths(model, window) + 3 * vocab_size
    return weights_alone(configuration, vocab_size).fixed + number * rows * window * widths


def _widths(model: ModelConfig, window: int) -> int:
    """Numbers that a pass keeps for each token, about."""
    if model.family == "gpt2":
        # With dropout there is a matrix of window * window for every head, several times over.
        attention = 4 * model.num_heads * window if model.dropout else 0
        return model.num_layers * (12 * model.embed_dim + 3 * model.hidden_dim + attention)
    if model.family == "fixed_point":
        inputs = model.num_input_tokens * model.embed_dim
        read = sum(context_widths(model.ctx_dim, inputs, model.num_layers, model.token_input_all_layers))
        return read + 4 * sum(token_widths(model.embed_dim, model.num_input_tokens, model.num_layers)) + 3 * inputs
    buffers = 2 + (model.ffn == "residual") + (model.dropout > 0)
    return model.num_layers * model.hidden_dim * buffers + 8 * model.ctx_dim


def weights_alone(configuration: Configuration, vocab_size: int) -> StepMemory:
    """Weights, gradients and one or two numbers of the optimizer for each weight, and nothing else."""
    copies = 3 if configuration.training.optimizer == "sgd" else 4
    frozen = frozen_count(configuration.model, vocab_size)
    return StepMemory(4 * (copies * (parameter_count(configuration.model, vocab_size) - frozen) + frozen), 0)


def amount(size: float) -> str:
    """A number of bytes as a person would write it: `640 bytes`, `12.3 MB`, `141 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}" if size < 1000 else f"{size:,.0f} {unit}"
