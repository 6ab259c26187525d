"""The daemon's side of the control socket (see `control` for what is said over it)."""

import json
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio

from voyfs.control import NAME, Reply, at
from voyfs.core.errors import ControlError, VoyfsError
from voyfs.logs import get_logger

log = get_logger(__name__)

# A request names paths at most; replies of `verify` name differences. Both are bounded.
LINE_BYTES = 4 << 20
CONNECTIONS = 32

Handler = Callable[[dict[str, Any]], AsyncIterator[Reply]]


def listen(store: Path) -> trio.SocketListener:
    """Opens the socket; one that an earlier daemon left is replaced."""
    descriptor, path = at(store)
    try:
        (store / NAME).unlink(missing_ok=True)
        listening = trio.socket.from_stdlib_socket(_bound(path))
    finally:
        os.close(descriptor)
    return trio.SocketListener(listening)


def _bound(path: str) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.bind(path)
    listening.listen(CONNECTIONS)
    return listening


async def serve(listener: trio.SocketListener, handler: Handler) -> None:
    """Answers requests until cancelled; `handler` gives the replies to one."""
    places = trio.CapacityLimiter(CONNECTIONS)

    async def talk(stream: trio.SocketStream) -> None:
        async with places, stream:
            try:
                async for line in _lines(stream):
                    async for reply in _answers(handler, line):
                        await stream.send_all(json.dumps(reply).encode() + b"\n")
            except trio.BrokenResourceError:
                pass  # the caller went away; what it started goes on or was cancelled with it

    await trio.serve_listeners(talk, [listener])


async def _lines(stream: trio.SocketStream) -> AsyncIterator[bytes]:
    buffer = bytearray()
    async for data in stream:
        buffer += data
        while (end := buffer.find(b"\n")) >= 0:
            yield bytes(buffer[:end])
            del buffer[: end + 1]
        if len(buffer) > LINE_BYTES:
            return


async def _answers(handler: Handler, line: bytes) -> AsyncIterator[Reply]:
    try:
        request = json.loads(line)
        if not isinstance(request, dict) or not isinstance(request.get("op"), str):
            raise ControlError("a request is an object with an op")
        async for reply in handler(request):
            yield {"ok": True, **reply}
    except Exception as error:  # whatever it is, no request may end the daemon
        yield {"ok": False, "done": True, **_told(error)}


def _told(error: Exception) -> Reply:
    """An error as the reply has it; of several that came together, the first."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, VoyfsError):
        return {"error": str(error), "kind": type(error).__name__}
    if isinstance(error, OSError):
        return {"error": str(error), "kind": "ControlError"}
    if isinstance(error, ValueError | TypeError | KeyError):
        return {"error": f"malformed request: {error!r}", "kind": "ControlError"}
    log.error("a request failed unexpectedly", exc_info=error)
    return {"error": f"the daemon failed at this: {error!r}; its log says where", "kind": "ControlError"}
