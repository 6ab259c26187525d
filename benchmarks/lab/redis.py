"""Speaks to the laboratory's redis from one of its hosts: a command, a reply, no library."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from typing import IO, Final

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Host
from benchmarks.lab.node import LabError

REPLY_SECONDS: Final = 30.0
WORK_SECONDS: Final = 60.0  # rewriting what a minute's counting has left takes milliseconds


def command(host: Host, address: str, *words: str) -> str:
    """Send one command from HOST; its reply as text, empty for nil. Raises `LabError` for an error."""
    request = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)

    def ask() -> str:
        with socket.create_connection((address, bundle.PORT), REPLY_SECONDS) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as replies:
                return _read(replies)

    return host.call(ask)


def _read(replies: IO[bytes]) -> str:
    line = replies.readline().decode().rstrip("\r\n")
    kind, text = line[:1], line[1:]
    if kind in ("+", ":"):
        return text
    if kind == "$":
        return replies.read(int(text) + 2).decode()[:-2] if int(text) >= 0 else ""
    raise LabError(f"redis: {text or 'no reply'}")


def info(host: Host, address: str, section: str) -> Mapping[str, str]:
    """The fields of one section of INFO."""
    lines = command(host, address, "INFO", section).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def rewrite(host: Host, address: str) -> None:
    """Write all data anew, as append-only file and as snapshot; raises `LabError` if redis cannot."""
    command(host, address, "BGREWRITEAOF")
    deadline = time.monotonic() + WORK_SECONDS
    while True:
        state = info(host, address, "persistence")
        if state["aof_rewrite_in_progress"] == "0" and state["aof_rewrite_scheduled"] == "0":
            break
        if time.monotonic() > deadline:
            raise LabError("redis: rewriting does not end")
        time.sleep(0.02)
    if state["aof_last_bgrewrite_status"] != "ok" or state["aof_last_write_status"] != "ok":
        raise LabError(f"redis: writing failed: {dict(state)}")
    command(host, address, "SAVE")
