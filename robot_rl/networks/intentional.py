"""The multilinear head of intention-conditioned values, as a stack of E members.

Ghosh, Bhateja, Levine. ICML 2023, arXiv:2304.04782; form and initialisation of dibyaghosh/icvf_release 73ded29
(src/icvf_networks.py::MultilinearVF).
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.functional.intentional import multilinear_value


class StackedMLP(nn.Module):
    """E networks whose last layer is activated too: linear, ReLU; or linear, GELU, LayerNorm (as published)."""

    def __init__(
        self, count: int, inputs: int, widths: list[int], *, layer_norm: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for before, width in pairwise([inputs, *widths]):
            weight = torch.empty(count, width, before)
            for member in weight:
                nn.init.xavier_uniform_(member, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(torch.zeros(count, width)))
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(count, width)) for width in widths if layer_norm)
        self.offsets = nn.ParameterList(nn.Parameter(torch.zeros(count, width)) for width in widths if layer_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (M, F), the same for all members, or (E, M, F) -> (E, M, d)."""
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias[:, None], x.expand(len(weight), *x.shape[-2:]), weight.mT)
            if len(self.scales):
                x = F.layer_norm(F.gelu(x, approximate="tanh"), x.shape[-1:], eps=1e-6)
                x = self.scales[index][:, None] * x + self.offsets[index][:, None]
            else:
                x = F.relu(x)
        return x


class IntentionalValue(nn.Module):
    """V(s, s+, z) of features f: phi(f(s)), psi(f(s+)), T(psi(f(z))), put together by `multilinear_value`."""

    def __init__(
        self, features: int, hidden: list[int], *, count: int, layer_norm: bool, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = hidden[-1]
        self.phi = StackedMLP(count, features, hidden, layer_norm=layer_norm, generator=generator)
        self.psi = StackedMLP(count, features, hidden, layer_norm=layer_norm, generator=generator)
        self.transform = StackedMLP(count, width, hidden, layer_norm=layer_norm, generator=generator)
        self.left, self.right = (nn.Parameter(torch.empty(count, width, width)) for _ in range(2))
        self.left_bias, self.right_bias = (nn.Parameter(torch.zeros(count, width)) for _ in range(2))
        for matrix in (self.left, self.right):  # normal of variance 1 / width, cut at two deviations: flax's default
            nn.init.trunc_normal_(matrix, 0.0, 1.0, -2.0, 2.0, generator)
            matrix.data.mul_(width**-0.5 / 0.87962566)

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi, psi and T(psi) of every frame of a pool. Shapes: (M, F) -> (E, M, d) thrice."""
        psi = self.psi(features)
        return self.phi(features), psi, self.transform(psi)

    def value(self, parts: tuple[Tensor, Tensor, Tensor], state: Tensor, outcome: Tensor, intent: Tensor) -> Tensor:
        """V of tuples of frames of a pool, by their numbers. Shapes: (K,) each -> (E, K)."""
        phi, psi, transform = parts
        return self.combine(phi.index_select(1, state), psi.index_select(1, outcome), transform.index_select(1, intent))

    def combine(self, phi: Tensor, psi: Tensor, transform: Tensor) -> Tensor:
        """Shapes: (E, K, d) thrice -> (E, K)."""
        return multilinear_value(phi, psi, transform, (self.left, self.left_bias), (self.right, self.right_bias))
