"""Messages between two processes of a run over a socket: msgpack with arrays, and nothing that could be executed."""

import socket
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from robot_rl.steering.wire import pack, unpack

LENGTH = struct.Struct(">Q")
"""Before each message: its bytes."""


def framed(message: dict[str, Any]) -> bytes:
    """The bytes of one message, with their count in front."""
    content = pack(message)
    return LENGTH.pack(len(content)) + content


def receive(connection: socket.socket) -> dict[str, Any] | None:
    """The next message; None where the other side has ended, be it in the middle of one."""
    head = _exactly(connection, LENGTH.size)
    if head is None:
        return None
    content = _exactly(connection, LENGTH.unpack(head)[0])
    return None if content is None else unpack(content)


def frames(content: bytes) -> list[dict[str, Any]]:
    """The whole messages of a file of them; a last one that is cut off is left out."""
    found, place = [], 0
    while place + LENGTH.size <= len(content):
        end = place + LENGTH.size + LENGTH.unpack_from(content, place)[0]
        if end > len(content):
            break
        found.append(unpack(content[place + LENGTH.size : end]))
        place = end
    return found


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors as what a message holds."""
    return {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()}


def tensors(arrays: Mapping[str, Any]) -> dict[str, Tensor]:
    """Undo `arrays`."""
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    content = bytearray(count)
    view = memoryview(content)
    while view:
        try:
            received = connection.recv_into(view)
        except OSError:  # closed by this side, or reset by the other one
            return None
        if received == 0:
            return None
        view = view[received:]
    return bytes(content)
