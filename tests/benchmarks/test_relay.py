"""The relay delays every byte, changes none, and is not the limit."""

import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from benchmarks.fs.relay import Relay

RTT_MS = 40.0


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends everything back; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_echo, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def _echo(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)


@pytest.fixture
def relay(echo: int) -> Iterator[int]:
    made = Relay(0, echo, RTT_MS)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            made.step(0.05)

    thread = threading.Thread(target=run)
    thread.start()
    yield made.port
    stop.set()
    thread.join()


def test_an_answer_takes_a_round_trip(relay: int) -> None:
    with socket.create_connection(("127.0.0.1", relay)) as connection:
        for _ in range(3):
            start = time.monotonic()
            connection.sendall(b"word")
            assert connection.recv(100) == b"word"
            assert time.monotonic() - start >= RTT_MS / 1000


def test_bytes_arrive_whole_and_in_order_and_the_end_too(relay: int) -> None:
    sent = random.Random(1).randbytes(20_000_000)
    received = bytearray()
    with socket.create_connection(("127.0.0.1", relay)) as connection:

        def send() -> None:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        while data := connection.recv(1 << 20):
            received += data
        sender.join()
    assert received == sent


def test_connections_do_not_wait_for_each_other(relay: int) -> None:
    with socket.create_connection(("127.0.0.1", relay)) as idle, socket.create_connection(("127.0.0.1", relay)) as busy:
        busy.sendall(b"x")
        assert busy.recv(1) == b"x"
        idle.sendall(b"y")
        assert idle.recv(1) == b"y"
