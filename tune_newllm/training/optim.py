"""Optimizers, and the learning rate they peak at."""

import inspect
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.rules import BATCH_RULES, AdamNumbers, sde_adam, size_rule

_NOT_HIDDEN = {"embedding", "output", "wte", "wpe", "lm_head"}
"""Modules at the ends of every model: a matrix in one of them is a table of words, or of positions."""


@cache
def _leave_the_compiler_out() -> None:
    """torch's optimizers import its compiler, for two seconds in every process, only to keep it away from themselves.

    They remember that it is done in an attribute. Where torch has changed that, this has no effect.
    """
    for method in vars(torch.optim.Optimizer).values():
        if (plain := getattr(method, "__wrapped__", None)) is not None:
            plain.__dynamo_disable = plain


def effective_lr(config: TrainingConfig, model_size: int) -> float:
    """Peak learning rate of a run: `config.lr` after its scaling rules.

    Args:
        config: what is trained how.
        model_size: as the function of this name counts it.
    """
    lr = BATCH_RULES[config.lr_rule](config.lr, config.batch_size)
    return size_rule(lr, model_size) if config.lr_size_rule == "original" else lr


def model_size(model: nn.Module) -> int:
    """Scalars of a model's weights, those that are frozen too: what `parameter_count` says without building it."""
    return sum(each.numel() for each in model.parameters())


def build_optimizers(config: TrainingConfig, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizers that together take one step for all parameters; one, or for `muon` two.

    - adam: `weight_decay` is an L2 term of the gradient. adamw: decoupled decay.
    - sgd: v <- beta1 v + g, w <- w - lr v (heavy ball, not Nesterov's form); decay as with adam.
    - muon: every hidden matrix moves along its orthogonalised momentum, scaled to the size of Adam's steps so that one
      learning rate serves both (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982); the gates' three heads are one
      matrix, as are GPT-2's queries, keys and values. Embedding, output, biases and layer norm are trained by adamw.
      Decoupled decay.
    """
    _leave_the_compiler_out()
    named = {name: each for name, each in model.named_parameters() if each.requires_grad}
    lr = effective_lr(config, model_size(model))
    shared: Mapping[str, Any] = {"lr": lr, "weight_decay": config.weight_decay}
    if config.optimizer == "sgd":
        return [torch.optim.SGD(_groups(config, named.values()), momentum=config.beta1, fused=True, **shared)]
    numbers = AdamNumbers(config.beta1, config.beta2, config.eps)
    if config.lr_rule == "sqrt-sde":
        numbers = sde_adam(*numbers, config.batch_size)
    # Fused: two to four times faster on a CPU as well, where it is not torch's default.
    adam: Mapping[str, Any] = {"betas": numbers[:2], "eps": numbers.eps, "fused": True} | dict(shared)
    if config.optimizer == "adam":
        return [torch.optim.Adam(_groups(config, named.values()), **adam)]
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(_groups(config, named.values()), **adam)]
    hidden = [each for name, each in named.items() if each.ndim == 2 and _NOT_HIDDEN.isdisjoint(name.split("."))]
    rest = [each for each in named.values() if each not in set(hidden)]
    return [
        torch.optim.Muon(hidden, momentum=config.beta1, adjust_lr_fn="match_rms_adamw", **shared),
        torch.optim.AdamW(_groups(config, rest), **adam),
    ]


def take_step(optimizers: Iterable[torch.optim.Optimizer], divisor: Tensor | None) -> None:
    """Change the weights by their gradients, divided by a scalar on their device; None divides by nothing.

    The fused optimizers divide while they read the gradients; for the others that is a pass of its own.
    """
    for optimizer in optimizers:
        if divisor is None:
            _step(optimizer)
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            # The way in which torch's own loss scaling reaches them.
            optimizer.grad_scale = divisor  # type: ignore[attr-defined]
            _step(optimizer)
            optimizer.grad_scale = None  # type: ignore[attr-defined]
        else:
            gradients = [each.grad for group in optimizer.param_groups for each in group["params"]]
            torch._foreach_div_([each for each in gradients if each is not None], divisor)
            _step(optimizer)


def _step(optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        # Beneath the wrappers that turn gradients off for torch's compiler, which they import as well.
        inspect.unwrap(type(optimizer).step)(optimizer)


def _groups(config: TrainingConfig, parameters: Iterable[nn.Parameter]) -> list[dict[str, Any]]:
    """Parameters with decay, and those without it, which are the vectors unless `decay` is `all`."""
    parameters = list(parameters)
    if config.decay == "all" or not config.weight_decay:
        return [{"params": parameters}]
    vectors = [each for each in parameters if each.ndim < 2]
    return [{"params": [each for each in parameters if each.ndim >= 2]}, {"params": vectors, "weight_decay": 0.0}]


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Global L2 norm of all gradients, a scalar on their device."""
    return torch.nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])


def clip_divisor(norm: Tensor, limit: float) -> Tensor:
    """What gradients of this global norm are divided by so that none is above the limit: max(1, norm / limit)."""
    return (norm / limit).clamp(min=1)
