"""Bytes of one camera to features."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robot_rl.errors import InputError
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.convolutional import Convolutions, Impala
from robot_rl.networks.vision.pixels import folded, resized, scaled, with_coordinates
from robot_rl.networks.vision.pooling import Pool, pooling
from robot_rl.networks.vision.resnet import ResNet
from robot_rl.networks.vision.vit import VisionTransformer
from robot_rl.networks.vision.weights import Fingerprint, load_weights, read_tensors


class ImageEncoder(nn.Module):
    """Images to a map of features to a vector: `trunk`, then `pool`.

    Args:
        config: of the encoder; its weights are not read here, but for a transformer, whose sizes they have.
        shape: of one observation, (H, W, C), or (K, H, W, C) of K frames, oldest first.
        generator: of the weights.
        condition_size: D of an embedding of language or task that FiLM layers listen to; 0 has none.

    Raises:
        InputError: images too small for the trunk, or a condition that the trunk cannot take.
    """

    def __init__(
        self, config: VisionConfig, shape: Sequence[int], generator: torch.Generator, *, condition_size: int = 0
    ) -> None:
        super().__init__()
        self.config, self.shape, self.condition_size = config, tuple(shape), condition_size
        *frames, height, width, channels = self.shape
        self.apart = config.frames == "apart" or config.kind == "vit"
        count = frames[0] if frames else 1
        inputs = channels * (1 if self.apart else count)
        self.copies = count if self.apart else 1
        # Frames need not lie side by side then, which takes as long as the first convolution.
        plain = config.resize is None and not config.coordinates and config.pixels != "imagenet"
        self.deep = config.kind == "cnn" and plain
        if config.kind == "vit":
            if condition_size:
                raise InputError("vision kind=vit is frozen: no FiLM can condition it")
            path = str(config.weights)
            transformer = VisionTransformer(read_tensors(path)[0], path, config.pooling)
            side = self._side(height, width)
            if any(each % transformer.patch for each in side):
                raise InputError(
                    f"vision kind=vit has patches of {transformer.patch} pixels, which do not divide images of {side}: "
                    f"set vision resize, such as {16 * transformer.patch}"
                )
            self.trunk: nn.Module = transformer
            self.pool: Pool | None = None
            self.features = transformer.features * self.copies
            return
        inputs += 2 if config.coordinates else 0
        match config.kind:
            case "cnn":
                self.trunk = Convolutions(config, inputs, condition_size, generator)
            case "impala":
                self.trunk = Impala(config, inputs, condition_size, generator)
            case _:
                self.trunk = ResNet(config.kind, inputs, condition_size, config.groups, generator)
        try:
            self.map_shape = self._map_shape(inputs, *self._side(height, width))
        except RuntimeError as error:
            raise InputError(
                f"images of {height} x {width} are too small for vision kind={config.kind} with strides "
                f"{config.strides}: set vision padding=true, fewer strides, or resize"
            ) from error
        self.pool = pooling(config.pooling, self.map_shape, config.embeddings, generator)
        self.features = self.pool.features * self.copies

    def forward(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Shapes: (B, H, W, C) or (B, K, H, W, C) uint8, (B, condition_size) -> (B, F)."""
        if self.apart and images.ndim == 5:
            if condition is not None:
                condition = condition.repeat_interleave(self.copies, dim=0)
            each: Tensor = self.forward(images.flatten(0, 1), condition)
            return each.reshape(-1, self.features)
        x = self.maps(images, condition)
        pooled: Tensor = x if self.pool is None else self.pool(x)
        return pooled

    def maps(self, images: Tensor, condition: Tensor | None = None) -> Tensor:
        """Before pooling; of a transformer the vector. Shapes: (B, H, W, C), (B, condition_size) -> (B, C', h, w)."""
        dtype = next(self.trunk.parameters()).dtype
        if images.ndim == 5 and images.device.type == "cpu" and self.deep:
            x = scaled(images.permute(0, 4, 1, 2, 3), self.config.pixels, dtype)
        else:
            x = resized(scaled(folded(images), self.config.pixels, dtype), self.config.resize)
        if self.config.coordinates:
            x = with_coordinates(x)
        if (condition is None) != (self.condition_size == 0):
            raise ValueError(f"the encoder has condition_size={self.condition_size}: hand it that, or nothing where 0")
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            mapped: Tensor = self.trunk(x) if self.config.kind == "vit" else self.trunk(x, condition)
        return mapped.to(dtype)

    def _side(self, height: int, width: int) -> tuple[int, int]:
        side = self.config.resize
        return (height, width) if side is None else (side, side)

    @torch.no_grad()
    def _map_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        condition = torch.zeros(1, self.condition_size) if self.condition_size else None
        shape = self.trunk(torch.zeros(1, channels, height, width), condition).shape
        return int(shape[1]), int(shape[2]), int(shape[3])


AT_ONCE = 256  # images on the device


def in_parts(images: Tensor, function: Callable[[Tensor], Tensor], device: torch.device, *, dim: int = 0) -> Tensor:
    """What a function gives of many images in the memory of the host, some of them on the device at a time.

    Args:
        images: (N, ...).
        function: of (B, ...), with the B along `dim` of its result.
        device: where it runs; the result is on the CPU.
        dim: along which results are joined.
    """
    return torch.cat([function(part.to(device)).cpu() for part in images.split(AT_ONCE)], dim=dim)


def build_encoder(
    config: VisionConfig, shape: Sequence[int], generator: torch.Generator, *, condition_size: int = 0
) -> tuple[ImageEncoder, Fingerprint | None]:
    """An encoder, with the weights of `config.weights` where they are named, and what those were.

    Args:
        config: of the encoder.
        shape: of one observation, (H, W, C) or (K, H, W, C).
        generator: of weights that begin at random.
        condition_size: see `ImageEncoder`.

    Raises:
        InputError: see `ImageEncoder` and `load_weights`.
    """
    encoder = ImageEncoder(config, shape, generator, condition_size=condition_size)
    return encoder, None if config.weights is None else load_weights(encoder, config.weights)
