"""Speaks to the daemon behind a voyfs mount, by the control socket in its store.

One request, one line of JSON; replies are lines too, the last with "done". It must not know what the operations are
for.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from migrator.core import limits
from migrator.core.errors import DiskFailed

SOCKET: Final = "control.sock"

Reply = dict[str, Any]


def call(store: Path, op: str, seconds: float = limits.DAEMON_SECONDS, **arguments: Any) -> Iterator[Reply]:
    """All replies to a request; raises DiskFailed for one that fails, and where nobody answers.

    SECONDS: how long the daemon may take for each reply.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    with connection:
        connection.settimeout(seconds)
        _connect(connection, store)
        try:
            connection.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    reply: Reply = json.loads(line)
                    if not reply.get("ok"):
                        raise DiskFailed(f"voyfs cannot {op}: {reply.get('error')}", remedy=f"see {store}/log")
                    yield reply
                    if reply.get("done"):
                        return
        except TimeoutError:
            raise DiskFailed(
                f"voyfs took longer than {seconds:g} s for '{op}'", remedy=f"does the source answer? see {store}/log"
            ) from None
        except (OSError, ValueError) as error:
            raise DiskFailed(f"voyfs did not answer to '{op}': {error}", remedy=f"see {store}/log") from error
    raise DiskFailed(f"voyfs went away during '{op}'", remedy=f"see {store}/log")


def ask(store: Path, op: str, seconds: float = limits.DAEMON_SECONDS, **arguments: Any) -> Reply:
    """The last reply to a request."""
    *_, reply = call(store, op, seconds, **arguments)
    return reply


def _connect(connection: socket.socket, store: Path) -> None:
    """Through a descriptor of the store, since a socket's path has at most 108 bytes."""
    try:
        descriptor = os.open(store, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            connection.connect(f"/proc/self/fd/{descriptor}/{SOCKET}")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DiskFailed(
            f"no voyfs daemon answers for {store}: {error.strerror or error}", remedy=f"see {store}/log; mount it again"
        ) from error
