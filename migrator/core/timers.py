"""Keeps periodic timers (timerfd) ticking across a dump: mends CRIU's image of them.

A timer that expires while its reader is frozen is written down as "nothing left to wait for", and restored as one that
was never set, though it has an interval. Every one with a period below the freeze's length does. Such an entry gets
a nanosecond to wait for: it then fires at once, as it was about to, and goes on with its period.

Pure: bytes in, bytes out. Sources: CRIU 4.2, images/fdinfo.proto (file_entry.tfd), images/timerfd.proto. An image that
is not as expected comes out as it was.
"""

from __future__ import annotations

from typing import Final

from migrator.core.image import MALFORMED, entries, fields

NAME: Final = "files.img"
_TIMER: Final = 12  # file_entry.tfd
_SECONDS, _NANOSECONDS, _EACH_SECONDS, _EACH_NANOSECONDS = 7, 8, 9, 10  # timerfd_entry


def rearm(image: bytes) -> bytes:
    """The image of a container's open files, with expired periodic timers waiting again."""
    result = bytearray(image)
    try:
        for begin, end in entries(image):
            for field, start, value in fields(image, begin, end):
                if field == _TIMER:
                    _rearm_one(result, start, value)
    except MALFORMED:
        return image
    return bytes(result)


def _rearm_one(image: bytearray, start: int, length: int) -> None:
    found = {field: (place, value) for field, place, value in fields(image, start, start + length)}

    def value(field: int) -> int:
        return found[field][1] if field in found else 0

    waits = value(_SECONDS) or value(_NANOSECONDS)
    repeats = value(_EACH_SECONDS) or value(_EACH_NANOSECONDS)
    if repeats and not waits and _NANOSECONDS in found:
        image[found[_NANOSECONDS][0]] = 1  # 0 and 1 have the same length
