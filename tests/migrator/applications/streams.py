"""Both ends of streams that are full in both directions: standard library alone, run on a host and in a container.

The client sends numbered blocks as fast as they go, and reads them back from a server that is as busy; what it reads
has to be what it sent, to the byte. Writes how many bytes have come back on stdout, a line each MiB; a line on stdin
ends it.
"""

from __future__ import annotations

import select
import socket
import socketserver
import sys
import threading

BLOCK = 1 << 16
MIB = 1 << 20
SILENCE_SECONDS = 60.0


class Echo(socketserver.BaseRequestHandler):
    """One thread a connection; what comes goes back."""

    def handle(self) -> None:
        """Until the client has sent all."""
        while data := self.request.recv(BLOCK):
            self.request.sendall(data)


class Server(socketserver.ThreadingTCPServer):
    """A thread each connection."""

    allow_reuse_address = True
    daemon_threads = True


def block(number: int) -> bytes:
    """The block of that number: unlike every other, and unlike itself moved by some bytes."""
    return b"".join(b"%08x%08x" % (number, place) for place in range(BLOCK // 16))


def send(connection: socket.socket, sent: list[int]) -> None:
    """Blocks until a line comes on stdin; SENT gets their number at the end."""
    number = 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        connection.sendall(block(number))
        number += 1
    connection.shutdown(socket.SHUT_WR)
    sent.append(number)


def talk(address: str, port: int) -> int:
    """How many blocks came back, all right; raises ValueError at the first byte that is not."""
    sent: list[int] = []
    with socket.create_connection((address, port), SILENCE_SECONDS) as connection:
        sender = threading.Thread(target=send, args=(connection, sent), daemon=True)
        sender.start()
        number = 0
        with connection.makefile("rb", BLOCK) as replies:
            while data := replies.read(BLOCK):
                if data != block(number):
                    raise ValueError(f"block {number} is not what was sent")
                number += 1
                if number * BLOCK % MIB == 0:
                    print(number * BLOCK, flush=True)
        sender.join()
    if sent != [number]:
        raise ValueError(f"{number} blocks came back of {sent}")
    return number


def main() -> None:
    """Arguments: port for the server; address and port for the client."""
    if len(sys.argv) == 2:
        with Server(("", int(sys.argv[1])), Echo) as server:
            server.serve_forever()
    print("all", talk(sys.argv[1], int(sys.argv[2])), flush=True)


if __name__ == "__main__":
    main()
