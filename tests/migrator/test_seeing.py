"""What can be seen of migrations: figures for Prometheus, and the timeline as a picture."""

from __future__ import annotations

import http.client
import io
import queue
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

import pytest
import structlog
from rich.console import Console
from structlog.contextvars import bound_contextvars, get_contextvars

from migrator import telling
from migrator.chronicle import Chronicle
from migrator.core import limits, picture
from migrator.core.errors import CannotListen, DiskFailed, Insecure, MigratorError, PeerUnreachable
from migrator.core.phases import Outcome, Phase
from migrator.core.plan import Progress
from migrator.exports import Exports
from migrator.generated import migrator_pb2 as pb
from migrator.generated.migrator_pb2_grpc import PeerServicer
from migrator.holder import Holder
from migrator.metrics import MetricsServer
from migrator.peer import GrpcPeer
from migrator.recorder import Recorder
from migrator.server import PeerServer, Servicer
from migrator.show import Screen, print_advice
from migrator.tally import Tally
from tests.migrator.world import (
    MEMORY,
    FakeClock,
    FakeDisk,
    FakeExport,
    FakeMounted,
    FakePeer,
    World,
    make_driver,
    make_holder,
)
from voyfs.core.metrics import exposition

SVG = "{http://www.w3.org/2000/svg}"


def moved(world: World) -> dict[str, object]:
    return make_driver(world, make_holder(world)).run()


def figures(tally: Tally, *holds: str) -> dict[str, float]:
    """Every sample by its name and labels."""
    lines = exposition(tally.families(holds)).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def test_figures_follow_migrations_to_their_end() -> None:
    tally, world = Tally(), World()
    result = moved(world)
    seen: list[dict[str, float]] = []
    for event in world.events:
        tally.publish(event)
        seen.append(figures(tally, "open", "open", "held"))
    assert any(each.get('migrator_source_migration{migration="m1",phase="dump"}') == 1 for each in seen)
    assert any(each.get('migrator_bytes_present{migration="m1"}') == 2 for each in seen), "hydration"
    tally.publish({"event": "result", "migration": "m1", "result": result})
    tally.publish({"event": "error", "migration": "m2", "kind": "RuntimeFailed"})
    last = figures(tally, "open", "open", "held")
    assert not any("m1" in name for name in last), "labels of what has ended are gone"
    assert last['migrator_ended_total{outcome="moved"}'] == 1
    assert last['migrator_ended_total{outcome="RuntimeFailed"}'] == 1
    assert last['migrator_target_migrations{state="open"}'] == 2
    assert last["migrator_image_bytes_total"] == result["image_bytes"]
    assert last["migrator_downtime_seconds_count"] == last["migrator_gap_seconds_count"] == 1


def progress_of(world: World, phase: Phase) -> list[tuple[int, int]]:
    """How far it was told to be, in bytes present and in all."""
    told = [event for event in world.events if event["event"] == "progress" and event["phase"] == phase]
    return [(event["bytes_present"], event["bytes_total"]) for event in told]


def test_memory_that_follows_is_seen_to_come() -> None:
    tally, world = Tally(), World(memory="post-copy")
    result: Any = moved(world)
    assert progress_of(world, Phase.COMMIT) == [(100, MEMORY), (200, MEMORY), (MEMORY, MEMORY)]
    commit = next(phase for phase in result["timeline"]["phases"] if phase["phase"] == Phase.COMMIT)
    assert commit["bytes"] == MEMORY
    seen: list[dict[str, float]] = []
    for event in world.events:
        tally.publish(event)
        seen.append(figures(tally))
    for name, value in (
        ("bytes_present", 200),
        ("bytes_expected", MEMORY),
        ("bytes_per_second", 50),
        ("seconds_left", 2),
    ):
        assert any(each.get(f'migrator_{name}{{migration="m1"}}') == value for each in seen), name


class Asked(FakePeer):
    """A target whose preparation lasts until it was asked how far it is, COUNT times."""

    count = 2
    mistake: Exception | None = None

    def __init__(self, world: World, holder: Holder) -> None:
        super().__init__(world, holder)
        self.asked = threading.Semaphore(0)
        self.times = 0

    def how_far(self, migration: str) -> Progress | None:
        self.times += 1
        self.asked.release()
        if self.mistake is not None:
            raise self.mistake
        return super().how_far(migration)


