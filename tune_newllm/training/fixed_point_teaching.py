"""How the context blocks are taught: iterations over all tokens at once, each from the contexts of the one before.

Shape suffixes: B rows, T tokens of a row, M tokens, D context, X input.
"""

import math
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tune_newllm.errors import DegenerateError
from tune_newllm.models.fixed_point import FixedPointModel
from tune_newllm.training.batches import PAD, ContextRows
from tune_newllm.training.context_cache import fill
from tune_newllm.training.fixed_point_config import FixedPointConfig


class Iteration(NamedTuple):
    """What one iteration saw; the first one, which only reads, has neither losses nor a share."""

    iteration: int
    """1-based."""
    error: float | None
    """Mean squared error of the contexts that the blocks make of disturbed ones, before each batch's own step."""
    spread: float | None
    """How far these contexts lie from their mean in a batch, in the mean over tokens: `original` divides the norm of
    all distances by their number, `mended` by the norm of all contexts, which gives 0 to 1."""
    converged: float | None
    """Share of contexts that changed by less than the threshold."""
    seconds: float


class _Made(NamedTuple):
    """What the blocks make of the contexts of some rows."""

    made_MD: Tensor
    wanted_MD: Tensor
    """Those of the iteration before."""
    token_M: Tensor
    """Number of each token among all, padding counted."""
    is_token_BT: Tensor


