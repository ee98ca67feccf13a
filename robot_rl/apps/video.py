"""Films of episodes, with the critic's value drawn along below the picture."""

import itertools
import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from robot_rl.errors import InputError

MINIMUM_WIDTH = 256  # pixels: a narrower picture is enlarged, so that the strip can be read
STRIP_HEIGHT = 72  # pixels
MARGIN = 6  # pixels between the strip's edge and the curve
HEADER = 18  # pixels of the strip's line of text
BACKGROUND, AXIS, PAST, CURSOR, TEXT = "#15181d", "#3a414c", "#4cc2ff", "#ffb454", "#e8eaed"


def write_video(
    path: Path,
    frames: Sequence[NDArray[np.uint8]],
    *,
    frames_per_second: float,
    values: Sequence[float] | None = None,
    caption: str = "",
) -> None:
    """Write an MP4 (H.264, yuv420p) that browsers play. The file appears whole or not at all.

    Under each frame a strip shows the critic's value so far, the present as a cursor, the number, and the caption.

    Args:
        path: ends in `.mp4`; its folder is made where missing.
        frames: T pictures, each (H, W, 3), all of one size.
        frames_per_second: of the film.
        values: T values of the critic, one for each frame; None draws no strip. Values that are not finite are gaps.
        caption: a line for the strip.

    Raises:
        InputError: no frames, frames of different sizes, another count of values, or a full disk.
    """
    if len(frames) == 0:
        raise InputError(f"{path}: a film needs at least one frame; the environment rendered none")
    shape = frames[0].shape
    for index, frame in enumerate(frames):
        if frame.shape != shape or frame.ndim != 3 or shape[2] != 3 or frame.dtype != np.uint8:
            raise InputError(
                f"{path}: frame {index} is {frame.shape} of {frame.dtype}, "
                f"wanted (H, W, 3) of uint8, and all of the size of frame 0, {shape}"
            )
    if values is not None and len(values) != len(frames):
        raise InputError(f"{path}: {len(values)} values for {len(frames)} frames, wanted one for each frame")
    if not math.isfinite(frames_per_second) or frames_per_second <= 0:
        raise InputError(f"{path}: frames_per_second={frames_per_second} must be a positive number")

    scale = max(1, math.ceil(MINIMUM_WIDTH / shape[1]))
    height, width = shape[0] * scale, shape[1] * scale
    strip = None if values is None else ValueStrip(values, width, caption)
    total_width, total_height = width + width % 2, height + (0 if strip is None else STRIP_HEIGHT)
    total_height += total_height % 2  # yuv420p halves both sides

    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=Fraction(frames_per_second).limit_denominator(1000))
            stream.width, stream.height, stream.pix_fmt = total_width, total_height, "yuv420p"
            stream.codec_context.thread_count = 1
            bits = min(max(int(0.12 * total_width * total_height * frames_per_second), 100_000), 4_000_000)
            stream.options = {"crf": "24", "preset": "veryfast", "maxrate": str(bits), "bufsize": str(2 * bits)}
            canvas = np.zeros((total_height, total_width, 3), np.uint8)
            for index, frame in enumerate(frames):
                canvas[:height, :width] = frame.repeat(scale, axis=0).repeat(scale, axis=1)
                if strip is not None:
                    canvas[height : height + STRIP_HEIGHT, :width] = strip.draw(index)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(canvas, format="rgb24")))
            container.mux(stream.encode(None))
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error}. What was there before is unharmed: free some space, or choose another place"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


class ValueStrip:
    """Draws the critic's value over an episode, up to a present step. The scale is that of the whole episode."""

    def __init__(self, values: Sequence[float], width: int, caption: str) -> None:
        self.values = [float(value) for value in values]
        self.width = width
        self.caption = caption
        finite = [value for value in self.values if math.isfinite(value)]
        self.low, self.high = min(finite, default=0.0), max(finite, default=1.0)
        self.font = ImageFont.load_default(size=12)

    def x(self, index: int) -> float:
        """Pixel column of a step."""
        return MARGIN + index * (self.width - 1 - 2 * MARGIN) / max(len(self.values) - 1, 1)

    def y(self, value: float) -> float:
        """Pixel row of a value."""
        span = self.high - self.low
        share = (value - self.low) / span if span > 0 else 0.5
        return STRIP_HEIGHT - 1 - MARGIN - share * (STRIP_HEIGHT - 1 - 2 * MARGIN - HEADER)

    def draw(self, present: int) -> NDArray[np.uint8]:
        """The strip at step `present`. Shapes: (STRIP_HEIGHT, width, 3)."""
        image = Image.new("RGB", (self.width, STRIP_HEIGHT), BACKGROUND)
        draw = ImageDraw.Draw(image)
        bottom = STRIP_HEIGHT - 1 - MARGIN
        draw.line([(MARGIN, bottom), (self.width - 1 - MARGIN, bottom)], fill=AXIS)
        if self.low < 0 < self.high:
            draw.line([(MARGIN, self.y(0)), (self.width - 1 - MARGIN, self.y(0))], fill=AXIS)
        points = [(self.x(index), self.y(value)) for index, value in enumerate(self.values[: present + 1])]
        for start, end in itertools.pairwise(points):
            if math.isfinite(start[1]) and math.isfinite(end[1]):
                draw.line([start, end], fill=PAST, width=2)
        cursor = round(self.x(present))
        draw.line([(cursor, HEADER), (cursor, bottom)], fill=CURSOR)
        value = self.values[present]
        if math.isfinite(value):
            row = self.y(value)
            draw.ellipse([(cursor - 3, row - 3), (cursor + 3, row + 3)], fill=CURSOR)
        number = f"V {value:.3g}" if math.isfinite(value) else "V not finite"
        number_width = draw.textlength(number, font=self.font)
        draw.text((self.width - MARGIN - number_width, 2), number, fill=CURSOR, font=self.font)
        room = self.width - 3 * MARGIN - number_width
        draw.text((MARGIN, 2), _fitting(self.caption, room, draw, self.font), fill=TEXT, font=self.font)
        return np.asarray(image, dtype=np.uint8)


def _fitting(
    text: str, room: float, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """The text, shortened to `room` pixels."""
    if draw.textlength(text, font=font) <= room:
        return text
    while text and draw.textlength(f"{text}…", font=font) > room:
        text = text[:-1]
    return f"{text}…"