def preparing(world: World, monkeypatch: pytest.MonkeyPatch, kind: type[Asked]) -> Asked:
    """Migrate to a target of that KIND, until nobody asks it any more."""
    monkeypatch.setattr(limits, "HOW_FAR_SECONDS", 0.001)
    holder = make_holder(world)
    peer = kind(world, holder)

    def prefetch(mounted: FakeMounted, paths: Sequence[str]) -> None:
        for _ in range(kind.count):
            assert peer.asked.acquire(timeout=60)

    monkeypatch.setattr(FakeMounted, "prefetch", prefetch)
    make_driver(world, holder, peer=peer).run()
    for thread in threading.enumerate():
        if thread.name == "how-far-m1":
            thread.join(60)
    return peer


def test_a_preparation_is_seen_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    preparing(world, monkeypatch, Asked)
    assert (10, 40) in progress_of(world, Phase.PREPARE)
    prepare = [event["event"] for event in world.events if event.get("phase") == Phase.PREPARE]
    assert prepare[-1] == "phase", "nothing of it is told after its end"
    world.check_target_has_it()


@pytest.mark.parametrize("mistake", [MigratorError("unknown method"), PeerUnreachable("gone"), ValueError("closed")])
def test_who_does_not_know_how_far_it_is_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch, mistake: Exception
) -> None:
    class Unknowing(Asked):
        count = 1

    Unknowing.mistake = mistake
    world = World()
    assert preparing(world, monkeypatch, Unknowing).times == 1
    assert progress_of(world, Phase.PREPARE) == []
    world.check_target_has_it()


def test_an_answer_that_comes_late_holds_nobody_up_and_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Asked):
        count = 1

        def how_far(self, migration: str) -> Progress | None:
            super().how_far(migration)
            assert over.wait(60)
            return Progress(1, 2, 0, 1, 1, 1.0, 1.0, False)

        def close(self) -> None:
            over.set()

    over, world = threading.Event(), World()
    preparing(world, monkeypatch, Slow)
    assert over.is_set(), "the migration has ended before the answer came"
    assert progress_of(world, Phase.PREPARE) == []
    world.check_target_has_it()


def test_without_a_thread_to_ask_it_is_prepared_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    world = World()
    recorder, peer = Recorder("m1", FakeClock(), world.events.append), FakePeer(world, make_holder(world))
    monkeypatch.setattr(threading.Thread, "start", start)
    with telling.preparation(recorder, peer, "m1"):
        pass


def test_a_preparation_can_be_asked_about_only_while_it_is_one() -> None:
    world = World()
    holder = make_holder(world)
    assert holder.how_far("m1") is None
    make_driver(world, holder).run()
    assert holder.how_far("m1") is None


@pytest.mark.parametrize("known", [True, False], ids=["knows", "is of an earlier version"])
def test_over_the_link_a_target_tells_how_far_it_is_unless_it_does_not_know_the_question(known: bool) -> None:
    class Target(Servicer):
        Pages = Servicer.Pages if known else earlier_pages
        HowFar = Servicer.HowFar if known else PeerServicer.HowFar

    found = Progress(10, 40, 1, 4, 10, 5.0, 6.0, False)
    memory = Progress.of_memory(5, 50, 9.0, complete=False)
    holder = make_holder(World())
    holder.how_far = lambda migration: found if migration == "m1" else None  # type: ignore[method-assign]
    holder.pages = lambda migration: memory  # type: ignore[method-assign]
    server = PeerServer("127.0.0.1", 0, None, Target(holder, lambda _: Outcome.UNDECIDED, lambda *_: iter(())))
    server.start()
    peer = GrpcPeer("127.0.0.1", server.port, None)
    try:
        if known:
            assert (peer.how_far("m1"), peer.how_far("m2")) == (found, None)
            assert peer.pages("m1") == memory
        else:
            with pytest.raises(MigratorError):
                peer.how_far("m1")
            assert peer.pages("m1") == Progress.of_memory(0, 0, 0.0, complete=True)
    finally:
        peer.close()
        server.stop()


def earlier_pages(self: Servicer, request: pb.Word, context: object) -> pb.PagesReply:
    return pb.PagesReply(complete=True)


def test_a_log_has_a_line_on_how_far_it_is_only_when_nothing_else_is_told() -> None:
    chronicle = Chronicle("m1", "box")
    progress = {"event": "progress", "migration": "m1", "phase": "hydrate", "rate": 1.0}
    times = [1, limits.SILENT_SECONDS + 2, limits.SILENT_SECONDS + 3, 2 * limits.SILENT_SECONDS + 3]
    with structlog.testing.capture_logs() as lines:
        chronicle.publish({"event": "started", "migration": "m1", "container": "box"})
        chronicle.publish({"event": "phase", "migration": "m1", "at_s": 1.5})
        for time in times:
            chronicle.publish({**progress, "at_s": time})
    assert [(line["what"], line.get("at_s")) for line in lines] == [
        ("started", None),
        ("phase", 1.5),
        ("progress", times[1]),
        ("progress", times[3]),
    ]
    assert {(line["migration"], line["container"]) for line in lines} == {("m1", "box")}


