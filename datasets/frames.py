"""Images that are decoded when they are looked at.

An observation of an episode is an array (T + 1, *), or `Frames` in its place: uint8 images behind JPEG or PNG bytes, or
in a video. A long recording of large images then never lies decoded in memory, and JPEG bytes reach a store untouched.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import cv2
import numpy as np
import simplejpeg

from robot_rl.errors import InputError
from robot_rl.types import Array

BLOCK_FRAMES = 32
BLOCK_BYTES = 24 << 20
"""Images in one block of `blocks`, at most; large ones come fewer at a time, but at least one. Beyond 32 MiB glibc maps
fresh pages for every block, which costs a quarter of the time of decoding a video."""
JPEG_SIGNATURE = b"\xff\xd8\xff"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_QUALITY = 95
"""With full colour resolution (4:4:4): a mean error of 2.4 to 2.75 of 255 on noisy content."""
FITS = ("stretch", "pad", "crop")
LARGEST_SIDE = 16_384  # pixels; a damaged header asks for more


class Frames:
    """uint8 images, decoded as they are indexed. Stands where an array (N, H, W, C) may stand.

    `frames[3]` is an array (H, W, C); `frames[2:5]` and `frames[indices]` are Frames again; `np.asarray(frames)`
    decodes all of them; `blocks` decodes them in order, a few at a time. A subclass gives `decode` and `select`.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, shape: tuple[int, int, int, int]) -> None:
        self.shape = shape

    @property
    def ndim(self) -> int:
        """4: N, H, W, C."""
        return 4

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, int | np.integer):
            number = int(index) + len(self) if index < 0 else int(index)
            if not 0 <= number < len(self):  # so that `for frame in frames` ends
                raise IndexError(f"frame {index} of {len(self)}")
            return self.decode(np.asarray([number]))[0]
        return self.select(np.arange(len(self))[index])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        array = self.decode(np.arange(len(self)))
        return array if dtype is None else array.astype(dtype, copy=False)

    def blocks(self, size: int | None = None) -> Iterator[Array]:
        """All frames in order, decoded, `size` at a time; None chooses by `block_size`. Shapes: each (K, H, W, C)."""
        size = block_size(self.shape[1:]) if size is None else size
        for start in range(0, len(self), size):
            yield self.decode(np.arange(start, min(start + size, len(self))))

    def decode(self, indices: Array) -> Array:
        """The frames of these numbers. Shapes: (K,) -> (K, H, W, C), uint8, RGB.

        Raises:
            InputError: one of them is damaged.
        """
        raise NotImplementedError

    def select(self, indices: Array) -> "Frames":
        """Some of the frames, still not decoded. Shapes: (K,) -> K frames."""
        raise NotImplementedError

    def resized(self, size: tuple[int, int], fit: str = "stretch") -> "Frames":
        """The same frames in another size (height, width), still not decoded; see `resize`."""
        return ResizedFrames(self, size, fit)


class EncodedFrames(Frames):
    """Images as JPEG or PNG bytes, all of one size."""

    def __init__(self, encoded: Sequence[bytes], shape: tuple[int, int, int], place: str) -> None:
        super().__init__((len(encoded), *shape))
        self.encoded = encoded
        self.place = place

    @staticmethod
    def of(encoded: Sequence[bytes], place: str) -> "EncodedFrames":
        """Decodes the first to know the size; the place is for messages.

        Raises:
            InputError: there is none, or the first is no image.
        """
        if not encoded:
            raise InputError(f"{place}: there are no images")
        height, width, channels = decode_image(encoded[0], f"{place}, image 0").shape
        return EncodedFrames(encoded, (height, width, channels), place)

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for place, index in enumerate(indices):
            image = decode_image(self.encoded[index], f"{self.place}, image {index}")
            if image.shape != self.shape[1:]:
                raise InputError(
                    f"{self.place}: image {index} is {image.shape}, the first is {self.shape[1:]}: they must be of one "
                    "size"
                )
            out[place] = image
        return out

    def select(self, indices: Array) -> "EncodedFrames":
        """See `Frames.select`."""
        return EncodedFrames([self.encoded[index] for index in indices], self.shape[1:], self.place)


class ResizedFrames(Frames):
    """Frames of another size."""

    def __init__(self, source: "Frames | Array", size: tuple[int, int], fit: str = "stretch") -> None:
        super().__init__((len(source), *size, int(source.shape[3])))
        self.source = source
        self.size = size
        self.fit = fit

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        source = self.source.decode(indices) if isinstance(self.source, Frames) else self.source[indices]
        return self._resized(source)

    def blocks(self, size: int | None = None) -> Iterator[Array]:
        """See `Frames.blocks`. The source is read in blocks of its own, so that it may read ahead."""
        for block in blocks(self.source if isinstance(self.source, np.ndarray) else as_array(self.source), size):
            yield self._resized(block)

    def _resized(self, images: Array) -> Array:
        out = np.empty((len(images), *self.shape[1:]), np.uint8)
        for number, image in enumerate(images):
            out[number] = resize(image, self.size, self.fit)
        return out

    def select(self, indices: Array) -> "ResizedFrames":
        """See `Frames.select`."""
        return ResizedFrames(self.source[indices], self.size, self.fit)


