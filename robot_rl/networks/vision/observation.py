"""What a learner makes of observations with images: cameras and numbers to the features of critics and of a policy.

    images --(changed at random)--> eyes --> neck of the critics ---------------> critic features
                                       \\--> neck of the policy (no gradient) --> actor features

Every loss of the algorithm leaves its gradient at the features (`networks/seen.py`); which of them go on to the eyes is
the setting `learns_from`. One place for all algorithms: what changes images, encodes them and learns from it is here.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from robot_rl.checks import require_choice, require_range
from robot_rl.errors import InputError
from robot_rl.networks.encoder import FlatEncoder
from robot_rl.networks.seen import Seen
from robot_rl.networks.vision.augmentation import AugmentationConfig, augmented, strongly_augmented
from robot_rl.networks.vision.auxiliary import Auxiliary, AuxiliaryConfig
from robot_rl.networks.vision.config import VisionConfig
from robot_rl.networks.vision.encoder import ImageEncoder, build_encoder
from robot_rl.networks.vision.weights import Fingerprint
from robot_rl.spec import ArraySpec, Spec
from robot_rl.types import Batch


@dataclass(kw_only=True)
class PixelsConfig:
    """How images are learned from; without images among the observations nothing of it plays a part."""

    encoder: VisionConfig = field(default_factory=VisionConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    auxiliary: AuxiliaryConfig = field(default_factory=AuxiliaryConfig)
    cameras: str = "apart"  # weights of several cameras: `apart`, or `shared`, where they are of one size
    width: int | None = 50  # of the neck behind the eyes: linear, LayerNorm, tanh (DrQ); None has none
    numbers_width: int | None = None  # of a neck for the other observations; None takes them as they are
    actor: str = "neck"
    """What the policy has of its own: `nothing`, it sees what critics see; its `neck` (DrQ-v2, RLPD); or `eyes` and
    neck (PTR, V-PTR), which then learn from its loss."""
    film: str | None = None
    """Observation, a vector, that FiLM layers behind each block of the eyes listen to, such as `instruction` (V-GPS);
    None has none."""
    cache: bool = False
    """Replay keeps the features of a frozen encoder (kind vit) in place of images, each encoded once; nothing can
    change the images at random then."""
    learns_from: str = "values"
    """Losses whose gradient reaches shared eyes: `values` (critics and V: DrQ), `actor`, `all`, or `nothing`: they stay
    as they began, and the necks behind them learn."""

    def __post_init__(self) -> None:
        require_choice(self.cameras, ("apart", "shared"), "pixels cameras")
        require_choice(self.actor, ("nothing", "neck", "eyes"), "pixels actor")
        require_choice(self.learns_from, ("values", "actor", "all", "nothing"), "pixels learns_from")
        if self.learns_from == "nothing" and self.actor != "neck":
            raise InputError(f"pixels learns_from=nothing freezes shared eyes: it needs actor=neck, not {self.actor}")
        changes = self.augmentation
        unchanged = changes.shift == 0 and changes.crop == 1.0 and not changes.colours and changes.strong == "none"
        if self.cache and (self.encoder.kind != "vit" or not unchanged or self.auxiliary.curl > 0):
            raise InputError(
                "pixels cache=true keeps features of a frozen encoder: it needs encoder.kind=vit, augmentation.shift=0 "
                "and no other change of images, and auxiliary.curl=0"
            )
        if self.encoder.kind == "vit" and self.actor == "eyes":
            raise InputError("pixels actor=eyes are eyes that learn, and encoder.kind=vit is frozen: actor=neck")
        for name in ("width", "numbers_width"):
            if getattr(self, name) is not None:
                require_range(getattr(self, name), 1, 100_000, f"pixels {name}")


class Eyes(nn.Module):
    """The images of all cameras to one vector of features, camera by camera."""

    def __init__(
        self,
        config: PixelsConfig,
        images: Mapping[str, ArraySpec],
        generator: torch.Generator,
        condition_size: int = 0,
    ) -> None:
        super().__init__()
        self.keys, self.film = tuple(images), config.film
        self.fingerprints: list[Fingerprint] = []
        shapes = {array.shape for array in images.values()}
        if config.cameras == "shared" and len(shapes) > 1:
            raise InputError(f"pixels cameras=shared needs images of one shape, found {sorted(shapes)}: use `apart`")
        own = self.keys[:1] if config.cameras == "shared" else self.keys
        encoders = []
        for key in own:
            encoder, fingerprint = build_encoder(
                config.encoder, images[key].shape, generator, condition_size=condition_size
            )
            encoders.append(encoder)
            self.fingerprints += [] if fingerprint is None else [fingerprint]
        self.encoders = nn.ModuleList(encoders)
        self.features = sum(self.of(key).features for key in self.keys)

    def forward(self, images: Mapping[str, Tensor]) -> Tensor:
        """Shapes: each (B, H, W, C) or (B, K, H, W, C), uint8, and what FiLM listens to, (B, D) -> (B, F)."""
        condition = None if self.film is None else images[self.film]
        parts = [self._features(key, images[key], condition) for key in self.keys]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def of(self, key: str) -> ImageEncoder:
        """The encoder of a camera."""
        encoder = self.encoders[self.keys.index(key) % len(self.encoders)]
        assert isinstance(encoder, ImageEncoder)
        return encoder

    def _features(self, key: str, images: Tensor, condition: Tensor | None) -> Tensor:
        if images.dtype == torch.uint8:
            features: Tensor = self.of(key)(images, condition)
            return features
        return images.flatten(1)  # kept in replay, of one frame or of K


class Neck(nn.Module):
    """Linear, LayerNorm, tanh; or nothing."""

    def __init__(self, inputs: int, width: int | None, generator: torch.Generator) -> None:
        super().__init__()
        self.features = inputs if width is None else width
        self.linear: nn.Linear | None = None
        if width is not None:
            self.linear, self.norm = nn.Linear(inputs, width), nn.LayerNorm(width)
            nn.init.orthogonal_(self.linear.weight, 1.0, generator)
            nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (B, inputs) -> (B, width)."""
        return x if self.linear is None else torch.tanh(self.norm(self.linear(x)))


