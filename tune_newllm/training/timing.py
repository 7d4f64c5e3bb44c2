"""How long a training step takes on this machine, one way or another."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from tune_newllm.models import LanguageModel
from tune_newllm.training.clip import clip_limit
from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.context_cache import as_trained
from tune_newllm.training.device import Number, resolve_device
from tune_newllm.training.loop import train_step
from tune_newllm.training.schedules import Position
from tune_newllm.training.state import TrainState

_SECONDS, _ROUNDS = 3.0, 5
"""A measurement ends after whichever comes first, but not before every case was timed once."""
_LONGEST = 0.5
"""Seconds of the longest step that is worth repeating."""
PROBE = 16
"""Rows of the step by which longer ones are foretold."""


class Case(NamedTuple):
    """One way of taking a training step; all its rows go through the model in one pass."""

    number: Number
    threads: int
    rows: int


class Bench:
    """Takes real training steps with random windows.

    Args:
        config: nothing of it decides the time but optimizer, device and clipping.
        build: makes a model of the configuration that is to be trained.
        vocab_size: number of token ids.
        window: tokens per row.
    """

    def __init__(
        self, config: TrainingConfig, build: Callable[[], LanguageModel], vocab_size: int, window: int
    ) -> None:
        # With next to no learning rate: the time of a step is asked for here, not whether the run would diverge.
        self._config = replace(config, lr=1e-9, lr_rule="none", lr_size_rule="none", batch_size=1)
        self._build, self._vocab_size, self._window = build, vocab_size, window
        self._device = torch.device(resolve_device(config.device))
        self._states: dict[Number, TrainState] = {}

    def shortened(self, cases: Sequence[Case]) -> list[Case]:
        """The same with so few rows that a step takes no longer than `_LONGEST`, about."""
        longest = max(cases, key=lambda case: case.rows)
        probe = longest._replace(rows=min(longest.rows, PROBE))
        self._prepare(probe)
        each, rows = self._lap(probe) / probe.rows, longest.rows
        while rows > probe.rows and rows * each > _LONGEST:
            rows //= 2
        return [case._replace(rows=min(case.rows, rows)) for case in cases]

    def seconds(self, cases: Sequence[Case]) -> dict[Case, float]:
        """Shortest time of one training step in each case. In turns: a busy machine slows them all.

        Args:
            cases: by rows, ascending. Those that would take too long for the whole to end in time are left out.
        """
        for case in cases:
            self._prepare(case)
        laps: dict[Case, list[float]] = {}
        began = time.perf_counter()
        for case in cases:
            if last := list(laps)[-1:]:
                foretold = laps[last[0]][0] * case.rows / last[0].rows
                if case.rows > last[0].rows and time.perf_counter() - began + foretold > _SECONDS / 2:
                    break
            laps[case] = [self._lap(case)]
        for _ in range(_ROUNDS):
            for case, found in laps.items():
                found.append(self._lap(case))
            if time.perf_counter() - began > _SECONDS:
                break
        # The first lap of each size allocates what the others find.
        return {case: min(found[1:]) for case, found in laps.items()}

    def _prepare(self, case: Case) -> None:
        """The first step of all imports, compiles and allocates what the others find."""
        if case.number not in self._states:
            config = replace(self._config, precision=case.number)
            self._states[case.number] = TrainState.create(config, self._build())
            self._lap(case._replace(rows=1))

    def _lap(self, case: Case) -> float:
        before = torch.get_num_threads()
        torch.set_num_threads(case.threads)
        try:
            started = time.perf_counter()
            self._step(case)
            return time.perf_counter() - started
        finally:
            torch.set_num_threads(before)

    def _step(self, case: Case) -> None:
        windows = np.random.default_rng(0).integers(4, self._vocab_size, (case.rows, self._window))
        state = self._states[case.number]
        train_step(state, as_trained(state.model, windows), self._limit(), case.rows)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _limit(self) -> float | None:
        start = Position(step=0, steps_per_epoch=1, epochs=1, tokens=0, tokens_per_epoch=1)
        return clip_limit(self._config.clip, start, [])
