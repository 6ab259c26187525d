"""What the records promise: SIGKILL loses nothing, a loss of power what no checkpoint wrote."""

import errno
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest
import trio

from tests.store.support import at, entry, fetched, in_thread, in_trio, missing, opened, populate
from tests.support.trees import CAPABILITY
from voyfs.core.errors import StoreBusy, StoreError, StoreForeign, StoreLayout
from voyfs.core.limits import CHUNK
from voyfs.store.record import WRITTEN
from voyfs.store.store import Store
from voyfs.store.tree import ROOT


def test_a_store_may_be_moved_but_a_copy_is_refused(tmp_path: Path) -> None:
    """What its records say of inodes is nothing to a copy's files: they would show zeros."""
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=5 * CHUNK))
    (tmp_path / "s").rename(tmp_path / "moved")
    shutil.copytree(tmp_path / "moved", tmp_path / "copy", symlinks=True)
    with opened(tmp_path / "moved") as store:
        assert missing(at(store, "f")) == [0, 1, 2, 3, 4]
    for _ in range(2):
        with pytest.raises(StoreError, match="is a copy"):
            Store(tmp_path / "copy", "this boot", taking_over=False)


def test_a_killed_daemon_leaves_everything_to_the_next(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=5 * CHUNK))
        node = at(store, "f")
        fetched(store, node, 0, 3)
        store.content.write(node, CHUNK, b"w" * CHUNK)
        store.content.truncate(node, 4 * CHUNK)
        shown = store.content.attributes(node)
    with opened(tmp_path / "s", taking_over=True) as store:
        node = at(store, "f")
        assert missing(node) == [2]
        assert store.content.attributes(node) == shown
        assert node.record is not None
        assert node.record.flags & WRITTEN
        assert store.records.totals.absent_bytes == CHUNK


@in_trio
async def test_whoever_looks_into_the_database_leaves_it_whole(tmp_path: Path) -> None:
    """Its last user folds SQLite's log in and removes it; another must not take himself for the last."""
    look = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM record').fetchone()"
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=CHUNK))
        await store.checkpoint(in_thread)
        await trio.run_process([sys.executable, "-c", look, tmp_path / "s" / "state" / "store.db"])
        fetched(store, at(store, "f"), 0)
        await store.checkpoint(in_thread)
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "f")) == []


@in_trio
async def test_after_another_boot_only_what_was_checkpointed_counts(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=5 * CHUNK))
        fetched(store, at(store, "f"), 0, 3)
        await store.checkpoint(in_thread)
        fetched(store, at(store, "f"), 1)
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "f")) == [1, 2, 4]
        assert store.records.totals.absent_bytes == 3 * CHUNK
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "f")) == [1, 2, 4]


@in_trio
async def test_kills_between_any_steps_of_a_checkpoint_lose_nothing(tmp_path: Path) -> None:
    """The checkpoint stops at its first and second slow call, as if killed there."""

    class Killed(BaseException):
        pass

    for stop_at in (1, 2):
        calls = 0

        async def until(call: object, stop_at: int = stop_at) -> None:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise Killed

        path = tmp_path / f"s{stop_at}"
        with opened(path) as store:
            populate(store, store.tree.node(ROOT), entry("f", 10, size=3 * CHUNK))
            fetched(store, at(store, "f"), 0)
            with pytest.raises(Killed):
                await store.checkpoint(until)
            fetched(store, at(store, "f"), 1)
        with opened(path, taking_over=True) as store:
            assert missing(at(store, "f")) == [2]


@in_trio
async def test_a_checkpoint_that_fails_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    async def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=3 * CHUNK))
        fetched(store, at(store, "f"), 0)
        with pytest.raises(OSError, match="no space"):
            await store.checkpoint(full)
        await store.checkpoint(in_thread)
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "f")) == [1, 2]


@in_trio
async def test_a_file_forgotten_and_met_again_during_a_checkpoint_keeps_its_chunks(tmp_path: Path) -> None:
    """The database does not know them yet: a record read from it would have them fetched over writes."""
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=3 * CHUNK))
        store.content.write(at(store, "f"), 0, b"w" * CHUNK)

        async def meanwhile(call: object) -> None:
            store.names.release(at(store, "f"))
            assert missing(at(store, "f")) == [1, 2]

        await store.checkpoint(meanwhile)
        assert missing(at(store, "f")) == [1, 2]


@in_trio
async def test_a_capability_removed_during_a_checkpoint_stays_removed(tmp_path: Path) -> None:
    capable = entry("f", 10, size=2 * CHUNK, xattrs=((b"security.capability", CAPABILITY),))
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), capable)
        fetched(store, at(store, "f"), 0)

        async def meanwhile(call: object) -> None:
            if store.content.list_xattrs(at(store, "f")):
                store.content.remove_xattr(at(store, "f"), b"security.capability")

        await store.checkpoint(meanwhile)
    with opened(tmp_path / "s", taking_over=True) as store:
        assert store.content.list_xattrs(at(store, "f")) == []


