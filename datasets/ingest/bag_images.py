"""Images of bags: raw ones in ROS's encodings, and JPEG or PNG bytes, read when they are looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import cv2
import numpy as np

from robot_rl.datasets.frames import LARGEST_SIDE, EncodedFrames, Frames, as_array, decode_image
from robot_rl.datasets.ingest.bag_files import Messages
from robot_rl.datasets.ingest.bag_messages import COMPRESSED_IMAGE, IMAGE, default_key
from robot_rl.datasets.ingest.bag_source import Bag
from robot_rl.datasets.ingest.bag_types import Layout, Schema
from robot_rl.datasets.schema import Finding
from robot_rl.errors import InputError
from robot_rl.spec import ArraySpec
from robot_rl.types import Array

ENCODINGS: dict[str, tuple[str, int, int | None]] = {
    "rgb8": ("u1", 3, None),
    "8UC3": ("u1", 3, cv2.COLOR_BGR2RGB),
    "bgr8": ("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": ("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "8UC4": ("u1", 4, cv2.COLOR_BGRA2RGB),
    "mono8": ("u1", 1, None),
    "8UC1": ("u1", 1, None),
    "bayer_rggb8": ("u1", 1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": ("u1", 1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": ("u1", 1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": ("u1", 1, cv2.COLOR_BayerGRBG2RGB),
    "yuv422": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": ("u1", 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": ("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": ("u1", 2, cv2.COLOR_YUV2RGB_YUY2),
    "mono16": ("u2", 1, None),
    "16UC1": ("u2", 1, None),
    "32FC1": ("f4", 1, None),
}
"""Type and number of the values of a pixel, and how OpenCV makes RGB of them; REP 118 for depth."""
FIELDS = {
    IMAGE: (("height", "width", "step", "is_bigendian"), ("header.frame_id", "encoding")),
    COMPRESSED_IMAGE: ((), ("header.frame_id", "format")),
}
"""Whole numbers and texts of the messages, beside the bytes in `data`."""
DEPTH_UNITS = {"16UC1": "mm", "32FC1": "m"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageTopic:
    """A topic of images."""

    key: str
    topic: str
    schema: Schema
    spec: ArraySpec
    encoding: str  # of ROS; empty for JPEG and PNG

    def read(self, bag: Bag, messages: Messages) -> Array:
        """The images of messages, which may repeat: decoded later, but depth at once.

        Shapes: (N, H, W, C), or (N, H, W) of depth.

        Raises:
            InputError: an image of depth is damaged.
        """
        place = f"{bag.name}: topic {self.topic}"
        sources = ImageBytes(bag, messages, self.schema, place)
        if not self.encoding:
            height, width, channels = self.spec.shape
            return as_array(EncodedFrames(sources, (height, width, channels), place))
        if self.spec.dtype == "uint8":
            return as_array(RawFrames(sources, self, place))
        out = np.empty((len(messages), *self.spec.shape), self.spec.dtype)
        for index in range(len(messages)):
            out[index] = raw_image(sources.message(index), self, place)
        return out

    def findings(self, place: str) -> list[Finding]:
        """What is assumed about these images."""
        texts = {
            "8UC3": "8UC3 does not say the order of its channels: read as blue, green, red, as OpenCV has them",
            "8UC4": "8UC4 does not say the order of its channels: read as blue, green, red, alpha, as OpenCV has them",
            "32FC1": "pixels without a measurement (NaN or infinite) become 0, as 16UC1 has them",
        }
        if self.encoding not in texts:
            return []
        text = f"topic {self.topic}: {texts[self.encoding]}"
        return [Finding(severity="information", place=place, text=text)]


class ImageBytes(Sequence[bytes]):
    """The encoded bytes in messages of images, read from the bag one by one."""

    def __init__(self, bag: Bag, messages: Messages, schema: Schema, place: str) -> None:
        self.bag, self.messages, self.schema, self.place = bag, messages, schema, place
        self._last: tuple[tuple[int, int, int], bytes] = ((-1, -1, -1), b"")

    def __len__(self) -> int:
        return len(self.messages)

    @overload
    def __getitem__(self, index: int) -> bytes: ...

    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...

    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        data = self.message(range(len(self))[index])
        leaf = self.schema.layout(data, self.place).leaves["data"]
        return data[leaf.offset : leaf.offset + leaf.count]

    def message(self, index: int) -> bytes:
        """The whole message; a repetition of the one before is not read again."""
        row = self.messages.take(slice(index, index + 1))
        place = (int(row.file[0]), int(row.block[0]), int(row.offset[0]))
        kept, data = self._last  # read once: threads share it
        if kept != place:
            data = self.bag.payloads(row)[0]
            self._last = (place, data)
        return data


class RawFrames(Frames):
    """Images as sensor_msgs/Image has them."""

    def __init__(self, sources: ImageBytes, topic: ImageTopic, place: str) -> None:
        height, width, channels = topic.spec.shape
        super().__init__((len(sources), height, width, channels))
        self.sources, self.topic, self.place = sources, topic, place

    def decode(self, indices: Array) -> Array:
        """See `Frames.decode`."""
        out = np.empty((len(indices), *self.shape[1:]), np.uint8)
        for place, index in enumerate(indices.tolist()):
            out[place] = raw_image(self.sources.message(index), self.topic, self.place)
        return out

    def select(self, indices: Array) -> "RawFrames":
        """See `Frames.select`."""
        part = self.sources
        return RawFrames(
            ImageBytes(part.bag, part.messages.take(indices), part.schema, part.place), self.topic, self.place
        )


def image_topic(topic: str, schema: Schema, data: bytes) -> ImageTopic:
    """What the images of a topic are, told from the first one.

    Raises:
        InputError: the encoding is not read, or the message is damaged.
    """
    place = f"topic {topic}"
    layout = schema.layout(data, place)
    _require_fields(layout, schema.type, place)
    frame = layout.text(data, "header.frame_id") or None
    if schema.type == COMPRESSED_IMAGE:
        form = layout.text(data, "format")
        if "compressedDepth" in form:
            raise InputError(
                f"{place} has the format '{form}', which is not read: record the depth image itself, or unpack it with "
                "`ros2 run image_transport republish compressedDepth raw`"
            )
        leaf = layout.leaves["data"]
        shape = decode_image(data[leaf.offset : leaf.offset + leaf.count], f"{place}, image 0").shape
        spec = ArraySpec(shape=shape, dtype="uint8", frame=frame)
        return ImageTopic(key=default_key(topic), topic=topic, schema=schema, spec=spec, encoding="")
    encoding = layout.text(data, "encoding")
    if encoding not in ENCODINGS:
        raise InputError(
            f"{place} has images encoded as '{encoding}', which are not read. Known: {', '.join(ENCODINGS)}"
        )
    kind, values, code = ENCODINGS[encoding]
    height, width = _number(layout, data, "height"), _number(layout, data, "width")
    if not (0 < height <= LARGEST_SIDE and 0 < width <= LARGEST_SIDE):
        raise InputError(f"{place} claims images of {width} x {height} pixels: the recording is damaged there")
    channels = 1 if values == 1 and code is None else 3
    depth = kind != "u1"
    spec = ArraySpec(
        shape=(height, width) if depth else (height, width, channels),
        dtype=str(np.dtype(kind)),
        unit=DEPTH_UNITS.get(encoding),
        frame=frame,
    )
    found = ImageTopic(key=default_key(topic), topic=topic, schema=schema, spec=spec, encoding=encoding)
    raw_image(data, found, place)
    return found


def raw_image(data: bytes, topic: ImageTopic, place: str) -> Array:
    """One image of sensor_msgs/Image. Shapes: (H, W, C) uint8, RGB or grey; (H, W) of depth.

    Raises:
        InputError: it is damaged, or of another size or encoding than the first.
    """
    layout = topic.schema.layout(data, place)
    height, width = _number(layout, data, "height"), _number(layout, data, "width")
    encoding, step = layout.text(data, "encoding"), _number(layout, data, "step")
    if (height, width) != topic.spec.shape[:2] or encoding != topic.encoding:
        raise InputError(
            f"{place} has an image of {width} x {height} pixels as {encoding}, the first is {topic.spec.shape[1]} x "
            f"{topic.spec.shape[0]} as {topic.encoding}: they must be of one kind"
        )
    kind, values, code = ENCODINGS[encoding]
    row_bytes = width * values * np.dtype(kind).itemsize
    leaf = layout.leaves["data"]
    if step < row_bytes or (height - 1) * step + row_bytes > leaf.count:
        raise InputError(f"{place} has an image of {leaf.count} bytes, expected {height} rows of {step}: it is damaged")
    flat = np.frombuffer(data, np.uint8, leaf.count, leaf.offset)
    rows = np.lib.stride_tricks.as_strided(flat, (height, row_bytes), (step, 1), writeable=False)
    order = ">" if _number(layout, data, "is_bigendian") else "<"
    pixels = np.ascontiguousarray(rows).view(f"{order}{kind}" if kind != "u1" else "u1")
    if kind != "u1":
        native = pixels.astype(np.dtype(kind))
        return native if kind == "u2" else np.where(np.isfinite(native), native, np.float32(0))
    image = pixels.reshape(height, width, values)
    try:
        rgb = image if code is None else np.asarray(cv2.cvtColor(image, code))
    except cv2.error as error:
        raise InputError(f"{place} has an image that cannot be converted from {encoding}: {error}") from error
    return rgb.reshape(topic.spec.shape)


def _require_fields(layout: Layout, kind: str, place: str) -> None:
    """Refuse a definition in the recording that calls something else an image."""
    numbers, texts = FIELDS[kind]
    leaves = layout.leaves
    found = all(
        path in leaves and leaves[path].scalar and np.dtype(leaves[path].dtype).kind in "iu" for path in numbers
    )
    data = "data" in leaves and np.dtype(leaves["data"].dtype) == np.uint8
    if not (found and data and all(path in layout.texts for path in texts)):
        raise InputError(f"{place} says it is {kind}, but the definition in the recording is not that of ROS")


def _number(layout: Layout, data: bytes, path: str) -> int:
    leaf = layout.leaves[path]
    return int(np.frombuffer(data, leaf.dtype, 1, leaf.offset)[0])


__all__ = ["COMPRESSED_IMAGE", "IMAGE", "ImageTopic", "image_topic"]
