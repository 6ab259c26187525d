"""CRIU's images: messages of protobuf, one after the other, as fields with their places.

Pure: bytes in, numbers out. Source: CRIU 4.2, criu/include/image.h, for the frame around the entries. An image that is
not as expected raises `MALFORMED`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_HEAD: Final = 8  # two magic numbers
_SIZE: Final = struct.Struct("<I")
_VARINT, _BYTES = 0, 2
_FIXED: Final = {1: 8, 5: 4}
MALFORMED: Final = (IndexError, ValueError, struct.error)

Buffer = bytes | bytearray


def entries(image: Buffer) -> Iterator[tuple[int, int]]:
    """Start and end of each message."""
    position = _HEAD
    while position < len(image):
        (size,) = _SIZE.unpack_from(image, position)
        position += _SIZE.size
        yield position, position + size
        position += size


def fields(data: Buffer, position: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, place and value of each field of a message; of one with bytes, the value is their length."""
    while position < end:
        key, position = _varint(data, position)
        kind = key & 7
        if kind == _VARINT:
            start = position
            value, position = _varint(data, position)
        elif kind == _BYTES:
            value, start = _varint(data, position)
            position = start + value
        else:
            start, value = position, 0
            position += _FIXED[kind] if kind in _FIXED else _unknown(kind)
        yield key >> 3, start, value


def _unknown(kind: int) -> int:
    raise ValueError(f"wire type {kind}")


def _varint(data: Buffer, position: int) -> tuple[int, int]:
    """Its value, and the position after it (protobuf's encoding: seven bits a byte, the lowest first)."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