def test_a_capability_removed_after_the_last_chunk_stays_removed(tmp_path: Path) -> None:
    """The next daemon knows from the log that the file has had it."""
    capable = entry("f", 10, size=2 * CHUNK, xattrs=((b"security.capability", CAPABILITY),))
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), capable)
        fetched(store, at(store, "f"), 0, 1)
    with opened(tmp_path / "s", taking_over=True) as store:
        assert store.content.list_xattrs(at(store, "f")) == [b"security.capability"]
        store.content.remove_xattr(at(store, "f"), b"security.capability")
    with opened(tmp_path / "s", taking_over=True) as store:
        assert store.content.list_xattrs(at(store, "f")) == []


@in_trio
async def test_an_fsync_does_not_write_an_older_state_over_a_checkpoint(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=3 * CHUNK))
        await store.checkpoint(in_thread)  # or the fsync would be one
        node = at(store, "f")
        fetched(store, node, 0)
        syncing, go_on = trio.Event(), trio.Event()

        async def slowly(call: object) -> None:
            syncing.set()
            await go_on.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.sync_file, node, slowly)
            await syncing.wait()
            store.content.write(node, CHUNK, b"w" * CHUNK)
            await store.checkpoint(in_thread)
            go_on.set()
    with opened(tmp_path / "s", taking_over=True) as store:
        assert missing(at(store, "f")) == [2]


@in_trio
async def test_an_older_fsync_that_ends_later_takes_nothing_back(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=3 * CHUNK))
        await store.checkpoint(in_thread)  # or the fsync would be one
        node = at(store, "f")
        fetched(store, node, 0)
        syncing, go_on = trio.Event(), trio.Event()

        async def slowly(call: object) -> None:
            syncing.set()
            await go_on.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.sync_file, node, slowly)
            await syncing.wait()
            store.content.write(node, CHUNK, b"w" * CHUNK)
            await store.sync_file(node, in_thread)
            go_on.set()
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "f")) == [2]


@in_trio
async def test_an_fsync_during_a_checkpoint_waits_for_what_it_holds(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=3 * CHUNK))
        node = at(store, "f")
        store.content.write(node, 0, b"w" * CHUNK)
        syncing, never = trio.Event(), trio.Event()

        async def hanging(call: object) -> None:
            syncing.set()
            await never.wait()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.checkpoint, hanging)
            await syncing.wait()
            with trio.move_on_after(0.05) as scope:
                await store.sync_file(node, in_thread)
            assert scope.cancelled_caught, "it was not written down yet"
            nursery.cancel_scope.cancel()
        await store.sync_file(node, in_thread)
    with opened(tmp_path / "s", "another boot") as store:
        assert missing(at(store, "f")) == [1, 2]


@in_trio
async def test_fsync_alone_makes_a_write_last(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=3 * CHUNK))
        store.content.write(at(store, "f"), CHUNK, b"w" * CHUNK)
        await store.sync_file(at(store, "f"), in_thread)
    with opened(tmp_path / "s", "another boot") as store:
        node = at(store, "f")
        assert missing(node) == [0, 2]
        assert node.record is not None
        assert node.record.flags & WRITTEN


def test_a_full_disk_tears_no_entry_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT), entry("f", 10, size=4 * CHUNK))
        node = at(store, "f")
        whole = os.write
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda file, data: whole(file, data[:7]))
            with pytest.raises(OSError, match="no space"):
                fetched(store, node, 0)
        assert 0 in missing(node), "in memory only, it would be forgotten by the next daemon"
        fetched(store, node, 1)
    with opened(tmp_path / "s", taking_over=True) as store:
        assert missing(at(store, "f")) == [0, 2, 3]


@in_trio
async def test_a_database_that_is_full_is_an_ordinary_error(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        root = store.tree.node(ROOT)
        database = store.records._db
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")
        store.placeholders.make(root, [entry(f"f{number}", 10 + number, size=CHUNK) for number in range(2000)])
        with pytest.raises(OSError, match="full") as caught:
            store.placeholders.finish(root)
        assert caught.value.errno == errno.ENOSPC
        store.placeholders.abandon(root)
        assert not store.usable(root)
        assert store.records.totals.files == 0
        database.execute("PRAGMA max_page_count = 1000000")
        populate(store, root, entry("f", 10, size=CHUNK))
        await store.checkpoint(in_thread)
        assert store.records.totals.files == 1


@in_trio
async def test_records_of_entries_that_nobody_uses_leave_the_memory(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        root = store.tree.node(ROOT)
        populate(store, root, *(entry(f"f{number}", 10 + number, size=CHUNK) for number in range(500)))
        for number in range(500):
            node = at(store, f"f{number}")
            fetched(store, node, 0)
            store.names.release(node)
        await store.checkpoint(in_thread)
        assert len(store.records.loaded) <= 1
        assert len(store.tree.nodes) == 1
        assert store.records.totals.absent_bytes == 0


def test_a_store_is_refused_where_it_cannot_be_right(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with opened(path) as store:
        with pytest.raises(StoreBusy):
            Store(path, "this boot", taking_over=True)
        with pytest.raises(StoreForeign):
            store.bind(b"f" * 16, entry("", 1))
    database = sqlite3.connect(path / "state" / "store.db")
    database.execute("UPDATE meta SET value = 99 WHERE key = 'layout'")
    database.commit()
    database.close()
    with pytest.raises(StoreLayout):
        Store(path, "this boot", taking_over=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").touch()
    with pytest.raises(StoreError, match="not empty"):
        Store(tmp_path / "mine", "this boot", taking_over=True)
    assert os.listdir(tmp_path / "mine") == ["thesis"]
