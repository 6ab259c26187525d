"""What an agent concludes about pages that are on their way, from what their guard has left."""

from __future__ import annotations

import fcntl
import mmap
import socket
from pathlib import Path

import pytest

from migrator import syscalls
from migrator.core import limits
from migrator.core.errors import Lost, RuntimeFailed
from migrator.core.pagemap import lazy_pages
from migrator.core.plan import Progress
from migrator.images import Room, lazy_bytes
from migrator.lazy import LazyPages
from migrator.pages import COMPLETE, GUARDED, LOST, OUTCOME, RECEIVED, note
from tests.migrator.test_timers import field, image


@pytest.fixture
def room(tmp_path: Path) -> Room:
    """A directory; nobody's memory is in it."""
    found = Room(tmp_path)
    found.images.mkdir()
    found.work.mkdir()
    return found


def test_memory_that_came_with_the_images_is_complete(room: Room) -> None:
    assert LazyPages(room).complete(0)
    assert LazyPages(room).progress(complete=True).bytes_total == 0


def test_pages_are_on_their_way_as_long_as_their_guard_lives(room: Room) -> None:
    with open(room.work / GUARDED, "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        assert not LazyPages(room).complete(0)
        note(room.work, COMPLETE)
        assert LazyPages(room).complete(0)


def test_lost_pages_are_lost_for_every_agent_that_asks(room: Room) -> None:
    (room.work / GUARDED).write_text(str(room.work))
    note(room.work, LOST)
    for _ in range(2):
        with pytest.raises(Lost, match="before all pages"):
            LazyPages(room).complete(0)


def test_a_guard_that_was_killed_takes_the_container_with_it(room: Room) -> None:
    group = room.work / "group"  # of tasks that are gone; a real one is emptied by the same call
    group.mkdir()
    (room.work / GUARDED).write_text(str(group))
    with pytest.raises(Lost):
        LazyPages(room).complete(0)
    assert (room.work / OUTCOME).read_text() == LOST


def test_a_daemon_that_does_not_start_is_told_with_its_last_words(room: Room) -> None:
    with pytest.raises(RuntimeFailed) as caught:
        LazyPages(room).start({"PATH": "/usr/bin:/bin"}, ["sh", "-c", "echo no route to the source >&2; exit 1"])
    assert caught.value.log == ("no route to the source",)


LAZY, PRESENT = 2, 4


def pagemap(*runs: tuple[int, int], counted_in: int = 5) -> bytes:
    """CRIU's image with runs of pages, each a count and flags; COUNTED_IN is a field."""
    head, place = field(1, 1), field(1, 1 << 40)
    if counted_in == 2:
        return image(head, *(place + field(2, count) + field(4, flags) for count, flags in runs))
    return image(head, *(place + field(2, 0) + field(4, flags) + field(5, count) for count, flags in runs))


def test_how_far_memory_is_comes_from_what_was_received(room: Room) -> None:
    (room.work / GUARDED).write_text(str(room.work))
    maps = [[(10, LAZY), (7, PRESENT)], [(20, LAZY), (3, LAZY | PRESENT)]]
    for number, entries in enumerate(maps):
        (room.images / f"pagemap-{number}.img").write_bytes(pagemap(*entries))
    pages = LazyPages(room)
    total = 30 * mmap.PAGESIZE
    assert pages.progress(complete=False) == Progress.of_memory(0, total, 0.0, complete=False)
    (room.work / RECEIVED).write_text(str(total // 3))
    found = pages.progress(complete=False)
    assert (found.bytes_present, found.bytes_total) == (total // 3, total)
    assert found.rate > 0
    assert found.eta is not None
    (room.work / RECEIVED).write_text(str(total + 1000))
    assert pages.progress(complete=False).bytes_present == total, "what wraps them is no memory"
    for path in room.images.iterdir():
        path.unlink()
    last = pages.progress(complete=True)
    assert (last.bytes_present, last.bytes_total, last.complete) == (total, total, True)
    assert LazyPages(room).progress(complete=False).bytes_total == 0, "an agent that comes after them"


def test_more_maps_than_are_worth_reading_tell_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    (room.images / "pagemap-1.img").write_bytes(pagemap((10, LAZY)))
    assert lazy_bytes(room.images) == 10 * mmap.PAGESIZE
    monkeypatch.setattr(limits, "PAGEMAP_BYTES", 10)
    assert lazy_bytes(room.images) == 0


def test_a_map_that_is_none_tells_nothing() -> None:
    found = pagemap((10, LAZY), (300, LAZY))
    assert lazy_pages(found) == 310
    assert lazy_pages(pagemap((10, LAZY), counted_in=2)) == 10, "as earlier versions write it"
    for end in range(len(found)):
        assert lazy_pages(found[:end]) in (0, 10)
    assert lazy_pages(found[:16] + b"\xff" * 100) == 0


def test_what_a_socket_has_received_is_told_by_the_kernel() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sender:
        receiver, _ = server.accept()
        with receiver:
            sender.sendall(bytes(12345))
            assert len(receiver.recv(12345, socket.MSG_WAITALL)) == 12345
            assert syscalls.tcp_received(receiver.fileno()) == 12345
            assert syscalls.tcp_received(sender.fileno()) == 0
    one, other = socket.socketpair()
    with one, other, pytest.raises(OSError, match="getsockopt"):
        syscalls.tcp_received(one.fileno())
