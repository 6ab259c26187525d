"""The agent's door for its own host: a unix socket for the command line, for root alone.

A request is one line of JSON, {"op": NAME, ...}; replies are lines too: any number with "event", then one with
"done". A failure is {"ok": false, "done": true, "error": LINE, "kind": CLASS, "remedy": LINE, "log": [...]}. It must
not know what the operations do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from migrator.core import limits
from migrator.core.errors import AgentUnavailable, CannotListen, MigratorError, by_kind, describe

LINE_BYTES: Final = 1 << 20
Reply = dict[str, Any]
Handler = Callable[[dict[str, Any]], Iterator[Reply]]


class LocalServer:
    """Serves requests, each connection in a thread of its own, up to a number of them."""

    def __init__(self, path: Path, handler: Handler) -> None:
        """Take the socket over from an agent that is gone; raises MigratorError if one answers."""
        self._path = path
        self._handler = handler
        self._free = threading.BoundedSemaphore(limits.LOCAL_TALKS)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if _answers(path):
                raise CannotListen(
                    f"another agent answers at {path}", remedy="stop it, or give this one its own --socket"
                )
            path.unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self._socket.bind(str(path))
            os.chmod(path, 0o600)
            self._socket.listen(16)
        except OSError as error:
            raise CannotListen(f"cannot listen at {path}: {error.strerror or error}") from error

    def start(self) -> None:
        """Answer."""
        threading.Thread(target=self._accept, name="local", daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # stopped
            if not self._free.acquire(blocking=False):
                _turn_away(connection)
                continue
            try:
                threading.Thread(target=self._talk, args=(connection,), name="local", daemon=True).start()
            except RuntimeError:  # no thread can be had
                self._free.release()
                _turn_away(connection)

    def _talk(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError):  # the command line went away: what it started goes on
                if _user_of(connection) != 0:
                    return
                connection.settimeout(limits.LOCAL_SECONDS)
                with connection.makefile("rb") as lines:
                    line = lines.readline(LINE_BYTES)
                for reply in self._replies(line):
                    connection.sendall(json.dumps(reply).encode() + b"\n")
        finally:
            self._free.release()

    def _replies(self, line: bytes) -> Iterator[Reply]:
        try:
            request = json.loads(line)
            for reply in self._handler(request):
                yield {"ok": True, "done": "event" not in reply, **reply}
        except MigratorError as error:
            yield {"ok": False, "done": True, **describe(error)}
        except (ValueError, KeyError, TypeError) as error:
            yield {"ok": False, "done": True, **describe(MigratorError(f"malformed request: {error!r}"))}


def call(path: Path, op: str, **arguments: Any) -> Iterator[Reply]:
    """All replies of the agent at PATH; raises its error, or AgentUnavailable."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        try:
            connection.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # turned away: the agent has said why
                connection.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
        except OSError as error:
            raise AgentUnavailable(
                f"no agent answers at {path}: {error.strerror or error}",
                remedy="start 'migrator agent' on this host, and run this as root",
            ) from error
        with connection.makefile("rb") as lines:
            for line in lines:
                reply: Reply = json.loads(line)
                if not reply["ok"]:
                    raise by_kind(reply["kind"], reply["error"], remedy=reply["remedy"], log=reply["log"])
                yield reply
                if reply["done"]:
                    return
    raise AgentUnavailable("the agent went away", remedy="what it was doing goes on when it starts again")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _turn_away(connection: socket.socket) -> None:
    error = AgentUnavailable("the agent talks with too many commands already", remedy="end some, and try again")
    with connection, contextlib.suppress(OSError):
        connection.setblocking(False)
        connection.send(json.dumps({"ok": False, "done": True, **describe(error)}).encode() + b"\n")


def _user_of(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
