"""Ways in which a recording breaks: cut short, bits flipped, lengths that lie, types exchanged, files missing."""

import json
import random
import shutil
from pathlib import Path

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**62, 2**63 - 1, 2**64 - 1)
VALUES = (None, True, -1, 0, 2**40, 1e308, "", "x" * 300, [], {}, [[]], "../../../etc/passwd", "NaN")


def mutate(source: Path, generator: random.Random) -> str:
    """Break one file of a recording in place; returns what was done."""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    path = generator.choice(files)
    name = path.name if source.is_file() else str(path.relative_to(source))
    if source.is_dir() and generator.random() < 0.05:
        if generator.random() < 0.5:
            path.unlink()
            return f"{name}: removed"
        path.unlink()
        path.mkdir()
        return f"{name}: a folder in its place"
    if path.suffix in (".json", ".jsonl") and generator.random() < 0.6:
        return f"{name}: {_json(path, generator)}"
    data = bytearray(path.read_bytes())
    done = []
    for _ in range(generator.choice((1, 1, 1, 2, 5))):
        done.append(_bytes(data, generator))
    path.write_bytes(data)
    return f"{name}: {', '.join(done)}"


def copy(source: Path, target: Path) -> Path:
    """A copy to break."""
    if source.is_dir():
        return Path(shutil.copytree(source, target))
    return Path(shutil.copyfile(source, target))


def _bytes(data: bytearray, generator: random.Random) -> str:
    size = len(data)
    if size == 0:
        data += generator.randbytes(16)
        return "16 random bytes"
    # Headers and footers matter most, so half of the places are near an end.
    place = generator.choice((generator.randrange(size), generator.randrange(min(size, 256))))
    if generator.random() < 0.2:
        place = size - 1 - generator.randrange(min(size, 256))
    match generator.randrange(9):
        case 0:
            del data[place:]
            return f"cut at {place}"
        case 1:
            for _ in range(generator.choice((1, 4, 32))):
                data[generator.randrange(size)] ^= 1 << generator.randrange(8)
            return "bits flipped"
        case 2:
            width = generator.choice((1, 2, 4, 8))
            value = generator.choice(EXTREMES) % (1 << (8 * width))
            data[place : place + width] = value.to_bytes(width, generator.choice(("little", "big")))
            return f"{value:#x} in {width} bytes at {place}"
        case 3:
            stop = place + generator.randrange(1, 64)
            del data[place:stop]
            return f"bytes {place} to {stop} removed"
        case 4:
            extra = generator.randbytes(generator.randrange(1, 64))
            data[place:place] = extra
            return f"{len(extra)} bytes inserted at {place}"
        case 5:
            stop = min(size, place + generator.randrange(1, 4096))
            data[place:stop] = bytes(stop - place)
            return f"zeros from {place} to {stop}"
        case 6:
            length = generator.randrange(1, min(size, 512) + 1)
            other = generator.randrange(size - length + 1)
            data[place : place + length] = data[other : other + length]
            return f"{length} bytes of {other} at {place}"
        case 7:
            data += data[place:]
            return f"repeated from {place}"
    text = bytes(data).translate(bytes.maketrans(b"0123456789", b"9876543210"), b"") if size < 200_000 else bytes(data)
    data[place:] = text[place:]
    return f"digits exchanged from {place}"


def _json(path: Path, generator: random.Random) -> str:
    text = path.read_text(errors="replace")
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    if not lines:
        return "nothing to break"
    number = generator.randrange(len(lines))
    try:
        value = json.loads(lines[number])
    except ValueError:
        return "no JSON to break"
    place = _break(value, generator)
    lines[number] = json.dumps(value)
    path.write_text("\n".join(lines))
    return place


def _break(value: object, generator: random.Random, place: str = "") -> str:
    """Exchange or remove one member somewhere inside."""
    members = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    if not members:
        return f"{place} has no members"
    key = generator.choice(members)
    inner = value[key]  # type: ignore[index]  # a dict or a list
    if isinstance(inner, dict | list) and inner and generator.random() < 0.7:
        return _break(inner, generator, f"{place}/{key}")
    if isinstance(value, dict) and generator.random() < 0.3:
        del value[key]
        return f"{place}/{key} removed"
    new = generator.choice(VALUES)
    value[key] = new  # type: ignore[index]  # as above
    return f"{place}/{key} = {str(new)[:20]!r}"
