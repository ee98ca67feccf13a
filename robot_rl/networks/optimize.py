"""Gradient steps without waiting for the device."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from robot_rl.networks.parameters import parameters_of
from robot_rl.networks.seen import Seen


class Adam(torch.optim.Adam):
    """PyTorch's fused Adam with its state and checkpoints, and on a CPU a step without its bookkeeping.

    Which takes as long as the arithmetic of small networks.
    """

    @torch.no_grad()
    def advance(self) -> None:
        """As `step`."""
        group = self.param_groups[0]
        parameters: list[Tensor] = group["params"]
        gradients = [each.grad for each in parameters if each.grad is not None]
        begun = len(self.state) == len(gradients) == len(parameters) and len(self.param_groups) == 1
        if not begun or parameters[0].device.type != "cpu" or torch.compiler.is_compiling():
            self.step()
            return
        states = [self.state[each] for each in parameters]
        steps = [each["step"] for each in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adam_(
            parameters,
            gradients,
            [each["exp_avg"] for each in states],
            [each["exp_avg_sq"] for each in states],
            [],
            steps,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )


def adam(module: nn.Module, learning_rate: float) -> Optimizer:
    """Adam with the usual moments (0.9, 0.999); fused: one kernel for all parameters, on CPU too."""
    return Adam(module.parameters(), lr=learning_rate, fused=True)


def descend(optimizer: Optimizer, loss: Tensor, *, learning_rate: float, gradient_clip: float | None) -> None:
    """One step down `loss`. Gradients are clipped to a global norm first, unless `gradient_clip` is None."""
    for parameter in _parameters(optimizer):
        parameter.grad = None
    loss.backward()
    _step(optimizer, learning_rate, gradient_clip)


def encoder_adam(encoder: nn.Module, learning_rate: float) -> dict[str, Optimizer]:
    """{"encoder": Adam of what learns in an encoder}; {} where nothing does, as of vectors."""
    learning = [each for each in encoder.parameters() if each.requires_grad]
    return {"encoder": Adam(learning, lr=learning_rate, fused=True)} if learning else {}


def descend_encoder(
    optimizers: dict[str, Optimizer], views: Sequence[Seen], *, learning_rate: float, gradient_clip: float | None
) -> None:
    """One step of the encoder, where there is one that learns, down all gradients that losses have left in `views`.

    What has been taken from a view is forgotten, so that a later step takes only what has come since.
    """
    if "encoder" not in optimizers:
        return
    outputs: list[Tensor] = []
    gradients: list[Tensor] = []
    for view in views:
        for output, leaf in view.outputs:
            if leaf.grad is not None:
                outputs.append(output)
                gradients.append(leaf.grad)
        view.outputs = [(output, leaf) for output, leaf in view.outputs if leaf.grad is None]
        if view.auxiliary is not None:
            outputs.append(view.auxiliary)
            gradients.append(torch.ones_like(view.auxiliary))
            view.auxiliary = None
    if not outputs:
        return
    optimizer = optimizers["encoder"]
    for parameter in _parameters(optimizer):
        parameter.grad = None
    torch.autograd.backward(outputs, gradients)
    _step(optimizer, learning_rate, gradient_clip)


def step_with_zero_gradient(optimizer: Optimizer, *, learning_rate: float) -> None:
    """Let Adam's momentum move the parameters, and its moments decay, as if the gradient were 0."""
    for parameter in _parameters(optimizer):
        parameter.grad = torch.zeros_like(parameter)
    _step(optimizer, learning_rate, None)


@contextmanager
def held(module: nn.Module) -> Iterator[None]:
    """Inside, gradients flow through `module` but not into its parameters, which saves computing them."""
    parameters = parameters_of(module)
    for each in parameters:
        each.requires_grad = False
    try:
        yield
    finally:
        for each in parameters:
            each.requires_grad = True


def _step(optimizer: Optimizer, learning_rate: float, gradient_clip: float | None) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    if gradient_clip is not None:
        nn.utils.clip_grad_norm_(list(_parameters(optimizer)), gradient_clip)
    if isinstance(optimizer, Adam):
        optimizer.advance()
    else:
        optimizer.step()


def _parameters(optimizer: Optimizer) -> Iterable[Tensor]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])
