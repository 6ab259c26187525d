"""The control socket: how commands, and whoever drives the mount, speak to its daemon.

`STORE/control.sock` is a stream socket; only who may enter the store (mode 0700) reaches it. A
request is one line of JSON, `{"op": NAME, ...}`. Replies are lines of JSON: any number of
progress lines `{"ok": true, ...}`, then one with `"done": true`. A failure is
`{"ok": false, "done": true, "error": ONE LINE, "kind": NAME}`, with the name of a class of
`voyfs.core.errors`.

Operations: status; prefetch {paths, names, working_set}; refresh {again}; hydrate {wait}; bandwidth {rate}; verify;
detach; upgrade.

This is the caller's side, which every command loads: it stays light. The daemon's is `listener`.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voyfs.core import errors
from voyfs.core.errors import ControlError, VoyfsError

NAME = "control.sock"

# A daemon starts in about half a second.
SUCCESSOR_SECONDS = 30.0

Reply = dict[str, Any]


def at(store: Path) -> tuple[int, str]:
    """A descriptor of the store and a short path of the socket through it (108 bytes at most)."""
    descriptor = os.open(store, os.O_RDONLY | os.O_DIRECTORY)
    return descriptor, f"/proc/self/fd/{descriptor}/{NAME}"


def call(store: Path, op: str, **arguments: Any) -> Iterator[Reply]:
    """Asks the daemon of `store`; gives its replies, the last one with `done`.

    Raises ControlError when no daemon answers, else the error that the daemon named.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            descriptor, path = at(store)
            try:
                connection.connect(path)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ControlError(
                f"no daemon answers for the store {store} ({error.strerror}); see {store}/log"
            ) from error
        try:
            connection.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                for line in lines:
                    reply = json.loads(line)
                    if not reply.get("ok"):
                        raise _error(reply)
                    yield reply
                    if reply.get("done"):
                        return
        except OSError:
            pass  # said below
    raise ControlError(f"the daemon of the store {store} went away; see {store}/log")


def ask(store: Path, op: str, **arguments: Any) -> Reply:
    """The last reply to `op`; see `call`."""
    *_, reply = call(store, op, **arguments)
    return reply


def ask_successor(store: Path, pid: int) -> Reply:
    """The status given by a daemon other than `pid`, which is ending. Raises ControlError after SUCCESSOR_SECONDS."""
    end = time.monotonic() + SUCCESSOR_SECONDS
    while True:
        try:
            status: Reply = ask(store, "status")["status"]
            if status["pid"] != pid:
                return status
        except ControlError:
            if time.monotonic() > end:
                raise
        time.sleep(0.05)


def _error(reply: Reply) -> VoyfsError:
    return error_named(str(reply.get("kind")), str(reply.get("error")))


def error_named(kind: str, text: str) -> VoyfsError:
    """The exception of `voyfs.core.errors` that another process named."""
    found = getattr(errors, kind, ControlError)
    if isinstance(found, type) and issubclass(found, VoyfsError):
        return found(text)
    return ControlError(text)
