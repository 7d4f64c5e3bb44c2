"""The training step against the plain eager loop that the original research used.

`python benchmarks/train_step.py [--threads 1]`: forward, loss and backward of both, measured in turns in one process;
prints medians in ms and their ratio. The rival concatenates embedding and context, computes logits at every step, uses
F.dropout and three separate gates; its weights are equal, so with dropout 0 its loss must be, which is checked first.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_newllm.models import ContextVectorModel, ModelConfig, build

VOCAB = 1000
MODELS = {
    "E64 H128 C64 L2, T 31": (ModelConfig(embed_dim=64, hidden_dim=128, ctx_dim=64, num_layers=2), 31, (8, 32, 128)),
    "E256 H512 C256 L6, T 63": (ModelConfig(), 63, (32,)),
}


class EagerLoop(nn.Module):
    """The model, step by step, with the weights of another."""

    def __init__(self, twin: ContextVectorModel) -> None:
        super().__init__()
        self.twin, self.dropout = twin, twin.dropout
        self.heads = [nn.Linear(twin.gates.in_features, twin.ctx_dim) for _ in range(3)]
        for head, weight, bias in zip(self.heads, twin.gates.weight.chunk(3), twin.gates.bias.chunk(3), strict=True):
            head.weight, head.bias = nn.Parameter(weight.detach().clone()), nn.Parameter(bias.detach().clone())

    def forward(self, tokens_BT: Tensor) -> Tensor:
        context_BC = torch.zeros(len(tokens_BT), self.twin.ctx_dim)
        logits = []
        for token_B in tokens_BT.unbind(1):
            hidden_BH = torch.cat([self.twin.embedding(token_B), context_BC], dim=1)
            for layer in self.twin.layers:
                hidden_BH = F.dropout(F.relu(layer(hidden_BH)), self.dropout, self.training)
            logits.append(self.twin.output(hidden_BH))
            delta, f, g = (head(hidden_BH) for head in self.heads)
            mixed_BC = f.sigmoid() * context_BC + g.sigmoid() * delta
            context_BC = self.twin.norm(mixed_BC).clamp(-10, 10)
        return torch.stack(logits, dim=1)


def step(model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> float:
    """Forward, loss and backward; returns the loss."""
    model.zero_grad(set_to_none=True)
    logits_BTV = model(inputs_BT)
    logits_BTV = logits_BTV[0] if isinstance(logits_BTV, tuple) else logits_BTV
    loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
    loss.backward()
    return loss.item()


def compare(config: ModelConfig, length: int, batch: int, repetitions: int) -> tuple[float, float, float]:
    """Median milliseconds of ours and of the rival, and the median of the ratios pair by pair."""
    ours = build(config, VOCAB, seed=0)
    rival = EagerLoop(ours)
    tokens = torch.randint(0, VOCAB, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    data = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    ours.dropout = rival.dropout = 0.0
    difference = abs(step(ours, *data) - step(rival, *data))
    assert difference < 1e-4, f"the two compute different losses: {difference}"
    ours.dropout = rival.dropout = config.dropout
    seconds: dict[nn.Module, list[float]] = {ours: [], rival: []}
    for _ in range(repetitions):
        for model, times in seconds.items():
            began = time.perf_counter()
            step(model, *data)
            times.append(time.perf_counter() - began)
    ratios = [theirs / mine for mine, theirs in zip(*seconds.values(), strict=True)]
    mine, theirs = (1000 * statistics.median(times) for times in seconds.values())
    return mine, theirs, statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{'model':26}{'batch':>6}{'ours ms':>10}{'eager ms':>10}{'ratio':>8}")
    for name, (config, length, batches) in MODELS.items():
        for batch in batches:
            mine, theirs, ratio = compare(config, length, batch, arguments.repetitions)
            print(f"{name:26}{batch:>6}{mine:>10.1f}{theirs:>10.1f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
