"""Adapters that need no other host: journal, images, feed, local socket, addresses, announcements, TLS checks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from migrator import control, local, netlink, procs, times, tls, wire
from migrator.core import limits
from migrator.core.address import join_address, parse_address
from migrator.core.argv import Tls
from migrator.core.errors import (
    AgentUnavailable,
    Busy,
    CannotListen,
    DiskFailed,
    Insecure,
    MigrationUnknown,
    MigratorError,
    Refused,
    TransferFailed,
)
from migrator.core.identity import Route
from migrator.core.phases import Outcome
from migrator.core.plan import ImagePiece, Order, Progress
from migrator.core.preflight import HostFacts, TargetFacts
from migrator.core.timeline import Measured
from migrator.feed import Feed
from migrator.generated import migrator_pb2 as pb
from migrator.images import Incoming, Outgoing, Room
from migrator.journal import FileJournal
from migrator.local import LocalServer
from migrator.ports import Journal, Report
from migrator.server import PeerServer, Servicer, _try_address
from tests.migrator.world import CONFIG, IDENTITY, FakeJournal, World, make_holder
from voyfs.certs import make_ca, make_host

# -- journal: one suite for the real one and the fake ---------------------------------------------


@pytest.fixture(params=["file", "fake"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    return FileJournal(tmp_path / "journal") if request.param == "file" else FakeJournal(World(), "source")


def decisions(journal: Journal, migration: str) -> list[str]:
    return [entry["decision"] for entry in journal.read(migration)]


def test_journal_keeps_decisions_and_facts(journal: Journal) -> None:
    record = journal.create("m1")
    record.write("prepare", container="box", nested={"a": [1]})
    record.write("freeze", durable=False)
    assert decisions(journal, "m1") == ["prepare", "freeze"]
    assert journal.read("m1")[0]["nested"] == {"a": [1]}
    journal.reopen("m1").write("dump")
    assert decisions(journal, "m1") == ["prepare", "freeze", "dump"]


def test_journal_knows_its_migrations(journal: Journal) -> None:
    for name in ("b", "a"):
        journal.create(name).write("prepare")
    journal.create("unwritten")
    assert journal.migrations() == ["b", "a"]
    with pytest.raises(MigrationUnknown):
        journal.read("c")


def test_journal_forgets_a_torn_line(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path)
    journal.create("m1").write("prepare")
    with open(tmp_path / "m1", "ab") as file:
        file.write(b'{"decision":"comm')
    assert decisions(journal, "m1") == ["prepare"]
    journal.reopen("m1").write("rollback")
    assert decisions(journal, "m1") == ["prepare", "rollback"]


def test_journal_takes_a_failed_write_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = FileJournal(tmp_path)
    record = journal.create("m1")
    record.write("prepare")

    def fail(descriptor: int) -> None:
        raise OSError(28, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fail)
        with pytest.raises(MigratorError, match="no space"):
            record.write("commit")
    assert decisions(journal, "m1") == ["prepare"]
    record.write("rollback")
    assert decisions(journal, "m1") == ["prepare", "rollback"]


@pytest.mark.parametrize("name", ["../x", "", ".", "a/b"])
def test_journal_reads_nothing_but_journals(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_text('{"decision":"commit"}\n')
    with pytest.raises(MigrationUnknown):
        FileJournal(tmp_path / "journal").read(name)


@pytest.mark.parametrize("name", ["../x", "", ".", "a/b", "/x", "-x", "a\0b"])
def test_journal_makes_nothing_but_journals(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match="no name"):
        FileJournal(tmp_path / "journal").create(name)
    assert [path.name for path in tmp_path.rglob("*")] == ["journal"]


@pytest.mark.parametrize("line", [b"{", b"\xff", b"[]", b"null", b'{"time":1}', b'{"decision":"x"}', b""])
def test_journal_keeps_aside_what_makes_no_sense(tmp_path: Path, line: bytes) -> None:
    journal = FileJournal(tmp_path / "journal")
    for name in ("bad", "good"):
        journal.create(name).write("prepare")
    with open(tmp_path / "journal/bad", "ab") as file:
        file.write(line + b"\n")
    (tmp_path / "journal/lost+found").mkdir()
    (tmp_path / "journal/.good.swp").write_text("junk")
    with pytest.raises(MigratorError, match=r"line 2 of the journal .*/bad makes no sense"):
        journal.read("bad")
    with structlog.testing.capture_logs() as told:
        assert journal.migrations() == ["good"]
    assert [each["kept"] for each in told] == [str(tmp_path / "journal-unreadable/bad")]
    assert (tmp_path / "journal-unreadable/bad").read_bytes().endswith(line + b"\n")
    assert journal.migrations() == ["good"]
    with pytest.raises(MigrationUnknown):
        journal.read("bad")


# -- images ----------------------------------------------------------------------------------------


def transfer(pieces: Iterator[ImagePiece], incoming: Incoming) -> int:
    return sum(incoming.accept(piece) for piece in pieces)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_what_programs_hold_is_what_descends_from_them_and_nobody_else() -> None:
    nested = ["sh", "-c", "sh -c 'sleep 60 & echo; wait'; :"]  # when it has spoken, a shell and its sleep are there
    with subprocess.Popen(nested, stdout=subprocess.PIPE) as program, subprocess.Popen(["sleep", "60"]) as stranger:
        assert program.stdout is not None
        program.stdout.readline()
        held = procs.held_by([program.pid])
        none = procs.held_by([])
        procs.kill([*held, program.pid, stranger.pid])
    assert len(held) == 2
    assert not {program.pid, stranger.pid, os.getpid()} & set(held)
    assert none == []


def test_a_closed_room_keeps_what_it_has_and_takes_no_more(tmp_path: Path) -> None:
    """So CRIU fails at what it writes next, and need not be waited for."""
    room = Room(tmp_path / "room").make()
    try:
        (room.images / "one").write_bytes(bytes(1 << 20))
        room.close()
        with pytest.raises(OSError, match="space"):
            (room.images / "two").write_bytes(bytes(1 << 20))
        assert (room.images / "one").read_bytes() == bytes(1 << 20)
    finally:
        room.remove()


def test_images_arrive_as_they_are_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    room = Room(tmp_path)
    target = room.images
    target.mkdir()
    outgoing, incoming = Outgoing(source), Incoming(room)
    script = f"""
        cd {source}
        : >empty.img
        head -c {2 * limits.IMAGE_PIECE_BYTES + 5} /dev/urandom >pages.img
        echo one >core.img
        echo two >>core.img
        """
    process = subprocess.Popen(["sh", "-c", script])
    transfer(outgoing.follow(process), incoming)
    assert process.wait() == 0
    (source / "late.img").write_bytes(b"written without anybody looking")
    transfer(outgoing.finish(), incoming)
    outgoing.close()
    assert contents(target) == contents(source)
    assert set(contents(target)) == {"empty.img", "pages.img", "core.img", "late.img"}


@pytest.mark.parametrize(
    "pieces",
    [
        [ImagePiece("a", 0, b"x", True, b"wrong")],
        [ImagePiece("a", 1, b"x")],
        [ImagePiece("a", 0, b"x"), ImagePiece("a", 2, b"x")],
        [ImagePiece("a", 0, b"x"), ImagePiece("b", 0, b"x")],
        [ImagePiece("../a", 0, b"x")],
        [ImagePiece("", 0, b"x")],
        [ImagePiece("parent", 0, b"x")],
        [ImagePiece("round-0/a", 0, b"x")],
        [ImagePiece("round-1/../a", 0, b"x")],
        [ImagePiece("round-1/parent", 0, b"x")],
        [ImagePiece("/a", 0, b"x")],
    ],
)
def test_images_that_arrive_otherwise_are_refused(tmp_path: Path, pieces: list[ImagePiece]) -> None:
    room = Room(tmp_path / "room")
    room.images.mkdir(parents=True)
    with pytest.raises(TransferFailed):
        transfer(iter(pieces), Incoming(room))
    assert [path.name for path in tmp_path.iterdir()] == ["room"]
    assert [path.name for path in room.directory.iterdir()] == ["images"]


def test_compressed_pieces_are_what_they_were_and_never_more() -> None:
    piece = ImagePiece("pages-1.img", 5, b"memory" * 1000, True, b"digest")
    message = wire.piece_to_wire("m1", piece, compress=True)
    assert len(message.data) < 200
    assert wire.piece_from_wire(message) == piece
    assert wire.piece_from_wire(wire.piece_to_wire("m1", piece)) == piece
    empty = ImagePiece("empty.img", 0, b"", True, b"digest")
    assert wire.piece_from_wire(wire.piece_to_wire("m1", empty, compress=True)) == empty


@pytest.mark.parametrize(
    "data",
    [
        zstandard.compress(bytes(limits.IMAGE_PIECE_BYTES + 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100 * limits.IMAGE_PIECE_BYTES)),
        zstandard.compress(b"cut off" * 100)[:-3],
        b"no frame",
        b"",
    ],
)
def test_what_does_not_decompress_to_a_piece_is_refused(data: bytes) -> None:
    with pytest.raises(TransferFailed):
        wire.piece_from_wire(pb.ImagePiece(name="pages-1.img", data=data, compressed=True))


def test_each_round_of_images_leads_to_the_one_before(tmp_path: Path) -> None:
    here, there = Room(tmp_path / "here"), Room(tmp_path / "there")
    there.images.mkdir(parents=True)
    incoming = Incoming(there)
    for place, parent in (("round-1", ""), ("round-2", "../round-1"), ("images", "../round-2")):
        directory = here.directory / place
        directory.mkdir(parents=True)
        (directory / "pages-1.img").write_text(place)
        if parent:
            (directory / "parent").symlink_to(parent)  # as CRIU does
        outgoing = Outgoing(directory, "" if place == "images" else f"{place}/")
        transfer(outgoing.finish(), incoming)
        outgoing.close()
        arrived = there.directory / place
        assert (arrived / "pages-1.img").read_text() == place
        assert not parent or os.readlink(arrived / "parent") == parent
    assert (there.images / "parent/parent/pages-1.img").read_text() == "round-1"


# -- directory times -------------------------------------------------------------------------------


def test_times_are_put_back_but_never_through_a_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for directory in (root, root / "tmp", outside):
        directory.mkdir()
    before = times.read(str(root))
    (root / "tmp/entry").touch()
    (root / "tmp/entry").unlink()
    assert times.read(str(root)) != before
    times.restore(str(root), before)
    assert times.read(str(root)) == before
    (root / "tmp").rmdir()
    (root / "tmp").symlink_to(outside)
    untouched = outside.stat().st_mtime_ns
    times.restore(str(root), {"/tmp": 1})
    assert outside.stat().st_mtime_ns == untouched


# -- feed ------------------------------------------------------------------------------------------


def test_feed_tells_late_listeners_all_but_old_progress() -> None:
    feed = Feed()
    for number in range(3):
        feed.publish({"event": "progress", "number": number})
    feed.publish({"event": "phase"})
    feed.end()
    assert list(feed.follow()) == [{"event": "progress", "number": 2}, {"event": "phase"}]


def test_feed_tells_each_listener_everything_as_it_comes() -> None:
    feed = Feed()
    heard: list[list[Any]] = [[], []]
    threads = [threading.Thread(target=lambda one=one: one.extend(feed.follow())) for one in heard]
    for thread in threads:
        thread.start()
    for number in range(50):
        feed.publish({"event": "phase", "number": number})
    feed.end()
    for thread in threads:
        thread.join()
    assert [[event["number"] for event in one] for one in heard] == [list(range(50))] * 2


# -- local socket ----------------------------------------------------------------------------------


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Path]:
    def handle(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        match request["op"]:
            case "count":
                yield from ({"event": number} for number in range(request["to"]))
                yield {"sum": 3}
            case "busy":
                raise Busy("it is", remedy="wait", log=["a", "b"])

    path = tmp_path / "run/agent.sock"
    server = LocalServer(path, handle)
    server.start()
    yield path
    server.stop()


def test_local_replies_come_one_by_one(door: Path) -> None:
    replies = list(local.call(door, "count", to=2))
    assert [reply.get("event") for reply in replies] == [0, 1, None]
    assert replies[-1]["sum"] == 3


def test_local_errors_keep_their_kind(door: Path) -> None:
    with pytest.raises(Busy) as caught:
        list(local.call(door, "busy"))
    assert (caught.value.message, caught.value.remedy, caught.value.log) == ("it is", "wait", ("a", "b"))
    with pytest.raises(MigratorError, match="malformed"):
        list(local.call(door, "count"))


def test_local_socket_is_for_one_agent_and_for_root(door: Path) -> None:
    with pytest.raises(MigratorError, match="another agent"):
        LocalServer(door, lambda request: iter(()))
    assert door.stat().st_mode & 0o777 == 0o600


def test_local_talks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCAL_TALKS", 2)
    go_on = threading.Event()

    def handle(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {"event": 1}
        go_on.wait()
        yield {}

    server = LocalServer(tmp_path / "agent.sock", handle)
    server.start()
    talks = [local.call(tmp_path / "agent.sock", "follow") for _ in range(2)]
    assert [next(talk)["event"] for talk in talks] == [1, 1]
    with pytest.raises(AgentUnavailable, match="too many"):
        list(local.call(tmp_path / "agent.sock", "follow"))
    go_on.set()
    for talk in talks:
        assert list(talk)[-1]["done"]
    server.stop()


def test_local_command_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCAL_SECONDS", 0.01)
    server = LocalServer(tmp_path / "agent.sock", lambda request: iter(()))
    server.start()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(str(tmp_path / "agent.sock"))
        assert silent.recv(1) == b""
    server.stop()


# -- the control socket of voyfs ------------------------------------------------------------------


def test_a_daemon_that_hangs_is_not_waited_for(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / control.SOCKET))
        hanging.listen()
        with pytest.raises(DiskFailed, match=r"longer than 0\.01 s for 'refresh'"):
            control.ask(tmp_path, "refresh", 0.01)


def test_local_socket_without_agent(tmp_path: Path) -> None:
    with pytest.raises(AgentUnavailable):
        list(local.call(tmp_path / "nothing", "list"))


def listen(host: str, port: int) -> PeerServer:
    return PeerServer(
        host,
        port,
        None,
        Servicer(make_holder(World()), lambda migration: Outcome.UNDECIDED, lambda migration, options: iter(())),
    )


def test_an_address_that_is_in_use_or_none_of_ours_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    server = listen("127.0.0.1", 0)
    server.start()
    with pytest.raises(CannotListen, match="in use"):
        listen("127.0.0.1", server.port)
    server.stop()
    listen("127.0.0.1", server.port).stop()
    with pytest.raises(CannotListen, match="not an address of this host"):
        _try_address("192.0.2.1", 1)
    with pytest.raises(CannotListen, match=r"cannot listen on nowhere\.invalid:1"):
        _try_address("nowhere.invalid", 1)
    assert capfd.readouterr().err == ""


# -- the wire --------------------------------------------------------------------------------------


def test_orders_survive_the_wire() -> None:
    order = Order(
        migration="m1",
        container="box",
        config=CONFIG,
        identity=replace(IDENTITY, routes=(Route("", "10.0.0.1", True, 5, "10.0.0.2"),), index=7),
        export="h:1",
        fetch=("/bin/box", "/odd-\udcff"),
        look_up=("/data",),
        files={"/etc/hosts": b"\x00\xff"},
        pipes=(1, 2),
        image_bytes=5,
        source_agent="a:1",
    )
    for each in (order, replace(order, identity=None)):
        sent = pb.PrepareRequest.FromString(wire.order_to_wire(each).SerializeToString())
        assert wire.order_from_wire(sent) == each


def test_reports_progress_and_facts_survive_the_wire() -> None:
    report = Report((Measured("a", 0.5, 0.25, 7),), 1.5, 9)
    assert wire.report_from_wire(wire.report_to_wire(report)) == report
    for eta in (None, 0.0, 2.5):
        progress = Progress(1, 2, 3, 4, 5, 6.0, eta, False)
        assert wire.progress_from_wire(wire.progress_to_wire(progress)) == progress
    host = HostFacts("target", "runc 1", "runc", "4.2", "", "", 5)
    facts = TargetFacts(host, True, "/d", "exists", True, False, True, ("10.0.0.2",), 9)
    assert wire.facts_from_wire(wire.facts_to_wire(facts)) == facts


def test_long_logs_are_cut_from_their_start() -> None:
    error = MigratorError("x", log=[f"{number:0100}" for number in range(100)])
    log = dict(wire.error_to_metadata(error))[wire.LOG]
    assert isinstance(log, bytes)
    assert len(log) <= 4096
    assert log.endswith(b"99")


# -- addresses, frames, TLS ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host", ("host", 7878)),
        ("host:1", ("host", 1)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", 7878)),
        ("::1", ("::1", 7878)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
    ],
)
def test_addresses(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text) == expected
    assert parse_address(join_address(*expected)) == expected


@pytest.mark.parametrize(
    "text", ["", ":1", "host:", "host:x", "host:99999", "a:b:1", "[a]b:1", "[a:b]:1", "[]", "a b", "h:²"]
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="HOST"):
        parse_address(text)


@given(st.binary(min_size=6, max_size=6), st.one_of(st.none(), st.ip_addresses(v=4).map(str)))
def test_announcements_are_broadcast_from_the_mac(mac: bytes, address: str | None) -> None:
    frame = netlink.announcement(mac.hex(":"), address)
    assert frame[:12] == b"\xff" * 6 + mac
    assert len(frame) == 60


def test_tls_is_asked_for_off_loopback(tmp_path: Path) -> None:
    tls.require_secure("127.0.0.1", None)
    with pytest.raises(Insecure, match="loopback"):
        tls.require_secure("10.0.0.1", None)
    make_ca(tmp_path / "ca")
    files = make_host(tmp_path / "ca", ["10.0.0.1"])
    material = Tls(files.cert, files.key, files.ca)
    tls.require_secure("10.0.0.1", material)
    tls.check(material)
    for bad in (
        replace(material, key=tmp_path / "missing"),
        replace(material, authority=files.key),
        replace(material, key=tmp_path / "ca/ca.key"),
    ):
        with pytest.raises(Insecure):
            tls.check(bad)


def test_json_lines_have_no_line_breaks() -> None:
    assert "\n" not in json.dumps({"error": MigratorError("a\nb").message})
