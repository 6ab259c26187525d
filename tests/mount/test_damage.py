"""A link that is cut again and again, and answers damaged on their way: readers wait, and get what is right."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc

from tests.mount.test_network import data
from tests.rpc.support import Relay, answering
from tests.support.programs import SECONDS, Mount, mounted, served, until
from voyfs.rpc.generated import voyfs_pb2 as pb

MIB = 1 << 20
FILES, SIZE = 24, 3 * MIB

UNARY = ("Attach", "Fetch", "Stat", "Release")
STREAMS = ("List", "Walk", "Digest")


def _prepare(source: Path) -> None:
    for number in range(FILES):
        (source / f"d{number % 5}" / "deep").mkdir(parents=True, exist_ok=True)
        (source / f"d{number % 5}" / "deep" / f"{number}").write_bytes(data(SIZE + number, number))


class Damage:
    """What becomes of answers: most arrive as they are."""

    def __init__(self, seed: int) -> None:
        self._choose = random.Random(seed)
        self._lock = threading.Lock()
        self.done: dict[str, int] = {}

    def of(self, replies: list[bytes], *, once: bool, data: bool) -> list[bytes]:
        """What arrives instead of `replies`; `once`: there must be one, `data`: they are FetchReplies."""
        with self._lock:
            if self._choose.random() < 0.9:
                return replies
            ways: list[Callable[[list[bytes]], list[bytes]]] = [self._delayed, self._truncated, self._garbled]
            if data:
                ways += [self._flipped] * 3
            if not once:
                ways += self._doubled, self._swapped, self._cut
            way = self._choose.choice(ways)
            self.done[way.__name__] = self.done.get(way.__name__, 0) + 1
            return way(replies)

    def _at(self, replies: list[bytes]) -> int:
        return self._choose.randrange(len(replies))

    def _delayed(self, replies: list[bytes]) -> list[bytes]:
        time.sleep(self._choose.random() / 5)
        return replies

    def _truncated(self, replies: list[bytes]) -> list[bytes]:
        at = self._at(replies)
        # its last field says that it is whole
        return [*replies[:at], replies[at][: self._choose.randrange(max(1, len(replies[at]) - 1))], *replies[at + 1 :]]

    def _garbled(self, replies: list[bytes]) -> list[bytes]:
        at = self._at(replies)
        return [*replies[:at], b"\xff" * 9 + replies[at], *replies[at + 1 :]]

    def _flipped(self, replies: list[bytes]) -> list[bytes]:
        at = self._at(replies)
        reply = pb.FetchReply.FromString(replies[at])
        if reply.data:
            place = self._choose.randrange(len(reply.data))
            reply.data = reply.data[:place] + bytes([reply.data[place] ^ 0x40]) + reply.data[place + 1 :]
        return [*replies[:at], reply.SerializeToString(), *replies[at + 1 :]]

    def _doubled(self, replies: list[bytes]) -> list[bytes]:
        at = self._at(replies)
        return [*replies[: at + 1], *replies[at:]]

    def _swapped(self, replies: list[bytes]) -> list[bytes]:
        return replies[::-1]

    def _cut(self, replies: list[bytes]) -> list[bytes]:
        return replies[: self._at(replies)]


@contextmanager
def damaging(address: str, damage: Damage) -> Iterator[str]:
    """The address of a server that passes on what the one at `address` answers, damaged."""
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:

        def unary(name: str) -> Callable[[bytes], Sequence[bytes]]:
            call = channel.unary_unary(f"/voyfs.v1.Export/{name}")
            return lambda request: damage.of([call(request)], once=True, data=name == "Fetch")

        def stream(name: str) -> Callable[[bytes], Sequence[bytes]]:
            call = channel.unary_stream(f"/voyfs.v1.Export/{name}")
            return lambda request: damage.of(list(call(request)), once=False, data=False)

        bulk = channel.stream_stream("/voyfs.v1.Export/Stream")

        def streamed(request: bytes) -> Sequence[bytes]:
            return damage.of(list(bulk(iter([request]))), once=False, data=True)

        methods = {**{name: unary(name) for name in UNARY}, **{name: stream(name) for name in STREAMS}}
        with answering({**methods, "Stream": streamed}) as where:
            yield where


def _read_all(mount: Mount, seed: int) -> None:
    """As a program that reads here and there."""
    numbers = list(range(FILES))
    random.Random(seed).shuffle(numbers)
    for number in numbers:
        directory = mount.path / f"d{number % 5}" / "deep"
        assert f"{number}" in os.listdir(directory)
        assert (directory / f"{number}").read_bytes() == data(SIZE + number, number)


def test_damaged_answers_are_asked_for_again(tmp_path: Path, torture: bool, seed: int) -> None:
    _prepare(tmp_path / "source")
    for number in range(15 if torture else 2):
        base = tmp_path / str(number)
        base.mkdir()
        damage = Damage(seed * 100 + number)
        with (
            served(tmp_path / "source") as server,
            damaging(server.address, damage) as address,
            mounted(address, base / "mount", base / "store", *(("--warm",) if number % 2 else ())) as mount,
            ThreadPoolExecutor() as pool,
        ):
            for reading in [pool.submit(_read_all, mount, reader) for reader in range(3)]:
                reading.result(SECONDS * 2)
            mount.hydrate()
            assert mount.ask("verify")["report"]["differences"] == []
            assert damage.done, "nothing was damaged"
            mount.unmount()


def test_a_link_cut_again_and_again_under_load_costs_time_only(tmp_path: Path, torture: bool) -> None:
    _prepare(tmp_path / "source")
    with served(tmp_path / "source") as server:
        host, _, port = server.address.rpartition(":")
        relay = Relay((host, int(port)))
        try:
            with (
                mounted(relay.address, tmp_path / "mount", tmp_path / "store", "--warm") as mount,
                ThreadPoolExecutor() as pool,
            ):
                readings = []
                os.listdir(mount.path)
                for number in range(20 if torture else 2):
                    relay.cut()
                    readings += [pool.submit(_read_all, mount, 2 * number + reader) for reader in range(2)]
                    mount.ask("hydrate")
                    until(lambda: not mount.status()["source"]["reachable"] or mount.status()["phase"] == "hydrated")
                    assert (mount.path / "new").write_bytes(b"%d" % number)
                    relay.mend()
                    before = mount.status()["bytes"]["present"]
                    until(
                        lambda before=before: (
                            mount.status()["bytes"]["present"] > before or mount.status()["phase"] == "hydrated"
                        )
                    )
                for reading in readings:
                    reading.result(SECONDS * 2)
                mount.hydrate()
                assert mount.ask("verify")["report"]["differences"] == []
        finally:
            relay.close()
