"""Composition root of the block server: `serve` wires it, runs it, and stops it.

Knows nothing of command lines; `voyfs.cli` turns its errors into lines and exit statuses.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from voyfs.core.limits import KEPT_BYTES
from voyfs.rpc.address import parse_address, require_secure
from voyfs.rpc.server import BlockServer
from voyfs.rpc.tls import TlsFiles
from voyfs.rpc.tree import Tree
from voyfs.syscalls import keep_freed_memory

DEFAULT_LISTEN = "127.0.0.1:7400"


def serve(
    path: str,
    listen: str = DEFAULT_LISTEN,
    *,
    tls: TlsFiles | None = None,
    until_released: bool = False,
    ready_fd: int | None = None,
) -> None:
    """Offers the tree at `path` until SIGTERM or SIGINT; call it in the main thread.

    With `until_released`, also until a client says that it needs the source no more. Once it
    answers, the line "serving PATH on HOST:PORT" (with the real port) goes to stdout, and to
    `ready_fd`, which is closed then.

    Raises ExportError, ListenError, InsecureError; nothing has been printed then.
    """
    address = parse_address(listen)
    require_secure(address, tls)
    keep_freed_memory(KEPT_BYTES)
    over = threading.Event()
    tree = Tree(path)
    try:
        server = BlockServer(tree, address, tls=tls, on_release=over.set if until_released else lambda: None)
        with _signals(over):
            server.start()
            try:
                _announce(f"serving {path} on {server.address}\n", ready_fd)
                over.wait()
            finally:
                server.stop()
    finally:
        tree.close()


@contextmanager
def _signals(over: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `over` within the block."""
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _announce(line: str, ready_fd: int | None) -> None:
    data = line.encode(errors="surrogateescape")
    sys.stdout.flush()
    os.write(sys.stdout.fileno(), data)
    if ready_fd is not None:
        os.write(ready_fd, data)
        os.close(ready_fd)
