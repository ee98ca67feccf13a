"""Frozen vision transformers in the layouts of DINOv2 and SigLIP, read from a local safetensors file.

Oquab et al. "DINOv2". TMLR 2024, arXiv:2304.07193; Darcet et al. "Vision Transformers Need Registers". ICLR 2024,
arXiv:2309.16588; Zhai et al. "Sigmoid Loss for Language Image Pre-Training". ICCV 2023, arXiv:2303.15343.

Sizes are those of the tensors. Names may be those of Meta's own files and of timm (`blocks.0.attn.qkv.weight`), or of
transformers (`encoder.layer.0.attention...` of DINOv2, `vision_model.encoder.layers.0...` of SigLIP).
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robot_rl.errors import InputError

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16, 1280: 16, 1536: 24}
"""Attention heads by width; no file says them. Other widths: one for each 64."""
EPSILON = 1e-6

DINOV2_NAMES = (
    (r"^(dinov2|backbone)\.", ""),
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.register_tokens", "reg_token"),
    (r"^register_tokens", "reg_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.(\d+)\.attention\.attention\.", r"blocks.\1.attn."),
    (r"^encoder\.layer\.(\d+)\.attention\.output\.dense\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layer\.(\d+)\.layer_scale(\d)\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"^encoder\.layer\.(\d+)\.mlp\.weights_in\.", r"blocks.\1.mlp.w12."),
    (r"^encoder\.layer\.(\d+)\.mlp\.weights_out\.", r"blocks.\1.mlp.w3."),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"^layernorm\.", "norm."),
)
SIGLIP_NAMES = (
    (r"^vision_model\.", ""),
    (r"^(visual\.)?trunk\.", ""),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^embeddings\.position_embedding\.weight", "pos_embed"),
    (r"^encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.", r"blocks.\1.attn.\2."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"blocks.\1.attn.proj."),
    (r"^encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.", r"blocks.\1."),
    (r"^post_layernorm\.", "norm."),
    (r"^head\.probe", "attn_pool.latent"),
    (r"^head\.attention\.in_proj_", "attn_pool.in_proj_"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.", "attn_pool."),
)
_QKV = {"q": 0, "query": 0, "k": 1, "key": 1, "v": 2, "value": 2}


class Attention(nn.Module):
    """Self-attention of several heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, N, D) -> (B, N, D)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """Linear, GELU, linear; the largest DINOv2 has a gate (SwiGLU)."""

    def __init__(self, width: int, hidden: int, *, gated: bool, tanh: bool) -> None:
        super().__init__()
        self.gated, self.approximate = gated, "tanh" if tanh else "none"
        if gated:
            self.w12, self.w3 = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)
        else:
            self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (*, D) -> (*, D)."""
        if self.gated:
            gate, value = self.w12(x).chunk(2, dim=-1)
            y: Tensor = self.w3(F.silu(gate) * value)
        else:
            y = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        return y


class LayerScale(nn.Module):
    """A learned factor of each channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (*, D) -> (*, D)."""
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Norm before attention and before the feed-forward layers."""

    def __init__(self, width: int, heads: int, hidden: int, *, gated: bool, tanh: bool, layer_scale: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, EPSILON), nn.LayerNorm(width, EPSILON)
        self.attn = Attention(width, heads)
        self.mlp = FeedForward(width, hidden, gated=gated, tanh=tanh)
        self.ls1: nn.Module = LayerScale(width) if layer_scale else nn.Identity()
        self.ls2: nn.Module = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, N, D) -> (B, N, D)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        y: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return y


class AttentionPool(nn.Module):
    """SigLIP's head: one learned query over all patches, then feed-forward layers beside a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int, *, tanh: bool) -> None:
        super().__init__()
        self.heads = heads
        self.latent = nn.Parameter(torch.zeros(1, 1, width))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.mlp = FeedForward(width, hidden, gated=False, tanh=tanh)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, N, D) -> (B, D)."""
        q = self.q(self.latent.expand(len(x), -1, -1)).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k, v = self.kv(x).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        pooled: Tensor = (y + self.mlp(self.norm(y)))[:, 0]
        return pooled


