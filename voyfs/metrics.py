"""`--metrics`: figures of a running mount for Prometheus, on loopback.

The supervisor holds the listening socket, so that neither a killed nor a replaced daemon refuses a scrape: it waits
for the next one. Counters begin anew with each daemon, which is what Prometheus expects of them.
"""

import socket
from collections.abc import Callable
from http import HTTPStatus

import trio

from voyfs.core.errors import ListenError, MetricsError
from voyfs.core.metrics import CONTENT_TYPE, Family, exposition
from voyfs.logs import get_logger
from voyfs.rpc.address import parse_address

log = get_logger(__name__)

# Of a scrape: one small request, answered at once. Whoever is slower or says more is cut off.
REQUEST_BYTES = 8192
REQUEST_SECONDS = 5.0
CONNECTIONS = 16


def bind(text: str) -> socket.socket:
    """Listens on HOST:PORT. Raises MetricsError.

    Only on loopback: what is served names no file, but tells how busy a container is, to anybody who asks.
    """
    try:
        address = parse_address(text)
    except ListenError as error:
        raise MetricsError(f"--metrics: {error}") from error
    if not address.on_loopback:
        raise MetricsError(
            f"--metrics {address} is not on loopback, and metrics are served without TLS; give 127.0.0.1:PORT, and"
            " let what forwards it see to who may read"
        )
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(where)
            listening.listen(CONNECTIONS)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise MetricsError(
            f"cannot serve metrics on {address}: {error.strerror}; give another HOST:PORT to --metrics"
        ) from error
    return listening


async def serve(descriptor: int, families: Callable[[], list[Family]]) -> None:
    """Answers GET /metrics on the listening socket `descriptor` until cancelled."""
    places = trio.CapacityLimiter(CONNECTIONS)

    async def answer(stream: trio.SocketStream) -> None:
        async with places, stream:
            try:
                with trio.move_on_after(REQUEST_SECONDS):
                    request = await _request(stream)
                    if request is not None:
                        await stream.send_all(_response(request, families))
            except trio.BrokenResourceError:
                pass  # who asked went away

    listener = trio.SocketListener(trio.socket.from_stdlib_socket(socket.socket(fileno=descriptor)))
    await trio.serve_listeners(answer, [listener])


async def _request(stream: trio.SocketStream) -> bytes | None:
    """The request's first line; None where no whole request comes."""
    received = b""
    while b"\r\n\r\n" not in received and b"\n\n" not in received:
        data = await stream.receive_some()
        received += data
        if not data or len(received) > REQUEST_BYTES:
            return None
    return received.split(b"\n", 1)[0].rstrip(b"\r")


def _response(request: bytes, families: Callable[[], list[Family]]) -> bytes:
    status, body = HTTPStatus.OK, b""
    match request.split():
        case [b"GET", path, _] if path.split(b"?")[0] == b"/metrics":
            body = exposition(families())
        case [b"GET", _, _]:
            status = HTTPStatus.NOT_FOUND
        case [_, _, _]:
            status = HTTPStatus.METHOD_NOT_ALLOWED
        case _:
            status = HTTPStatus.BAD_REQUEST
    kind = CONTENT_TYPE if status is HTTPStatus.OK else "text/plain"
    body = body or f"{status.phrase}\n".encode()
    head = f"HTTP/1.1 {status} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n".encode() + body
