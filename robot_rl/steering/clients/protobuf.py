"""Protobuf by hand: LeRobot's messages have a number and some bytes, which needs no generated code.

Wire format: a field is a varint key (number * 8 + kind), then a varint (kind 0) or a length and bytes (kind 2). Fields
that hold nothing are left out. Read in huggingface/lerobot, src/lerobot/transport/services.proto, 7427f3180.
"""

from robot_rl.steering.wire import WireError


def encode(data: bytes, state: int = 0) -> bytes:
    """`PolicySetup{bytes data = 1}`; with a state `Observation{TransferState transfer_state = 1; bytes data = 2}`."""
    head = b"" if state == 0 else b"\x08" + _varint(state)
    tag = b"\x0a" if state == 0 else b"\x12"
    return head + (tag + _varint(len(data)) + data if data else b"")


def decode(message: bytes) -> bytes:
    """The bytes of field 1 of a message; other fields are passed over, as protobuf wants it.

    Raises:
        WireError: no message.
    """
    found, at = b"", 0
    while at < len(message):
        key, at = _read_varint(message, at)
        match key & 7:
            case 0:
                _, at = _read_varint(message, at)
            case 2:
                size, at = _read_varint(message, at)
                if at + size > len(message):
                    raise WireError("a message that ends too early")
                if key >> 3 == 1:
                    found = message[at : at + size]
                at += size
            case kind:
                raise WireError(f"a message with a field of the kind {kind}")
    return found


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(data):
            break
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise WireError("a message with a number that does not end")
