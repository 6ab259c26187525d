"""Keeps periodic timers (timerfd) ticking across a dump: mends CRIU's image of them.

A timer that expires while its reader is frozen is written down as "nothing left to wait for", and restored as one that
was never set, though it has an interval. Every one with a period below the freeze's length does. Such an entry gets
a nanosecond to wait for: it then fires at once, as it was about to, and goes on with its period.

Pure: bytes in, bytes out. Sources: CRIU 4.2, images/fdinfo.proto (file_entry.tfd), images/timerfd.proto, and
criu/include/image.h for the frame around the entries. An image that is not as expected comes out as it was.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

NAME: Final = "files.img"
_HEAD: Final = 8  # two magic numbers
_SIZE: Final = struct.Struct("<I")
_TIMER: Final = 12  # file_entry.tfd
_SECONDS, _NANOSECONDS, _EACH_SECONDS, _EACH_NANOSECONDS = 7, 8, 9, 10  # timerfd_entry
_VARINT, _BYTES = 0, 2
_FIXED: Final = {1: 8, 5: 4}


def rearm(image: bytes) -> bytes:
    """The image of a container's open files, with expired periodic timers waiting again."""
    result = bytearray(image)
    try:
        position = _HEAD
        while position < len(image):
            (size,) = _SIZE.unpack_from(image, position)
            position += _SIZE.size
            for field, start, value in _fields(image, position, position + size):
                if field == _TIMER:
                    _rearm_one(result, start, value)
            position += size
    except (IndexError, ValueError, struct.error):
        return image
    return bytes(result)


def _rearm_one(image: bytearray, start: int, length: int) -> None:
    found = {field: (place, value) for field, place, value in _fields(image, start, start + length)}

    def value(field: int) -> int:
        return found[field][1] if field in found else 0

    waits = value(_SECONDS) or value(_NANOSECONDS)
    repeats = value(_EACH_SECONDS) or value(_EACH_NANOSECONDS)
    if repeats and not waits and _NANOSECONDS in found:
        image[found[_NANOSECONDS][0]] = 1  # 0 and 1 have the same length


def _fields(data: bytes | bytearray, position: int, end: int) -> Iterator[tuple[int, int, int]]:
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


def _varint(data: bytes | bytearray, position: int) -> tuple[int, int]:
    """Its value, and the position after it (protobuf's encoding: seven bits a byte, the lowest first)."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
