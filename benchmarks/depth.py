"""How deep the feed-forward stack may be, for every init and ffn.

`python benchmarks/depth.py [--dropout 0.1] [--lr 1e-3] [--steps 300]`: E 32, H 64, C 32 on the built-in corpus (500
words, windows of 24, batch 32, Adam, gradients clipped to 1). One line per depth and kind: gradient norms of first,
middle and last feed-forward matrix in the first step; likeness; validation loss after each third of the steps.
"""

import argparse
import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tune_newllm.data.config import CorpusConfig
from tune_newllm.data.corpora import prepare
from tune_newllm.models import ContextVectorModel, ModelConfig, build

SMALL = ModelConfig(embed_dim=32, hidden_dim=64, ctx_dim=32)
KINDS = [replace(SMALL, init=init) for init in ("original", "he", "orthogonal")]
KINDS += [replace(SMALL, init=init, ffn="residual") for init in ("he", "orthogonal")]


def loss_of(model: ContextVectorModel, windows_BT: Tensor) -> Tensor:
    """Mean over the targets that are not padding (id 0)."""
    logits_NV = model(windows_BT[:, :-1])[0].flatten(0, 1)
    return F.cross_entropy(logits_NV, windows_BT[:, 1:].flatten(), ignore_index=0)


@torch.no_grad()
def likeness(model: ContextVectorModel) -> float:
    """Mean cosine between the last layer's units for all words, each at the start of a text."""
    seen: list[Tensor] = []
    hook = model.output.register_forward_hook(lambda _, inputs, __: seen.append(F.normalize(inputs[0][:, 0])))
    model.eval()(torch.arange(model.vocab_size)[:, None])
    hook.remove()
    return float((seen[0] @ seen[0].T).mean())


def train(model: ContextVectorModel, train_NT: Tensor, validation_NT: Tensor, lr: float, steps: int) -> str:
    """A line's figures: gradient norms, likeness, validation losses after each third of the steps."""
    alike, losses = likeness(model), []
    model.dropout_generator, order = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        torch.autograd.backward(loss_of(model.train(), train_NT[torch.randint(len(train_NT), (32,), generator=order)]))
        if step == 1:
            norms = [float(each.grad.norm()) for each in model.layers.parameters() if each.grad is not None][::2]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step in {math.ceil(third * steps / 3) for third in (1, 2, 3)}:
            with torch.no_grad():
                losses.append(float(loss_of(model.eval(), validation_NT)))
    shown = f"{norms[0]:9.1e}{norms[len(norms) // 2]:9.1e}{norms[-1]:9.1e}{alike:8.3f}"
    return shown + "".join(f"{loss:8.3f}" for loss in losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[1, 6, 12, 24, 48])
    for name, default in (("dropout", 0.0), ("lr", 1e-3), ("steps", 300), ("seed", 0)):
        parser.add_argument(f"--{name}", type=type(default), default=default)
    args = parser.parse_args()
    torch.set_num_threads(1)
    corpus = prepare(CorpusConfig(name="python-docs", vocab_size=500, window=24))
    train_NT, validation_NT = (torch.from_numpy(each.astype("int64")) for each in (corpus.train, corpus.validation))
    validation_NT = validation_NT[:: len(validation_NT) // 512]
    print(f"word frequencies alone: {math.log(corpus.stats['validation']['unigram_ppl']):.3f}")
    for depth in args.depths:
        for kind in KINDS:
            model = build(replace(kind, num_layers=depth, dropout=args.dropout), len(corpus.tokenizer), args.seed)
            print(f"L{depth:<4}{kind.init:<11}{kind.ffn:<9}", end="", flush=True)
            print(train(model, train_NT, validation_NT, args.lr, args.steps), flush=True)


if __name__ == "__main__":
    main()
