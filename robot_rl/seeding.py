"""One root seed, named independent generators.

Adding a consumer does not change the numbers of the others, which is what makes runs comparable across versions.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Seeds:
    """Derives seeds from a root and a name, by SHA-256."""

    root: int

    def integer(self, *name: str | int) -> int:
        """A seed in [0, 2**31), the same for the same root and name."""
        digest = hashlib.sha256(repr((self.root, *name)).encode()).digest()
        return int.from_bytes(digest[:4], "little") >> 1

    def torch(self, *name: str | int, device: torch.device | str = "cpu") -> torch.Generator:
        """A new torch generator."""
        return torch.Generator(device=device).manual_seed(self.integer(*name))

    def numpy(self, *name: str | int) -> np.random.Generator:
        """A new numpy generator."""
        return np.random.default_rng(self.integer(*name))
