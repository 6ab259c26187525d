"""Timers in CRIU's image of open files."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.core.timers import rearm

HEAD = b"\x19\x43\x56\x54" + b"\x12\x34\x56\x78"


def varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def timer(seconds: int, nanoseconds: int, each_seconds: int, each_nanoseconds: int) -> bytes:
    """A file_entry with a timerfd_entry, as CRIU writes it."""
    fown = field(1, 0) + field(2, 0)
    values = [(1, 9), (2, 0), (3, fown), (4, 1), (5, 17), (6, 0)]
    entry = b"".join(field(number, value) for number, value in values)
    entry += field(7, seconds) + field(8, nanoseconds) + field(9, each_seconds) + field(10, each_nanoseconds)
    return field(1, 17) + field(2, 300) + field(12, entry)


def image(*entries: bytes) -> bytes:
    return HEAD + b"".join(struct.pack("<I", len(entry)) + entry for entry in entries)


FILE = field(1, 1) + field(2, 5) + field(3, b"a regular file")


def test_an_expired_periodic_timer_waits_again_and_nothing_else_changes() -> None:
    before = image(FILE, timer(0, 0, 0, 20_000_000), FILE, timer(0, 0, 5, 0))
    assert rearm(before) == image(FILE, timer(0, 1, 0, 20_000_000), FILE, timer(0, 1, 5, 0))


@pytest.mark.parametrize("entry", [timer(3, 0, 5, 0), timer(0, 7, 0, 9), timer(0, 0, 0, 0), FILE])
def test_what_waits_or_is_not_periodic_stays(entry: bytes) -> None:
    assert rearm(image(entry)) == image(entry)


@given(st.binary())
def test_what_is_no_such_image_stays(data: bytes) -> None:
    rearm(data)
    assert rearm(image(timer(0, 0, 1, 0))[:-1]) == image(timer(0, 0, 1, 0))[:-1]
