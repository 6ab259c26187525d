"""Which frames of a container count as an answer to its client."""

from __future__ import annotations

import pytest

from migrator.holding import carries_data

HEAD = bytes(12)


def ipv4(protocol: int, body: bytes, *, total: int | None = None, padding: int = 0) -> bytes:
    length = (20 + len(body) if total is None else total).to_bytes(2, "big")
    return HEAD + b"\x08\x00" + b"\x45\x00" + length + bytes(5) + bytes([protocol]) + bytes(10) + body + bytes(padding)


def ipv6(protocol: int, body: bytes) -> bytes:
    length = len(body).to_bytes(2, "big")
    return HEAD + b"\x86\xdd" + b"\x60\x00\x00\x00" + length + bytes([protocol, 64]) + bytes(32) + body


def tcp(payload: bytes, options: int = 12) -> bytes:
    return bytes(12) + bytes([(20 + options) // 4 << 4]) + bytes(7) + bytes(options) + payload


@pytest.mark.parametrize(
    ("frame", "counts"),
    [
        (ipv4(6, tcp(b":1\r\n")), True),
        (ipv6(6, tcp(b":1\r\n")), True),
        (ipv4(17, bytes(8)), True),
        (ipv4(6, tcp(b"x" * 70000), total=0), True),  # larger than the field can say
        (ipv4(6, tcp(b"")), False),  # the kernel's acknowledgement
        (ipv4(6, tcp(b"", options=0), padding=6), False),  # the same, as long as Ethernet wants it
        (ipv6(6, tcp(b"")), False),
        (ipv4(1, bytes(64)), False),
        (HEAD + b"\x08\x06" + bytes(46), False),  # our own announcement
        (ipv4(6, tcp(b""))[:40], False),
        (b"", False),
    ],
)
def test_only_data_is_an_answer(frame: bytes, counts: bool) -> None:
    assert carries_data(frame) is counts
