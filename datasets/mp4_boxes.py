"""The boxes of an mp4 or mov file, looked at before FFmpeg is: what is cut off, and sizes that nothing backs.

Layout: ISO/IEC 14496-12. FFmpeg trusts the number of samples in `stsz` and makes a table of them.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from robot_rl.errors import InputError

FIRST_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp")
PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
LARGEST_BOXES = 4096  # of one level


def is_mp4(path: Path) -> bool:
    """Whether a file begins with a box of an mp4 or mov file."""
    with path.open("rb") as file:
        head = file.read(8)
    return len(head) == 8 and head[4:8] in FIRST_BOXES


def require_whole_mp4(path: Path) -> None:
    """Refuse an mp4 that is cut off, or that claims more frames than its bytes can hold; other files pass.

    Raises:
        InputError: names the file, the box and the remedy.
    """
    if not path.is_file() or not is_mp4(path):
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        kinds = []
        for kind, start, stop in _boxes(file, 0, size, path):
            kinds.append(kind)
            if stop > size:
                raise InputError(
                    f"{path} is cut off: its box '{_name(kind)}' at byte {start} needs {stop} bytes, the file has "
                    f"{size}. Copy it again; a recording that was stopped hard can be repaired with untrunc"
                )
            if kind == b"moov":
                _require_backed_samples(file, start, stop, size, path)
        if b"moov" not in kinds:
            raise InputError(
                f"{path} has no 'moov' box, which says where the frames are: the recorder was stopped before it wrote "
                "it. Repair the file with a tool such as untrunc, or record it again"
            )


def _require_backed_samples(file: BinaryIO, start: int, stop: int, size: int, path: Path) -> None:
    for kind, first, last in _boxes(file, start, stop, path):
        if last > stop:
            raise InputError(f"{path}: box '{_name(kind)}' at byte {first} reaches out of the box around it: damaged")
        if kind in PARENTS:
            _require_backed_samples(file, first, last, size, path)
        elif kind == b"stsz":
            file.seek(first)
            head = file.read(12)
            if len(head) < 12:
                raise InputError(f"{path}: box 'stsz' at byte {first} is too short: the file is damaged")
            sample_bytes, count = struct.unpack(">II", head[4:])
            if (count * sample_bytes if sample_bytes else first + 12 + 4 * count - last) > (
                size if sample_bytes else 0
            ):
                raise InputError(f"{path}: box 'stsz' at byte {first} claims {count} frames, more than its bytes hold")


def _boxes(file: BinaryIO, start: int, stop: int, path: Path) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the content and end of each box of a level; an end may lie behind `stop`.

    Raises:
        InputError: a length is impossible.
    """
    for _ in range(LARGEST_BOXES):
        if stop - start < 8:
            return
        file.seek(start)
        head = file.read(16)
        length, kind = struct.unpack(">I4s", head[:8])
        content = start + 8
        if length == 1 and len(head) == 16:
            length, content = struct.unpack(">Q", head[8:])[0], start + 16
        elif length == 0:  # to the end of the file
            length = stop - start
        if length < content - start:
            raise InputError(f"{path}: box '{_name(kind)}' at byte {start} claims {length} bytes: the file is damaged")
        yield kind, content, start + length
        start += length
    raise InputError(f"{path} has more than {LARGEST_BOXES} boxes in a row: the file is damaged")


def _name(kind: bytes) -> str:
    return kind.decode("ascii", errors="replace")