class VisionTransformer(nn.Module):
    """Patches to one vector; every parameter is frozen.

    Args:
        tensors: of the file, under any of the names above.
        path: for messages.
        pooling: `none` is the class token (DINOv2) or the attention pool (SigLIP), `average` the mean of the patches.

    Raises:
        InputError: tensors that belong to neither layout.
    """

    def __init__(self, tensors: Mapping[str, Tensor], path: str, pooling: str) -> None:
        super().__init__()
        state = native_names(tensors, path)
        self.width, channels, self.patch, _ = state["patch_embed.proj.weight"].shape
        if channels != 3:
            raise InputError(f"{path}: the transformer takes {channels} channels, not RGB")
        depth = 1 + max(int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key)))
        heads = HEADS.get(self.width, max(self.width // 64, 1))
        gated = "blocks.0.mlp.w12.weight" in state
        hidden = state["blocks.0.mlp.w3.weight"].shape[1] if gated else state["blocks.0.mlp.fc1.weight"].shape[0]
        self.average = pooling == "average"
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, self.width, self.patch, self.patch)})
        has_class, tanh = "cls_token" in state, "cls_token" not in state
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.width)) if has_class else None
        registers = state["reg_token"].shape[1] if "reg_token" in state else 0
        self.reg_token = nn.Parameter(torch.zeros(1, registers, self.width)) if registers else None
        self.pos_embed = nn.Parameter(torch.zeros_like(state["pos_embed"], dtype=torch.float32))
        self.blocks = nn.ModuleList(
            TransformerBlock(
                self.width, heads, hidden, gated=gated, tanh=tanh, layer_scale="blocks.0.ls1.gamma" in state
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(self.width, EPSILON)
        self.attn_pool: nn.Module | None = None
        if "attn_pool.latent" in state:
            inner = state["attn_pool.mlp.fc1.weight"].shape[0]
            self.attn_pool = AttentionPool(self.width, heads, inner, tanh=tanh)
        elif not has_class and not self.average:
            raise InputError(f"{path} has neither a class token nor SigLIP's pool: set vision pooling=average")
        # A position of the class token is there in Meta's files, and not in timm's of registers.
        side = round((self.pos_embed.shape[1] - int(has_class)) ** 0.5)
        self.class_position = int(has_class and side * side + 1 == self.pos_embed.shape[1])
        missing, unknown = self.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
        unknown = [key for key in unknown if key != "mask_token" and not key.startswith(("head.", "fc_norm."))]
        if missing or unknown:
            raise InputError(f"{path} is no DINOv2 or SigLIP transformer: lacks {missing[:5]}, has {unknown[:5]} more")
        self.requires_grad_(False)

    @property
    def features(self) -> int:
        """D."""
        return int(self.width)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, 3, H, W) with sides that are multiples of the patch -> (B, D)."""
        x = self.patch_embed["proj"](x)  # (B, D, h, w)
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2) + self._positions(height, width)
        first = 0
        if self.cls_token is not None:
            token = self.cls_token + self.pos_embed[:, :1] if self.class_position else self.cls_token
            tokens = [token] if self.reg_token is None else [token, self.reg_token]
            x = torch.cat([*(each.expand(len(x), -1, -1) for each in tokens), x], dim=1)
            first = sum(each.shape[1] for each in tokens)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.average:
            return x[:, first:].mean(dim=1)
        if self.attn_pool is None:
            return x[:, 0]
        pooled: Tensor = self.attn_pool(x)
        return pooled

    def _positions(self, height: int, width: int) -> Tensor:
        """Those of the patches, interpolated where the image is of another size. Shapes: -> (1, h * w, D)."""
        positions = self.pos_embed[:, self.class_position :]
        side = round(positions.shape[1] ** 0.5)
        if (height, width) == (side, side):
            return positions
        grid = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(height, width), mode="bicubic", align_corners=False)
        return grid.flatten(2).transpose(1, 2)


def native_names(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    """The tensors under timm's names, with q, k and v in one matrix.

    Raises:
        InputError: there is no patch embedding, block or position among them.
    """
    renamed: dict[str, Tensor] = {}
    siglip = any(key.startswith("vision_model.") or ".self_attn." in key or "attn_pool" in key for key in tensors)
    for key, value in tensors.items():
        if key.startswith("text_model.") or key in ("logit_scale", "logit_bias"):
            continue
        for pattern, replacement in SIGLIP_NAMES if siglip else DINOV2_NAMES:
            key = re.sub(pattern, replacement, key)
        renamed[key] = value
    joined: dict[str, dict[int, Tensor]] = {}
    state: dict[str, Tensor] = {}
    for key, value in renamed.items():
        found = re.fullmatch(r"(blocks\.\d+\.attn)\.(q|k|v|query|key|value)\.(weight|bias)", key)
        if found:
            joined.setdefault(f"{found[1]}.qkv.{found[3]}", {})[_QKV[found[2]]] = value
        elif key.startswith("attn_pool.in_proj_"):
            kind = key.removeprefix("attn_pool.in_proj_")
            width = value.shape[0] // 3
            state[f"attn_pool.q.{kind}"], state[f"attn_pool.kv.{kind}"] = value[:width], value[width:]
        else:
            state[key] = value
    state |= {key: torch.cat([parts[index] for index in sorted(parts)]) for key, parts in joined.items()}
    if "pos_embed" in state and state["pos_embed"].ndim == 2:
        state["pos_embed"] = state["pos_embed"][None]
    if "attn_pool.latent" in state:
        state["attn_pool.latent"] = state["attn_pool.latent"].reshape(1, 1, -1)
    needed = ("patch_embed.proj.weight", "pos_embed", "blocks.0.attn.qkv.weight")
    if missing := [key for key in needed if key not in state]:
        raise InputError(f"{path} is no DINOv2 or SigLIP transformer: lacks {missing}, has {sorted(tensors)[:5]}")
    return state
