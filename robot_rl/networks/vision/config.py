"""Which encoder of images, in numbers; presets are in `configs/algorithm/vision/`."""

from dataclasses import dataclass, field

from robot_rl.checks import require_choice, require_minimum, require_range
from robot_rl.errors import InputError

KINDS = ("cnn", "impala", "resnet18", "resnet34", "resnet50", "vit")
POOLINGS = ("none", "average", "spatial_softmax", "spatial_embeddings")
PIXELS = ("centered", "unit", "signed", "imagenet")
ACTIVATIONS = ("relu", "silu", "gelu")


@dataclass(kw_only=True)
class VisionConfig:
    """One image, or K frames one behind the other, to features; by default DrQ's four convolutions."""

    kind: str = "cnn"
    """`cnn`: convolutions in a row; `impala`: three residual stages whose first convolutions do not stride, 2.5 times
    the cost; `resnet18`, `resnet34`, `resnet50`: with GroupNorm; `vit`: DINOv2 or SigLIP from `weights`, frozen."""
    channels: list[int] = field(default_factory=lambda: [32, 32, 32, 32])  # of each convolution, or stage of impala
    kernels: list[int] = field(default_factory=lambda: [3, 3, 3, 3])  # cnn
    strides: list[int] = field(default_factory=lambda: [2, 1, 1, 1])  # cnn
    padding: bool = False  # cnn: by half a kernel, so that a stride of 2 halves the side
    layer_norm: bool = False  # cnn: over the channels of each pixel, before the activation (CQN-AS)
    activation: str = "relu"  # cnn: relu | silu | gelu; a ResNet has silu (V-GPS)
    groups: int = 4  # of the GroupNorms of a ResNet
    pixels: str = "centered"
    """What a byte x becomes: `centered` x/255 - 0.5 (DrQ), `unit` x/255, `signed` x/127.5 - 1 (V-GPS, SigLIP),
    `imagenet`: minus its mean, divided by its deviation (DINOv2)."""
    coordinates: bool = False  # two more input channels, column and row from -1 to 1 (CoordConv)
    resize: int | None = None  # side in pixels to which images are scaled bilinearly first; None leaves them
    precision: str = "float32"
    """Of the trunk's products: `float32`, or `bfloat16`, 1.7 times as fast on CPUs that have it and on accelerators;
    weights, gradients and features stay float32."""
    frames: str = "channels"
    """K frames as `channels` of one image (DrQ), or each `apart` through the same weights: K times the cost, and what
    pre-training on single frames asks for."""
    pooling: str = "none"
    """`none` keeps the whole map; `average` over places; `spatial_softmax`, where each channel is, in expectation;
    `spatial_embeddings`, learned weights over places, `embeddings` of each channel (PTR). A `vit` has
    its own, `none`, or the `average` of its patches."""
    embeddings: int = 8
    weights: str | None = None
    """A safetensors file to begin with, which is never downloaded; None begins at random."""

    def __post_init__(self) -> None:
        require_choice(self.kind, KINDS, "vision kind")
        require_choice(self.pooling, POOLINGS, "vision pooling")
        require_choice(self.pixels, PIXELS, "vision pixels")
        require_choice(self.precision, ("float32", "bfloat16"), "vision precision")
        require_choice(self.frames, ("channels", "apart"), "vision frames")
        require_choice(self.activation, ACTIVATIONS, "vision activation")
        require_minimum(self.groups, 1, "vision groups")
        require_minimum(self.embeddings, 1, "vision embeddings")
        if self.resize is not None:
            require_range(self.resize, 8, 2048, "vision resize")
        if self.kind == "cnn" and not len(self.channels) == len(self.kernels) == len(self.strides):
            raise InputError(
                f"vision channels={self.channels}, kernels={self.kernels} and strides={self.strides} are of as many "
                "convolutions each"
            )
        for name in ("channels", "kernels", "strides"):
            values = getattr(self, name)
            require_minimum(len(values), 1, f"vision {name}: how many")
            require_minimum(min(values, default=1), 1, f"vision {name}")
        if self.kind == "vit" and self.pooling not in ("none", "average"):
            raise InputError(f"vision kind=vit is frozen, and pooling={self.pooling} is learned: none or average")
        if self.kind == "vit" and self.weights is None:
            raise InputError("vision kind=vit is frozen, so it needs weights=FILE.safetensors (docs/pixels.md)")
