"""The link between two agents, over loopback: what the other side tells while it lasts, and when it breaks off."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from migrator.core.errors import PeerUnreachable, Refused
from migrator.core.phases import Outcome
from migrator.core.plan import Options
from migrator.peer import GrpcPeer
from migrator.server import GiveBack, PeerServer, Servicer
from tests.migrator.world import World, make_holder
from tests.rpc.support import Relay

STARTED = {"event": "started", "migration": "m1", "container": "box"}
# Well below the minute after which gRPC takes an unanswered ping for a lost connection, and well above our seconds.
SECONDS = 40.0


def serve(give_back: GiveBack) -> PeerServer:
    """An agent's door, with nothing behind it but GIVE_BACK."""
    server = PeerServer(
        "127.0.0.1", 0, None, Servicer(make_holder(World()), lambda migration: Outcome.UNDECIDED, give_back)
    )
    server.start()
    return server


def test_a_way_back_is_told_to_whoever_asked_for_it() -> None:
    asked: list[tuple[str, Options]] = []

    def give_back(migration: str, options: Options) -> Iterator[Mapping[str, Any]]:
        if migration != "m0":
            raise Refused("it is not there", remedy="look elsewhere")
        asked.append((migration, options))
        return iter([STARTED, {**STARTED, "event": "result", "result": {"outcome": "moved"}}])

    server = serve(give_back)
    peer = GrpcPeer("127.0.0.1", server.port, None)
    try:
        options = Options(verify=False, volumes={"/x": "skip"})
        assert [event["event"] for event in peer.give_back("m0", options)] == ["started", "result"]
        assert asked == [("m0", options)]
        with pytest.raises(Refused, match="not there") as caught:
            list(peer.give_back("m1", Options()))
        assert caught.value.remedy == "look elsewhere"
    finally:
        peer.close()
        server.stop()


def test_a_link_that_breaks_off_while_nothing_is_said_is_noticed() -> None:
    over = threading.Event()

    def give_back(migration: str, options: Options) -> Iterator[Mapping[str, Any]]:
        yield STARTED
        over.wait()

    server = serve(give_back)
    host, port = "127.0.0.1", server.port
    relay = Relay((host, port))
    peer = GrpcPeer(host, int(relay.address.rpartition(":")[2]), None)
    try:
        telling = peer.give_back("m0", Options())
        assert next(telling) == STARTED
        relay.cut()
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(next, telling, None)
            assert isinstance(waiting.exception(SECONDS), PeerUnreachable)
    finally:
        over.set()
        peer.close()
        relay.close()
        server.stop()
