"""The parameters of a module, without the bookkeeping of `nn.Module.parameters`, which costs as much as a layer."""

from torch import Tensor, nn


def parameters_of(module: nn.Module) -> list[Tensor]:
    """All parameters, in the order of `module.parameters()`; one that two modules share is there twice."""
    found: list[Tensor] = [each for each in module._parameters.values() if each is not None]
    for child in module._modules.values():
        if child is not None:
            found += parameters_of(child)
    return found