def shown(act: Callable[[Console], object]) -> str:
    out = io.StringIO()
    act(Console(file=out, force_terminal=True, width=120, color_system=None))
    return out.getvalue()


def test_people_see_how_far_it_is() -> None:
    event = {"event": "progress", "phase": "prepare", "bytes_present": 1 << 20, "bytes_total": 4 << 20, "rate": 1 << 20}

    def watch(console: Console) -> None:
        with Screen(console) as screen:
            screen.show({**event, "eta": 3.0})

    expected = "25% (1.0 MiB of 4.0 MiB), 1.0 MiB/s"
    assert f"{expected}, 3 s left" in shown(watch)
    known = {"phase": "prepare", "last_event": {**event, "eta": None}}
    assert f"prepare: {expected}\n" in shown(lambda console: print_advice(console, known))
    assert "MiB" not in shown(lambda console: print_advice(console, {"phase": "prepare", "last_event": {}}))


class Watched(FakeDisk):
    """Serves nothing, and keeps whom the log would name."""

    def __init__(self) -> None:
        super().__init__(World(exported=False))
        self.named: queue.Queue[dict[str, object]] = queue.Queue()

    def export(self, root: str, listen: str) -> FakeExport:
        self.named.put(get_contextvars())
        if self.named.qsize() > 1:
            raise DiskFailed("not now")
        return FakeExport(self.world)


def test_what_is_logged_while_a_tree_is_watched_names_the_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WATCH_SECONDS", 0.001)
    disk = Watched()
    exports = Exports(disk, ["/"], [FakeExport(disk.world)])
    with bound_contextvars(migration="m1"):
        exports.watch()
    disk.named.get()
    try:
        assert disk.named.get(timeout=30) == {"migration": "m1"}
    finally:
        exports.unwatch()


@pytest.fixture
def server() -> Iterator[MetricsServer]:
    made = MetricsServer("127.0.0.1:0", lambda: Tally().families(()))
    made.start()
    yield made
    made.stop()


def test_figures_are_served_on_loopback(server: MetricsServer) -> None:
    for path, status in (("/metrics", 200), ("/metrics?x", 200), ("/", 404), ("/../etc/passwd", 404)):
        connection = http.client.HTTPConnection(server.address, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == status
        assert (b"migrator_image_bytes_total 0" in answer.read()) is (status == 200)
        connection.close()


def test_who_says_nothing_and_who_says_nonsense_stand_in_nobodys_way(server: MetricsServer) -> None:
    host, port = server.address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=30) as rude:
        rude.sendall(b"\0" * 1000 + b"\r\n\r\n")
        assert rude.recv(100)
    with socket.create_connection((host, int(port)), timeout=30):
        pass
    test_figures_are_served_on_loopback(server)


@pytest.mark.parametrize("place", ["0.0.0.0:0", "192.0.2.1:9000", "[::]:0"])
def test_figures_are_never_served_off_loopback(place: str) -> None:
    with pytest.raises(Insecure, match="loopback"):
        MetricsServer(place, list)


def test_a_port_that_is_taken_is_told(server: MetricsServer) -> None:
    with pytest.raises(CannotListen, match="cannot serve metrics"):
        MetricsServer(server.address, list)


def test_the_picture_shows_every_phase_in_its_place() -> None:
    result = moved(World())
    result["container"] = "<&>"  # a name is text, and no markup
    root = ElementTree.fromstring(picture.svg(result))
    texts = [each.text or "" for each in root.iter(f"{SVG}text")]
    timeline = result["timeline"]
    assert isinstance(timeline, dict)
    for phase in timeline["phases"]:
        assert phase["phase"] in texts
    assert any(re.match("from the pause to the first answer", text) for text in texts)
    assert root.find(f"{SVG}title") is not None
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for bar in root.iter(f"{SVG}rect"):
        left, top = float(bar.get("x", 0)), float(bar.get("y", 0))
        assert 0 <= left <= left + float(bar.attrib["width"]) <= width
        assert 0 <= top < height


def test_a_migration_without_a_freeze_has_a_picture_too() -> None:
    timeline = {"paused_s": None, "opened_s": None, "phases": []}
    result = {"container": "c", "target": "t", "migration": "m", "timeline": timeline}
    assert ElementTree.fromstring(picture.svg(result)).tag == f"{SVG}svg"
