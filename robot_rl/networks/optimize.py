"""Gradient steps without waiting for the device."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def adam(module: nn.Module, learning_rate: float) -> Optimizer:
    """Adam with the usual moments (0.9, 0.999); fused: one kernel for all parameters, on CPU too."""
    return torch.optim.Adam(module.parameters(), lr=learning_rate, fused=True)


def descend(optimizer: Optimizer, loss: Tensor, *, learning_rate: float, gradient_clip: float | None) -> None:
    """One step down `loss`. Gradients are clipped to a global norm first, unless `gradient_clip` is None."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    _step(optimizer, learning_rate, gradient_clip)


def step_with_zero_gradient(optimizer: Optimizer, *, learning_rate: float) -> None:
    """Let Adam's momentum move the parameters, and its moments decay, as if the gradient were 0."""
    for parameter in _parameters(optimizer):
        parameter.grad = torch.zeros_like(parameter)
    _step(optimizer, learning_rate, None)


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Inside, gradients flow through `module` but not into its parameters, which saves computing them."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _step(optimizer: Optimizer, learning_rate: float, gradient_clip: float | None) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if gradient_clip is not None:
        nn.utils.clip_grad_norm_(list(_parameters(optimizer)), gradient_clip)
    optimizer.step()


def _parameters(optimizer: Optimizer) -> Iterable[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
