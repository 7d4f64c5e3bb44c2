"""What the training step is measured against: the original's way of writing the model, and an LSTM of equal size."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tune_newllm.models import ContextVectorModel, ModelConfig, parameter_count
from tune_newllm.training.device import Number, autocast

LIMIT = 0.5
"""Gradient norm at which all of them clip."""


class EagerLoop(nn.Module):
    """The model as the original research wrote it, with the weights of another: each step concatenates embedding and
    context, computes its logits at once, and has three separate gates and F.dropout."""

    def __init__(self, twin: ContextVectorModel) -> None:
        super().__init__()
        self.dropout, self.ctx_dim = twin.dropout, twin.ctx_dim
        self.embedding, self.layers, self.output, self.norm = (
            nn.Embedding.from_pretrained(twin.embedding.weight.detach().clone(), freeze=False),
            nn.ModuleList(_copy(layer.weight, layer.bias) for layer in twin.layers),
            _copy(twin.output.weight, twin.output.bias),
            nn.LayerNorm(twin.ctx_dim),
        )
        parts = zip(twin.gates.weight.chunk(3), twin.gates.bias.chunk(3), strict=True)
        self.heads = nn.ModuleList(_copy(weight, bias) for weight, bias in parts)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """logits_BTV of tokens_BT."""
        context_BC = torch.zeros(len(tokens_BT), self.ctx_dim, device=tokens_BT.device)
        logits = []
        for token_B in tokens_BT.unbind(1):
            hidden_BH = torch.cat([self.embedding(token_B), context_BC], dim=1)
            for layer in self.layers:
                hidden_BH = F.dropout(F.relu(layer(hidden_BH)), self.dropout, self.training)
            logits.append(self.output(hidden_BH))
            delta, f, g = (head(hidden_BH) for head in self.heads)
            mixed_BC = f.sigmoid() * context_BC + g.sigmoid() * delta
            context_BC = self.norm(mixed_BC).clamp(-10, 10)
        return torch.stack(logits, dim=1)


def _copy(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    linear.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
    return linear


class LSTM(nn.Module):
    """Embedding, one nn.LSTM and output: as wide as about equal numbers of parameters allow."""

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        wanted, embed = parameter_count(config, vocab_size), config.embed_dim
        width = 1
        while vocab_size * embed + 4 * width * (embed + width + 2) + vocab_size * (width + 1) < wanted:
            width += 1
        self.embedding = nn.Embedding(vocab_size, embed)
        self.lstm = nn.LSTM(embed, width, batch_first=True)
        self.output = nn.Linear(width, vocab_size)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """logits_BTV of tokens_BT."""
        return self.output(self.lstm(self.embedding(tokens_BT))[0])


class RivalStep:
    """A whole training step as the original's script takes it: forward, loss, backward, clipping, Adam.

    Args:
        model: tokens_BT -> logits_BTV.
        number: format of the matrix products.
        device: where model and windows lie.
        lr: of Adam; next to none where only time is asked for.
    """

    def __init__(self, model: nn.Module, number: Number, device: str, lr: float = 1e-9) -> None:
        self._model, self._number, self._device = model.to(device), number, device
        self._optimizer = torch.optim.Adam(model.parameters(), lr=lr)

    def __call__(self, windows: Tensor) -> float:
        """Take a step on windows [B, T + 1]; returns the loss."""
        inputs_BT, targets_BT = windows[:, :-1], windows[:, 1:]
        self._optimizer.zero_grad()
        with autocast(self._number, self._device):
            logits_BTV = self._model(inputs_BT)
            loss = F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten(), ignore_index=0)
        loss.backward()
        nn.utils.clip_grad_norm_(self._model.parameters(), LIMIT)
        self._optimizer.step()
        return loss.item()
