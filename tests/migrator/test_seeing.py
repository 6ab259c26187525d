"""What can be seen of migrations: figures for Prometheus, and the timeline as a picture."""

from __future__ import annotations

import http.client
import queue
import re
import socket
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from structlog.contextvars import bound_contextvars, get_contextvars

from migrator.core import limits, picture
from migrator.core.errors import CannotListen, DiskFailed, Insecure
from migrator.exports import Exports
from migrator.metrics import MetricsServer
from migrator.tally import Tally
from tests.migrator.world import FakeDisk, FakeExport, World, make_driver, make_holder
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
