"""Forward and backward passes; on CUDA replayed from graphs, as starting the work takes longer there than doing it.

A pass over 63 time steps starts some two thousand operations, each of which costs the host longer than the device where
batches are small. A CUDA graph is such a pass recorded once: it is started as a whole, on the same tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tune_newllm.models import LanguageModel
from tune_newllm.models.loss import cross_entropy
from tune_newllm.models.protocol import State
from tune_newllm.training.batches import PAD
from tune_newllm.training.device import Number, autocast

Body = Callable[[], None]
Recorder = Callable[[Body, torch.Generator], Body]
"""Runs a body of work that makes no new tensors outlive it, and returns what does it again."""
MOST_GRAPHS = 4
"""Shapes recorded at most, those that come first: enough for whole micro-batches, the last of a batch and of an epoch,
and a half that a probe reads. All others run as they are."""
_SEEN_BEFORE = 2
"""Passes of a shape that run as they are before one is recorded."""


@dataclass
class _Recorded:
    """A pass over tensors of its own."""

    tokens_BT: Tensor
    weight: Tensor
    loss: Tensor
    replay: Body | None = None


@dataclass
class Passes:
    """Adds the gradients of batches to the parameters' own.

    Args:
        model: on its device.
        number: format of the matrix products.
        generator: of the model's dropout masks.
        recorder: records passes whose shape comes again; None runs them all as they are.
    """

    model: LanguageModel
    number: Number
    generator: torch.Generator
    recorder: Recorder | None
    _graphs: dict[torch.Size, _Recorded] = field(default_factory=dict)
    _seen: dict[torch.Size, int] = field(default_factory=dict)
    _recording: bool = False

    def clear_gradients(self) -> None:
        """Set the gradients to nothing; recorded passes need them to stay where they are."""
        if self.recorder is None:
            self.model.zero_grad(set_to_none=True)
            return
        for each in self.model.parameters():
            if each.requires_grad and each.grad is None:
                each.grad = torch.zeros_like(each)
        torch._foreach_zero_([each.grad for each in self.model.parameters() if each.grad is not None])

    def forget(self) -> bool:
        """Drop all recorded passes and the memory they hold, and record no more; returns whether there were any."""
        held = bool(self._graphs) or self._recording
        if held:
            self.recorder, self._recording = None, False
            self._graphs.clear()
        return held

    def __call__(self, tokens_BT: Tensor, weight: Tensor, state: State = None) -> Tensor:
        """One pass; returns the sum of the losses, a scalar on the device.

        Args:
            tokens_BT: rows of token ids, inputs and targets together.
            weight: a scalar on the device; the gradients are those of `weight` times the sum.
            state: with which the model begins to read; only one that is not recorded has any.
        """
        shape = tokens_BT.shape
        recorded = self._graphs.get(shape)
        if recorded is None and self.recorder is not None:
            self._seen[shape] = self._seen.get(shape, 0) + 1
            if self._seen[shape] > _SEEN_BEFORE and len(self._graphs) < MOST_GRAPHS:
                recorded = self._record(tokens_BT, weight, self.recorder)
        if recorded is None or recorded.replay is None:
            return self._run(tokens_BT, weight, state)
        recorded.tokens_BT.copy_(tokens_BT)
        recorded.weight.copy_(weight)
        recorded.replay()
        return recorded.loss.clone()

    def _record(self, tokens_BT: Tensor, weight: Tensor, recorder: Recorder) -> _Recorded:
        recorded = _Recorded(tokens_BT.clone(), weight.clone(), torch.zeros_like(weight))
        gradients = [each.grad for each in self.model.parameters() if each.grad is not None]
        before, masks = [each.clone() for each in gradients], self.generator.get_state()

        def body() -> None:
            recorded.loss.copy_(self._run(recorded.tokens_BT, recorded.weight))

        # Recording runs the pass, which must leave no trace.
        self._recording = True
        recorded.replay = recorder(body, self.generator)
        self._recording = False
        torch._foreach_copy_(gradients, before)
        self.generator.set_state(masks)
        self._graphs[tokens_BT.shape] = recorded
        return recorded

    def _run(self, tokens_BT: Tensor, weight: Tensor, state: State = None) -> Tensor:
        with autocast(self.number, tokens_BT.device.type):
            features_TBF, _ = self.model.features(tokens_BT[:, :-1], state)
            targets_N = tokens_BT[:, 1:].t().flatten()
            loss = cross_entropy(features_TBF.flatten(0, 1), *self.model.head(), targets_N, PAD)
        torch.autograd.backward(loss * weight)
        return loss.detach()


def cuda_recorder() -> Recorder:
    """Records CUDA graphs, which share one pool of memory: they never run at the same time."""
    pool = torch.cuda.graph_pool_handle()

    def record(body: Body, generator: torch.Generator) -> Body:
        # Nothing else says on which of several devices a stream and a graph lie.
        with torch.cuda.device(generator.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(generator)
            with torch.cuda.stream(stream):
                # Libraries set themselves up in the first runs, on a stream that is not the default one.
                for _ in range(2):
                    body()
                with torch.cuda.graph(graph, pool=pool, stream=stream):
                    body()
            torch.cuda.current_stream().wait_stream(stream)
        replay: Body = graph.replay
        return replay

    return record
