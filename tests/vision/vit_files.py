"""Made-up files of vision transformers: the names of real ones, and random numbers."""

import torch


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dinov2_tensors(width: int = 12, depth: int = 2, side: int = 2, registers: int = 0) -> dict[str, torch.Tensor]:
    """Random numbers under the names of Meta's files."""
    g = _generator(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=g) * 0.2

    tensors = {
        "cls_token": noise(1, 1, width),
        "mask_token": noise(1, width),
        "pos_embed": noise(1, side * side + 1, width),
        "patch_embed.proj.weight": noise(width, 3, 14, 14),
        "patch_embed.proj.bias": noise(width),
        "norm.weight": noise(width),
        "norm.bias": noise(width),
    }
    if registers:
        tensors["register_tokens"] = noise(1, registers, width)
    for index in range(depth):
        name = f"blocks.{index}"
        for layer, shape in {
            "norm1": (width,), "norm2": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width),
            "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width),
        }.items():  # fmt: skip
            tensors[f"{name}.{layer}.weight"], tensors[f"{name}.{layer}.bias"] = noise(*shape), noise(shape[0])
        tensors[f"{name}.ls1.gamma"], tensors[f"{name}.ls2.gamma"] = noise(width), noise(width)
    return tensors


def siglip_tensors(width: int = 12) -> dict[str, torch.Tensor]:
    """Random numbers under the names of timm."""
    g = _generator(4)
    tensors = {key: value for key, value in dinov2_tensors(width).items() if "ls" not in key and "token" not in key}
    tensors["pos_embed"] = torch.randn(1, 4, width, generator=g) * 0.2
    shapes = {"q": (width, width), "kv": (2 * width, width), "proj": (width, width), "norm": (width,)}
    shapes |= {"mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width)}
    for name, shape in shapes.items():
        tensors[f"attn_pool.{name}.weight"] = torch.randn(shape, generator=g) * 0.2
        tensors[f"attn_pool.{name}.bias"] = torch.randn(shape[:1], generator=g) * 0.2
    tensors["attn_pool.latent"] = torch.randn(1, 1, width, generator=g)
    return tensors