def as_array(frames: Frames) -> Array:
    """Frames under the type of an array, for `Episode.observation`; the object is the same."""
    return cast(Array, frames)


def lazy(rows: Array) -> Frames | None:
    """The Frames that stand where an array may stand, else None."""
    return rows if isinstance(rows, Frames) else None  # type: ignore[unreachable]  # `as_array` hides the type


def resize_frames(rows: Array, size: tuple[int, int], fit: str = "stretch") -> Frames:
    """Images of an array or of Frames in another size, decoded as they are looked at; see `resize`."""
    frames = lazy(rows)
    return ResizedFrames(rows, size, fit) if frames is None else frames.resized(size, fit)


def block_size(shape: tuple[int, ...]) -> int:
    """How many images (H, W, C) `blocks` gives at a time: BLOCK_FRAMES, fewer where they are large."""
    return max(1, min(BLOCK_FRAMES, BLOCK_BYTES // max(1, int(np.prod(shape)))))


def blocks(rows: Array, size: int | None = None) -> Iterator[Array]:
    """Rows of an array or of Frames in order, `size` at a time; None chooses by `block_size`."""
    frames = lazy(rows)
    if frames is not None:
        yield from frames.blocks(size)
        return
    size = block_size(rows.shape[1:]) if size is None else size
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def decode_image(data: bytes, place: str) -> Array:
    """One image of JPEG, PNG or another format that OpenCV reads. Shapes: (H, W, 3) RGB or (H, W, 1), uint8.

    Raises:
        InputError: it is damaged, too large, or of another depth.
    """
    try:
        if data[:3] == JPEG_SIGNATURE:
            height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
            _require_size(height, width, place)
            space = "GRAY" if colour.upper() == "GRAY" else "RGB"
            return np.asarray(simplejpeg.decode_jpeg(data, colorspace=space, fastdct=False, fastupsample=False))
        if data[:8] == PNG_SIGNATURE:
            _require_size(int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big"), place)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    except (ValueError, cv2.error) as error:
        raise InputError(f"{place} cannot be decoded ({error}): the recording is damaged there") from error
    if image is None:
        raise InputError(f"{place} is no image that can be decoded: it begins with {bytes(data[:8])!r}")
    if image.dtype != np.uint8:
        raise InputError(f"{place} has {image.dtype} pixels, expected 8 bits a channel")
    if image.ndim == 2:
        return np.asarray(image[:, :, None])
    code = cv2.COLOR_BGR2RGB if image.shape[2] == 3 else cv2.COLOR_BGRA2RGB
    return np.asarray(cv2.cvtColor(image, code))


def encode_jpeg(image: Array, quality: int = JPEG_QUALITY) -> bytes:
    """JPEG with full colour resolution. Shapes: (H, W, 3) RGB or (H, W, 1), uint8."""
    space = "GRAY" if image.shape[2] == 1 else "RGB"
    return bytes(
        simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality=quality, colorspace=space, colorsubsampling="444")
    )


def resize(image: Array, size: tuple[int, int], fit: str = "stretch") -> Array:
    """An image of another size, by area where it shrinks and linearly where it grows.

    Args:
        image: (H, W, C), uint8.
        size: height and width wanted.
        fit: `stretch` changes the proportions; `pad` keeps them with black borders; `crop` keeps them and cuts the
            middle.
    """
    if image.shape[:2] == size:
        return image
    inner, (source, target) = placement((image.shape[0], image.shape[1]), size, fit)
    scaled = _scaled(image, *inner)
    if scaled[source].shape[:2] == size:
        return scaled[source]
    out = np.zeros((*size, image.shape[2]), np.uint8)
    out[target] = scaled[source]
    return out


def placement(
    found: tuple[int, int], wanted: tuple[int, int], fit: str
) -> tuple[tuple[int, int], tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """How an image of one size fits into another, all as height and width.

    Returns:
        The size to scale to, the part to take of that (for `crop`), and where to put it (for `pad`).
    """
    if fit == "stretch":
        return wanted, (_middle(wanted, wanted), _middle(wanted, wanted))
    scales = (wanted[0] / found[0], wanted[1] / found[1])
    scale = min(scales) if fit == "pad" else max(scales)
    inner = (max(1, round(found[0] * scale)), max(1, round(found[1] * scale)))
    part = (min(inner[0], wanted[0]), min(inner[1], wanted[1]))
    return inner, (_middle(inner, part), _middle(wanted, part))


def _middle(whole: tuple[int, int], part: tuple[int, int]) -> tuple[slice, slice]:
    top, left = (whole[0] - part[0]) // 2, (whole[1] - part[1]) // 2
    return slice(top, top + part[0]), slice(left, left + part[1])


def _scaled(image: Array, height: int, width: int) -> Array:
    shrinks = height * width < image.shape[0] * image.shape[1]
    scaled = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return np.asarray(scaled).reshape(height, width, image.shape[2])


def _require_size(height: int, width: int, place: str) -> None:
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise InputError(f"{place} claims to be {width} x {height} pixels: the recording is damaged there")
