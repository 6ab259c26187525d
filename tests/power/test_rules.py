"""What makes a store bear a loss of power, rule by rule: the next boot finds the database as the last
sync left it at least, and maybe all that was written to it since."""

import os
from collections.abc import Callable
from pathlib import Path

import trio
import trio.testing

from tests.fakes.source import MemorySource
from tests.store.support import T0, at, directory, entry, fetched, in_thread, in_trio, missing, names, opened
from tests.store.support import populate as populated
from voyfs.core.limits import CHUNK
from voyfs.hydrator import Hydrator
from voyfs.store.record import WRITTEN
from voyfs.store.store import Store
from voyfs.store.tree import ROOT
from voyfs.vfs import Owner, Vfs

OWNER = Owner(0, 0, 0)


def vfs_of(store: Store) -> Vfs:
    return Vfs(store, Hydrator(store, MemorySource()))


async def two_levels(store: Store) -> None:
    """`d` is known for good, `d/f` is not."""
    populated(store, store.tree.node(ROOT), directory("d", 2, nlink=3), directory("e", 3))
    populated(store, at(store, "e"))
    await store.checkpoint(in_thread)
    populated(store, at(store, "d"), entry("f", 4, size=3 * CHUNK), directory("s", 5))


@in_trio
async def test_a_directory_that_no_checkpoint_saw_populated_is_populated_anew(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        await two_levels(store)
        ino = at(store, "d/f").ino
    with opened(tmp_path / "s", "another boot") as store:
        node = at(store, "d")
        assert not store.usable(node)
        assert store.usable(at(store, "e"))
        assert store.records.get(ino) is None
        assert store.records.totals.files == 0
        populated(store, node, entry("f", 4, size=3 * CHUNK), directory("s", 5))
        assert names(store, "d") == {b"f", b"s"}
        assert store.content.attributes(node).nlink == 3
        assert missing(at(store, "d/f")) == [0, 1, 2]


@in_trio
async def test_a_daemon_that_is_killed_loses_nothing_of_that(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        await two_levels(store)
    with opened(tmp_path / "s", taking_over=True) as store:
        assert store.usable(at(store, "d"))
        assert not store.anchored(at(store, "d/f"))
        await store.checkpoint(in_thread)
        assert store.anchored(at(store, "d/f"))
    with opened(tmp_path / "s", "another boot") as store:
        assert store.usable(at(store, "d"))


@in_trio
async def test_what_moves_between_directories_keeps_its_record(tmp_path: Path) -> None:
    """Or it would be a file of zeros where it went."""
    with opened(tmp_path / "s") as store:
        await two_levels(store)
        await vfs_of(store).rename(at(store, "d").ino, b"f", at(store, "e").ino, b"moved", 0)
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "e/moved")) == [0, 1, 2]
        assert names(store, "d") == {b"s"}


@in_trio
async def test_another_name_elsewhere_keeps_the_record_too(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        await two_levels(store)
        await vfs_of(store).link(at(store, "d/f").ino, at(store, "e").ino, b"linked")
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "e/linked")) == [0, 1, 2]


@in_trio
async def test_what_moves_into_a_directory_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        await two_levels(store)
        vfs = vfs_of(store)
        made = await vfs.create(at(store, "e").ino, b"mine", 0o644, OWNER)
        await vfs.fsync(made.ino)
        await vfs.rename(at(store, "e").ino, b"mine", at(store, "d").ino, b"mine", 0)
    with opened(tmp_path / "s", "another boot") as store:
        assert store.usable(at(store, "d"))
        assert names(store, "d") == {b"f", b"s", b"mine"}


@in_trio
async def test_an_fsync_makes_last_the_directory_that_the_file_is_in(tmp_path: Path) -> None:
    for what in ("file", "directory"):
        with opened(tmp_path / what) as store:
            await two_levels(store)
            vfs = vfs_of(store)
            made = await vfs.create(at(store, "d").ino, b"mine", 0o644, OWNER)
            await (vfs.fsync(made.ino) if what == "file" else vfs.fsyncdir(at(store, "d").ino))
        with opened(tmp_path / what, "another boot") as store:
            assert store.usable(at(store, "d"))


@in_trio
async def test_an_inode_is_free_only_when_its_record_is_forgotten(tmp_path: Path) -> None:
    """A directory whose names were refreshed has old entries too, when that is undone."""
    with opened(tmp_path / "s") as store:
        await two_levels(store)
        await store.checkpoint(in_thread)
        ino = at(store, "d/f").ino
        store.placeholders.clear(at(store, "d"))
        assert store.records.get(ino) is None


@in_trio
async def test_a_file_that_is_shorter_than_its_record_says_was_cut(tmp_path: Path) -> None:
    """It must not grow again when its missing bytes come."""
    with opened(tmp_path / "s") as store:
        await two_levels(store)
        await store.checkpoint(in_thread)
    os.truncate(tmp_path / "s/data/d/f", CHUNK + 5)
    with opened(tmp_path / "s", "another boot") as store:
        node = at(store, "d/f")
        assert node.record is not None
        assert node.record.absent_bytes == CHUNK + 5
        assert node.record.flags & WRITTEN
        fetched(store, node, *missing(node))
        assert store.content.attributes(node).size == CHUNK + 5


@in_trio
async def test_an_fsync_waits_for_records_that_are_on_their_way(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        await two_levels(store)
        await store.checkpoint(in_thread)
        node = at(store, "d/f")
        fetched(store, node, 0)
        order: list[str] = []
        syncing, go_on = trio.Event(), trio.Event()

        async def slowly(call: Callable[[], None]) -> None:
            if call == store.records.sync:
                syncing.set()
                await go_on.wait()
                order.append("records")
            call()

        async def fsync() -> None:
            await store.sync_file(node, in_thread)
            order.append("fsync")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.checkpoint, slowly)
            await syncing.wait()
            nursery.start_soon(fsync)
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        assert order == ["records", "fsync"]


@in_trio
async def test_a_store_that_never_was_durable_is_new(tmp_path: Path) -> None:
    (tmp_path / "s/state").mkdir(parents=True)
    (tmp_path / "s/state/store.db").touch()
    with opened(tmp_path / "s") as store:
        populated(store, store.tree.node(ROOT), entry("f", 4))


@in_trio
async def test_another_name_does_not_make_the_last_chunks_time_last(tmp_path: Path) -> None:
    """The chunk comes again, and nothing would put the time back."""
    with opened(tmp_path / "s") as store:
        linked = {"size": CHUNK, "nlink": 2}
        populated(store, store.tree.node(ROOT), entry("f", 4, **linked), directory("d", 2))
        await store.checkpoint(in_thread)
        fetched(store, at(store, "f"), 0)
        populated(store, at(store, "d"), entry("g", 4, **linked))
    with opened(tmp_path / "s", "another boot") as store:
        node = at(store, "f")
        assert missing(node) == [0]
        fetched(store, node, 0)
        assert os.stat(tmp_path / "s/data/f").st_mtime_ns == T0 + 4