class Teacher:
    """Teaches the context blocks of a model.

    Args:
        model: on the device.
        rows: with room for the contexts of the last layer, which are those of the last iteration whenever one ends.
        config: of phase one.
        seed: decides the order of the rows, and the noise.
        device: as `resolve_device` gives it.
    """

    def __init__(
        self, model: FixedPointModel, rows: ContextRows, config: FixedPointConfig, seed: int, device: str
    ) -> None:
        self._model, self._rows, self._config, self._device = model, rows, config, device
        self._order = np.random.default_rng(np.random.SeedSequence([seed], spawn_key=(2,)))
        self._noise = torch.Generator(device).manual_seed(int(self._order.integers(2**62)))
        self._optimizer = torch.optim.Adam(model.context_blocks.parameters(), lr=config.lr)
        size = max(1, config.batch_tokens // rows.steps)
        self._starts = range(0, len(rows), size)
        self._batch = size

    def iterations(self) -> Iterator[Iteration]:
        """Read all contexts, then teach until they have converged or the iterations are used up.

        Raises:
            DegenerateError: a loss is not finite; by the original's procedure, those of all batches of an iteration.
        """
        config, began = self._config, time.perf_counter()
        fill(self._model, self._rows, self._device)
        yield Iteration(1, None, None, None, time.perf_counter() - began)
        teach = self._teach_once if config.procedure == "original" else self._teach_by_batches
        for number in range(2, config.max_iterations + 1):
            began = time.perf_counter()
            self._model.context_blocks.requires_grad_(True)
            try:
                error, spread, converged = teach()
            finally:
                self._model.context_blocks.requires_grad_(False)
            yield Iteration(number, error, spread, converged, time.perf_counter() - began)
            if number >= config.min_iterations and converged >= config.stop_share:
                return

    def _teach_by_batches(self) -> tuple[float, float, float]:
        """A step for every batch, of rows in a new order; then new contexts, undisturbed. Error, spread and share."""
        order = self._order.permutation(len(self._rows))
        sums_4 = torch.zeros(4, device=self._device)
        for start in self._starts:
            made = self._make(order[start : start + self._batch], self._config.noise)
            error, spread = self._losses(made)
            self._optimizer.zero_grad()
            torch.autograd.backward(self._weighed(error, spread))
            self._step()
            sums_4 += torch.stack([error, spread, error.new_ones(()), error.new_zeros(())]).detach() * len(made.token_M)
        with torch.no_grad():
            for start in reversed(self._starts):
                sums_4[3] += self._renew(start, self._make(self._places(start), 0.0))
        return self._shares(sums_4, 0)

    def _teach_once(self) -> tuple[float, float, float]:
        """One step from the gradients of all batches, in which each counts alike; the contexts it was made of stay."""
        first_D = self._last_context().clone()
        sums_4, skipped = torch.zeros(4, device=self._device), 0
        self._optimizer.zero_grad()
        for start in reversed(self._starts):
            made = self._make(self._places(start), self._config.noise, first_D)
            error, spread = self._losses(made)
            loss = self._weighed(error, spread) / len(self._starts)
            if math.isfinite(loss.item()):
                torch.autograd.backward(loss)
                seen = torch.stack([error, spread, error.new_ones(()), error.new_zeros(())]).detach()
                sums_4 += seen * len(made.token_M)
            else:
                skipped += 1
            sums_4[3] += self._renew(start, made)
        self._step()
        return self._shares(sums_4, skipped)

    def _shares(self, sums_4: Tensor, skipped: int) -> tuple[float, float, float]:
        error, spread, seen, converged = sums_4.tolist()
        if not math.isfinite(error + spread) or skipped == len(self._starts):
            raise DegenerateError("phase one's loss is no number any more: lower training.fixed_point.lr or its noise")
        tokens = int(np.count_nonzero(self._rows.windows[:, :-1] != PAD))
        return error / seen, spread / seen, converged / tokens

    def _places(self, start: int) -> NDArray[np.int64]:
        return np.arange(start, min(start + self._batch, len(self._rows)))

    def _make(self, places: NDArray[np.int64], noise: float, first_D: Tensor | None = None) -> _Made:
        """What the blocks make of these rows' contexts, disturbed.

        Args:
            first_D: the context before the first token of all; None stands for zeros.
        """
        rows = self._rows[places]
        ids_BT, before_KB = rows.inputs(self._device)
        is_token_BT = ids_BT != PAD
        context_BTD = self._previous(places, first_D)
        if noise:
            drawn = torch.empty_like(context_BTD).normal_(0, noise, generator=self._noise)
            context_BTD = context_BTD + drawn
        inputs_BTX = self._model.context_inputs(ids_BT.t(), before_KB).transpose(0, 1)
        made_MD = self._model.step(context_BTD[is_token_BT], inputs_BTX[is_token_BT])
        token_BT = torch.from_numpy(places).to(self._device)[:, None] * rows.steps
        token_BT = token_BT + torch.arange(rows.steps, device=self._device)
        return _Made(made_MD, self._kept(places)[is_token_BT], token_BT[is_token_BT], is_token_BT)

    def _previous(self, places: NDArray[np.int64], first_D: Tensor | None) -> Tensor:
        """The contexts before each token of these rows, [B, T, D]."""
        context_BTD = self._kept(places).roll(1, dims=1)
        context_BTD[:, 0] = 0
        if self._rows.carries:
            context_BTD[:, 0] = self._rows.contexts[torch.from_numpy(places - 1), -1].to(self._device)
            context_BTD[torch.from_numpy(places == 0), 0] = 0 if first_D is None else first_D
        return context_BTD

    def _kept(self, places: NDArray[np.int64]) -> Tensor:
        """Their contexts of the iteration before, [B, T, D]."""
        contexts_NTD = self._rows.contexts
        return contexts_NTD[torch.from_numpy(places).to(contexts_NTD.device)].to(self._device)

    def _last_context(self) -> Tensor:
        """That of the last token of all."""
        tokens = np.count_nonzero(self._rows.windows[-1, :-1] != PAD)
        return self._rows.contexts[-1, tokens - 1].to(self._device)

    def _losses(self, made: _Made) -> tuple[Tensor, Tensor]:
        """Error and spread, in the mean over the blocks, each of which is taught by its own share of the tokens; those
        that have none in these rows do not count."""
        blocks = len(self._model.context_blocks)
        errors, spreads = [], []
        chunks = zip(made.made_MD.chunk(blocks, 1), made.wanted_MD.chunk(blocks, 1), strict=True)
        for block, (made_Md, wanted_Md) in enumerate(chunks):
            if blocks > 1:
                own_M = made.token_M % blocks == block
                made_Md, wanted_Md = made_Md[own_M], wanted_Md[own_M]
                if not len(made_Md):
                    continue
            errors.append((made_Md - wanted_Md).square().mean())
            distance = torch.linalg.vector_norm(made_Md - made_Md.mean(0))
            # Divided by the number of tokens, a larger batch spreads less, and longer contexts spread more.
            original = self._config.procedure == "original"
            spreads.append(distance / (len(made_Md) if original else torch.linalg.vector_norm(made_Md)))
        return torch.stack(errors).mean(), torch.stack(spreads).mean()

    def _weighed(self, error: Tensor, spread: Tensor) -> Tensor:
        return (1 - self._config.diversity) * error - self._config.diversity * spread

    def _step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._model.context_blocks.parameters(), self._config.clip)
        self._optimizer.step()

    def _renew(self, start: int, made: _Made) -> Tensor:
        """Let the contexts be what was made; returns how many had converged.

        From the last batch to the first: each is made of contexts before it, which must still be the old ones.
        """
        contexts_BTD = self._rows.contexts[start : start + self._batch]
        contexts_BTD[made.is_token_BT.to(contexts_BTD.device)] = made.made_MD.detach().to(contexts_BTD.device)
        change_M = (made.made_MD.detach() - made.wanted_MD).square().mean(1)
        return (change_M < self._config.threshold).sum()