class PixelEncoder(nn.Module):
    """Observations with images to features of critics and policy.

    Raises:
        InputError: images of a form that no encoder takes; weights that do not fit.
    """

    def __init__(
        self,
        config: PixelsConfig,
        spec: Spec,
        statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.config = config
        images = {key: array for key, array in spec.observation.items() if is_picture(array)}
        numbers = {key: array for key, array in spec.observation.items() if not is_picture(array)}
        self.flat = FlatEncoder(replace(spec, observation=numbers), statistics) if numbers else None
        self.eyes = Eyes(config, images, generator, _condition_size(config.film, numbers))
        self.neck = Neck(self.eyes.features, config.width, generator)
        self.numbers_neck: Neck | None = None
        if self.flat is not None and config.numbers_width is not None:
            self.numbers_neck = Neck(self.flat.features, config.numbers_width, generator)
        self.actor_eyes = deepcopy(self.eyes) if config.actor == "eyes" else None
        self.actor_neck: Neck | None = None
        self.actor_numbers_neck: Neck | None = None
        if config.actor != "nothing":
            self.actor_neck = Neck(self.eyes.features, config.width, generator)
            if self.flat is not None and config.numbers_width is not None:
                self.actor_numbers_neck = Neck(self.flat.features, config.numbers_width, generator)
        self.auxiliary: Auxiliary | None = None
        if config.auxiliary.asked:
            self.auxiliary = Auxiliary(config.auxiliary, self.neck.features, spec.action.shape[0], generator)

    @property
    def features(self) -> int:
        """F, of critics and policy alike."""
        numbers = self.flat if self.numbers_neck is None else self.numbers_neck
        return self.neck.features + (0 if numbers is None else numbers.features)

    @property
    def fingerprints(self) -> list[Fingerprint]:
        """Of the weights that the eyes began with."""
        return self.eyes.fingerprints

    def forward(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What critics see. Shapes: each (B, *) -> (B, F)."""
        return self._joined(self.neck(self.eyes(observation)), observation, self.numbers_neck)

    def for_actor(self, observation: Mapping[str, Tensor]) -> Tensor:
        """What the policy sees. Shapes: each (B, *) -> (B, F)."""
        eyes = self.eyes if self.actor_eyes is None else self.actor_eyes
        return self._for_actor(eyes(observation), observation)

    def cached(self) -> dict[str, tuple[ImageEncoder, int]]:
        """Of each camera whose features replay keeps: what encodes one frame, and how many features that gives."""
        if not self.config.cache:
            return {}
        encoders = {key: self.eyes.of(key) for key in self.eyes.keys}
        return {key: (encoder, encoder.features // encoder.copies) for key, encoder in encoders.items()}

    def views(
        self, batch: Batch, parts: Sequence[slice], generator: torch.Generator, *, following: bool = True
    ) -> Iterator[Seen]:
        """What is seen of each part of a batch, encoded when it is asked for, by the weights of that moment.

        Args:
            batch: all rows.
            parts: the rows of each part.
            generator: of what changes the images.
            following: encode what is seen next too; where it is not, what is seen now stands in its place.
        """
        for rows in parts:
            yield self._see(batch, rows, generator, last=rows is parts[-1], following=following)

    def _see(self, batch: Batch, rows: slice, generator: torch.Generator, *, last: bool, following: bool) -> Seen:
        now = self._changed(batch.observation, rows, generator)
        own = self.config.actor != "nothing"
        after = self._after(batch, rows, generator) if following else None
        seen = now
        strong = self.config.augmentation.strong != "none"
        if strong:
            changed = {key: strongly_augmented(now[key], generator) for key in self.eyes.keys}
            seen = {key: torch.cat([values, changed.get(key, values)]) for key, values in now.items()}
        count = len(batch.reward[rows])
        maps = self.eyes(seen)
        plain = maps[:count] if strong else maps
        from_values, from_actor = (self.config.learns_from in (each, "all") for each in ("values", "actor"))
        from_actor = from_actor and last  # before, the eyes have learned already
        visual = self.neck(maps if from_values or not own else maps.detach())
        critic = self._joined(visual, seen, self.numbers_neck)
        if self.actor_eyes is not None:
            actor = self._for_actor(self.actor_eyes(now), now)
        elif own:
            actor = self._for_actor(plain if from_actor else plain.detach(), now)
        else:
            actor = critic[:count] if from_actor else critic[:count].detach()
            critic = critic if from_values else critic.detach()
        outputs = []
        if critic.requires_grad:
            outputs.append((critic, critic.detach().requires_grad_()))
            critic = outputs[-1][1]
        if actor.requires_grad:
            outputs.append((actor, actor.detach().requires_grad_()))
            actor = outputs[-1][1]
        view = Seen(
            critic=critic,
            next_critic=critic[:count].detach() if after is None else after[1],
            actor=actor,
            next_actor=actor.detach() if after is None else after[2],
            repeats=2 if strong else 1,
            outputs=outputs,
        )
        if self.auxiliary is not None and after is not None:
            other = None
            if self.config.auxiliary.curl > 0:
                again = self._changed(batch.observation, rows, generator)
                with torch.no_grad():
                    other = self.neck(self.eyes(again))
            view.auxiliary, view.metrics = self.auxiliary(
                visual[:count], batch.action[rows], batch.reward[rows], after[0], other
            )
        return view

    @torch.no_grad()
    def _after(self, batch: Batch, rows: slice, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Of what is seen next: behind the critics' neck, what critics and what the policy see. Shapes: (B, F) each."""
        following = self._changed(batch.next_observation, rows, generator)
        maps = self.eyes(following)
        visual = self.neck(maps)
        critic = actor = self._joined(visual, following, self.numbers_neck)
        if self.config.actor != "nothing":
            actor = self._for_actor(maps if self.actor_eyes is None else self.actor_eyes(following), following)
        return visual, critic, actor

    def _changed(self, observation: Mapping[str, Tensor], rows: slice, generator: torch.Generator) -> dict[str, Tensor]:
        return {
            key: augmented(values[rows], self.config.augmentation, generator) if key in self.eyes.keys else values[rows]
            for key, values in observation.items()
        }

    def _for_actor(self, maps: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        if self.actor_neck is None:
            return self._joined(self.neck(maps), observation, self.numbers_neck)
        return self._joined(self.actor_neck(maps), observation, self.actor_numbers_neck)

    def _joined(self, visual: Tensor, observation: Mapping[str, Tensor], neck: Neck | None) -> Tensor:
        if self.flat is None:
            return visual
        numbers = self.flat(observation)
        return torch.cat([visual, numbers if neck is None else neck(numbers)], dim=1)


def _condition_size(film: str | None, numbers: Mapping[str, ArraySpec]) -> int:
    if film is None:
        return 0
    if film not in numbers or len(numbers[film].shape) != 1:
        vectors = sorted(key for key, array in numbers.items() if len(array.shape) == 1)
        raise InputError(f"pixels film={film} is no vector among the observations; there are {vectors}")
    return numbers[film].shape[0]


def is_picture(array: ArraySpec) -> bool:
    """An image (H, W, C), or K frames of one, (K, H, W, C), in bytes."""
    return array.dtype == "uint8" and len(array.shape) in (3, 4) and array.shape[-1] in (1, 3)


def observation_encoder(
    config: PixelsConfig,
    spec: Spec,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None,
    generator: torch.Generator,
) -> FlatEncoder | PixelEncoder:
    """The encoder that the observations need.

    Args:
        config: of images; without any it plays no part.
        spec: keys and shapes.
        statistics: of the observations that are numbers; None leaves them as they are.
        generator: of the weights.

    Raises:
        InputError: an observation that no encoder takes.
    """
    if any(is_picture(array) for array in spec.observation.values()):
        return PixelEncoder(config, spec, statistics, generator)
    return FlatEncoder(spec, statistics)
