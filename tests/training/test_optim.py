import math

import pytest
import torch
from torch import nn

from tune_newllm.training.config import TrainingConfig
from tune_newllm.training.optim import build_optimizers, effective_lr, take_step


def test_the_peak_rate_goes_through_both_rules():
    size = 4 * 2_739_432
    assert effective_lr(TrainingConfig(lr=1e-4, batch_size=4096), size) == 1e-4
    both = TrainingConfig(lr=1e-4, batch_size=128, lr_rule="linear", lr_size_rule="original")
    assert effective_lr(both, size) == pytest.approx(2e-4)
    small = nn.Linear(1, 1)
    optimizer = build_optimizers(TrainingConfig(lr=1e-4, batch_size=128, lr_rule="sqrt-sde"), small)[0]
    group = optimizer.param_groups[0]
    assert (group["lr"], *group["betas"], group["eps"]) == pytest.approx((2e-4, 0.6, 0.996, 5e-9))


class Reference:
    """One scalar weight under each optimizer, as the formulas are written."""

    def __init__(self, kind, lr, decay, beta1, beta2, eps):
        self.kind, self.lr, self.decay, self.beta1, self.beta2, self.eps = kind, lr, decay, beta1, beta2, eps
        self.m = self.v = self.t = 0

    def step(self, weight, gradient):
        self.t += 1
        if self.kind == "adamw":
            weight -= self.lr * self.decay * weight
        else:
            gradient += self.decay * weight
        if self.kind == "sgd":
            self.m = self.beta1 * self.m + gradient
            return weight - self.lr * self.m
        self.m = self.beta1 * self.m + (1 - self.beta1) * gradient
        self.v = self.beta2 * self.v + (1 - self.beta2) * gradient**2
        m, v = self.m / (1 - self.beta1**self.t), self.v / (1 - self.beta2**self.t)
        return weight - self.lr * m / (math.sqrt(v) + self.eps)


@pytest.mark.parametrize("decay", ["matrices", "all"])
@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd"])
def test_three_steps_agree_with_the_formulas(kind, decay):
    numbers = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3}
    model = nn.Linear(1, 1)
    config = TrainingConfig(optimizer=kind, weight_decay=0.3, decay=decay, **numbers)
    (optimizer,) = build_optimizers(config, model)
    references = {
        name: Reference(kind, decay=0.3 if name == "weight" or decay == "all" else 0.0, **numbers)
        for name in ("weight", "bias")
    }
    values = {name: each.item() for name, each in model.named_parameters()}
    for gradient in (0.5, -0.2, 0.9):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        values = {name: references[name].step(value, gradient) for name, value in values.items()}
        for name, parameter in model.named_parameters():
            assert parameter.item() == pytest.approx(values[name], rel=1e-5), name


def test_muon_orthogonalises_hidden_matrices_and_adamw_has_the_rest(tiny):
    model, lr, decay = tiny(width=64), 0.01, 0.5
    muon, adamw = build_optimizers(TrainingConfig(optimizer="muon", lr=lr, weight_decay=decay), model)
    names = {id(each): name for name, each in model.named_parameters()}

    def held(optimizer):
        return {names[id(each)] for group in optimizer.param_groups for each in group["params"]}

    assert held(muon) == {"layers.0.weight", "layers.1.weight", "gates.weight"}
    assert held(muon) | held(adamw) == set(names.values())
    assert not held(muon) & held(adamw)

    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    for each in model.parameters():
        each.grad = torch.randn(each.shape, generator=generator)
    for optimizer in (muon, adamw):
        optimizer.step()
    after = dict(model.named_parameters())
    # Adam's first step is as long as the rate; only matrices decay.
    assert torch.allclose(after["norm.bias"], before["norm.bias"] - lr * after["norm.bias"].grad.sign(), atol=1e-6)
    shrunk = before["embedding.weight"] * (1 - lr * decay)
    assert torch.allclose(after["embedding.weight"], shrunk - lr * after["embedding.weight"].grad.sign(), atol=1e-6)
    # Muon's is U V^T of the gradient's decomposition U S V^T, its root mean square 0.2 of the rate, up to its rounding.
    for name in held(muon):
        change = (before[name] * (1 - lr * decay) - after[name]).detach() / lr
        left, _, right = torch.linalg.svd(after[name].grad, full_matrices=False)
        wanted = 0.2 * math.sqrt(max(change.shape)) * left @ right
        assert torch.cosine_similarity(change.flatten(), wanted.flatten(), dim=0) > 0.95, name
        assert change.norm() == pytest.approx(wanted.norm().item(), rel=0.2), name


@pytest.mark.parametrize("kind", ["adam", "adamw", "sgd", "muon"])
def test_a_divisor_is_the_same_as_smaller_gradients_and_lasts_for_one_step(kind, tiny):
    config = TrainingConfig(optimizer=kind, lr=0.01, eps=1e-2, weight_decay=0.1)
    after = []
    for divides in (True, False):
        model, generator = tiny(), torch.Generator().manual_seed(0)
        optimizers = build_optimizers(config, model)
        for divisor in (4.0, 1.0):
            for each in model.parameters():
                each.grad = torch.randn(each.shape, generator=generator) / (1 if divides else divisor)
            take_step(optimizers, torch.tensor(divisor) if divides and divisor > 1 else None)
        after.append([each.detach() for each in model.parameters()])
    torch.testing.assert_close(*after, rtol=1e-4, atol=1e-6)
