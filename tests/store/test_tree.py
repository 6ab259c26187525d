"""Names, content and placeholders on a real directory: what a container does to a half-local tree."""

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.store.support import (
    T0,
    at,
    content,
    directory,
    entry,
    fetched,
    in_thread,
    in_trio,
    missing,
    names,
    opened,
    populate,
)
from tests.support.trees import CAPABILITY, DEFAULT_ACL
from voyfs.core.errors import SourceMalformed
from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node
from voyfs.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE


def root(store: Store) -> Node:
    return store.tree.node(ROOT)


def forget(store: Store, node: Node) -> None:
    """The kernel lets go of `node`."""
    node.lookups = 0
    store.names.release(node)


def nlink(store: Store, node: Node) -> int:
    return store.content.attributes(node).nlink


# -- hard links -----------------------------------------------------------------------------


def test_names_of_one_file_may_be_populated_at_different_times(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("a", 2), directory("b", 3), entry("f", 9, size=CHUNK, nlink=4))
        node = at(store, "f")
        assert nlink(store, node) == 4
        fetched(store, node, 0)
        store.content.write(node, 0, b"mine")
        populate(store, at(store, "a"), entry("g", 9, size=CHUNK, nlink=4), entry("h", 9, size=CHUNK, nlink=4))
        populate(store, at(store, "b"), entry("i", 9, size=CHUNK, nlink=4))
        assert {at(store, path).ino for path in ("f", "a/g", "a/h", "b/i")} == {node.ino}
        assert nlink(store, node) == 4
        assert content(store, node).startswith(b"mines")
        assert store.records.totals.files == 1


def test_a_directory_has_all_its_links_while_it_is_being_populated(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("a", 2, nlink=5))
        node = at(store, "a")
        shown = [nlink(store, node)]
        for number in range(3):
            store.placeholders.make(node, [directory(f"d{number}", 10 + number)])
            shown.append(nlink(store, node))
        store.placeholders.finish(node)
        assert [*shown, nlink(store, node)] == [5] * 5


def test_one_file_twice_in_one_directory(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=5, nlink=2), entry("g", 9, size=5, nlink=2))
        assert at(store, "f") is at(store, "g")
        assert nlink(store, at(store, "f")) == 2


def test_a_removed_file_comes_back_by_a_name_that_is_populated_later(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("a", 2), entry("f", 9, size=CHUNK, nlink=2))
        node = at(store, "f")
        fetched(store, node, 0)
        store.content.write(node, 0, b"mine")
        store.names.unlink(root(store), b"f")
        assert nlink(store, node) == 1
        forget(store, node)
        assert os.listdir(tmp_path / "s" / "orphans") == [str(node.ino)]
        populate(store, at(store, "a"), entry("g", 9, size=CHUNK, nlink=2))
        assert content(store, at(store, "a/g")).startswith(b"mines")
        assert nlink(store, at(store, "a/g")) == 1
        assert not os.listdir(tmp_path / "s" / "orphans")


def test_a_file_parked_by_an_earlier_daemon_comes_back_by_another_name(tmp_path: Path) -> None:
    """The next daemon does not know that `g` is a name of what is parked, until it meets it."""
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=CHUNK))
        store.names.link(at(store, "f"), root(store), b"g")
    with opened(tmp_path / "s", taking_over=True) as store:
        store.names.unlink(root(store), b"f")
        ino = at(store, "g").ino
        assert not os.listdir(tmp_path / "s" / "orphans")
    with opened(tmp_path / "s", taking_over=True) as store:
        store.names.link(at(store, "g"), root(store), b"h")
    with opened(tmp_path / "s", taking_over=True) as store:
        store.names.unlink(root(store), b"g")
        assert os.listdir(tmp_path / "s" / "orphans") == [str(ino)]
    with opened(tmp_path / "s", taking_over=True) as store:
        node, status = store.tree.child(root(store), b"h")
        assert store.content.attributes(node, status).nlink == 1
        assert not os.listdir(tmp_path / "s" / "orphans")


def test_a_parked_file_with_a_name_that_nobody_met_may_get_another(tmp_path: Path) -> None:
    """The kernel knows that name since an earlier daemon, and asks for no lookup."""
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=CHUNK))
        store.names.link(at(store, "f"), root(store), b"g")
        ino = at(store, "f").ino
    with opened(tmp_path / "s", taking_over=True) as store:
        store.names.unlink(root(store), b"f")
        store.names.link(store.tree.node(ino), root(store), b"h")
        assert nlink(store, at(store, "h")) == 2
        assert not os.listdir(tmp_path / "s" / "orphans")
        store.names.unlink(root(store), b"h")
        store.names.unlink(root(store), b"g")
        with pytest.raises(FileNotFoundError):
            store.names.link(store.tree.node(ino), root(store), b"h")


def test_a_failed_populating_gives_a_parked_file_back(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("a", 2), entry("f", 9, size=4, nlink=2))
        node = at(store, "f")
        store.content.write(node, 0, b"mine")
        store.names.unlink(root(store), b"f")
        store.placeholders.make(at(store, "a"), [entry("g", 9, size=4, nlink=2)])
        with pytest.raises(SourceMalformed):
            store.placeholders.make(at(store, "a"), [entry("odd", 10, 0)])
        store.placeholders.abandon(at(store, "a"))
        assert content(store, node) == b"mine"
        assert nlink(store, node) == 1
        assert not names(store, "a")
        populate(store, at(store, "a"), entry("g", 9, size=4, nlink=2))
        assert content(store, at(store, "a/g")) == b"mine"


def test_two_directories_make_one_file_and_either_may_end_first(tmp_path: Path) -> None:
    for first, second in (("a", "b"), ("b", "a")):
        with opened(tmp_path / first) as store:
            populate(store, root(store), directory("a", 2), directory("b", 3))
            for name in ("a", "b"):
                store.placeholders.make(at(store, name), [entry("f", 9, size=CHUNK, nlink=2)])
            store.placeholders.finish(at(store, first))
            assert nlink(store, at(store, f"{first}/f")) == 2
            assert store.records.totals.files == 1
            store.placeholders.finish(at(store, second))
            assert at(store, "a/f") is at(store, "b/f")
            assert nlink(store, at(store, "a/f")) == 2
            assert store.records.totals.files == 1
            assert store.records.totals.absent_bytes == CHUNK


def test_two_directories_make_one_file_and_one_fails(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("a", 2), directory("b", 3))
        linked = entry("f", 9, size=CHUNK, nlink=2)
        for name in ("a", "b"):
            store.placeholders.make(at(store, name), [linked])
        store.placeholders.abandon(at(store, "a"))  # which had made it
        assert store.placeholders.finish(at(store, "b")) is None, "to be done once more"
        assert not names(store, "b")
        populate(store, at(store, "b"), linked)
        populate(store, at(store, "a"), linked)
        assert at(store, "a/f") is at(store, "b/f")
        assert store.records.totals.files == 1


# -- removing -------------------------------------------------------------------------------


def test_a_removed_file_that_is_open_stays_until_the_kernel_lets_go(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=CHUNK))
        node = at(store, "f")
        node.lookups = 1
        store.names.unlink(root(store), b"f")
        assert nlink(store, node) == 0
        fetched(store, node, 0)
        assert content(store, node) == b"s" * CHUNK
    with opened(tmp_path / "s", taking_over=True) as store:
        assert content(store, store.tree.node(node.ino)) == b"s" * CHUNK


@in_trio
async def test_an_inode_is_not_used_again_while_its_record_exists(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=CHUNK))
        node = at(store, "f")
        store.names.unlink(root(store), b"f")
        forget(store, node)
        made = [store.names.create(root(store), b"n%d" % n, 0o600, 0, 0, 0) for n in range(50)]
        assert node.ino not in {new.ino for new in made}
        assert all(new.record is None for new in made)
        await store.checkpoint(in_thread)
        assert store.records.get(node.ino) is None
        assert not os.listdir(tmp_path / "s" / "orphans")
        assert store.records.totals.files == 0
        assert store.records.totals.absent_bytes == 0


def test_what_was_parked_by_a_daemon_before_a_new_mount_is_removed(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9), directory("d", 2))
        populate(store, at(store, "d"))
        store.names.create(root(store), b"mine", 0o600, 0, 0, 0)
        for name in (b"f", b"mine"):
            at(store, name.decode()).lookups = 1
            store.names.unlink(root(store), name)
        store.names.rmdir(root(store), b"d")
        assert len(os.listdir(tmp_path / "s" / "orphans")) == 3
    with opened(tmp_path / "s") as store:
        assert len(store.names.reapable()) == 2, "those with a record wait for a checkpoint"
        assert len(os.listdir(tmp_path / "s" / "orphans")) == 2


def test_directories_are_removed_only_when_empty(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("d", 2), entry("f", 9))
        populate(store, at(store, "d"), entry("g", 10))
        with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is asserted
            store.names.rmdir(root(store), b"d")
        assert caught.value.errno == errno.ENOTEMPTY
        with pytest.raises(NotADirectoryError):
            store.names.rmdir(root(store), b"f")
        with pytest.raises(IsADirectoryError):
            store.names.unlink(root(store), b"d")
        store.names.unlink(at(store, "d"), b"g")
        store.names.rmdir(root(store), b"d")
        assert names(store) == {b"f"}


# -- renaming -------------------------------------------------------------------------------


def test_rename_over_a_file_keeps_the_one_that_is_open(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=4), entry("g", 10, size=4))
        f, g = at(store, "f"), at(store, "g")
        g.lookups = 1
        store.names.rename(root(store), b"f", root(store), b"g", 0)
        assert names(store) == {b"g"}
        assert at(store, "g") is f
        fetched(store, f, 0, fill=b"f")
        fetched(store, g, 0, fill=b"g")
        assert content(store, f) == b"ffff"
        assert content(store, g) == b"gggg"
        assert nlink(store, g) == 0


def test_rename_of_directories_and_its_flags(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("a", 2), directory("b", 3), directory("c", 4), entry("f", 9))
        populate(store, at(store, "c"), entry("x", 20))
        populate(store, at(store, "b"))
        with pytest.raises(FileExistsError):
            store.names.rename(root(store), b"a", root(store), b"b", RENAME_NOREPLACE)
        with pytest.raises(NotADirectoryError):
            store.names.rename(root(store), b"a", root(store), b"f", 0)
        with pytest.raises(IsADirectoryError):
            store.names.rename(root(store), b"f", root(store), b"a", 0)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            store.names.rename(root(store), b"a", root(store), b"c", 0)
        assert caught.value.errno == errno.ENOTEMPTY
        a = at(store, "a")
        store.names.rename(root(store), b"a", root(store), b"b", 0)
        assert names(store) == {b"b", b"c", b"f"}
        assert at(store, "b") is a
        store.names.rename(root(store), b"b", root(store), b"f", RENAME_EXCHANGE)
        assert at(store, "f") is a
        # a directory that is not populated keeps its place on the source
        populate(store, at(store, "f"), entry("inside", 30))
        assert at(store, "f/inside").record is not None
        assert at(store, "f/inside").record.source == b"a/inside"  # type: ignore[union-attr]


def test_a_node_is_found_again_after_its_directory_was_renamed(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("a", 2))
        populate(store, at(store, "a"), entry("f", 9, size=1))
        ino = at(store, "a/f").ino
        store.names.rename(root(store), b"a", root(store), b"z", 0)
    with opened(tmp_path / "s", taking_over=True) as store:
        assert store.tree.path(store.tree.node(ino)) == b"data/z/f"
        with pytest.raises(OSError) as caught:  # noqa: PT011
            store.tree.node(2**40)
        assert caught.value.errno == errno.ESTALE


# -- content --------------------------------------------------------------------------------


def test_no_byte_that_was_cut_off_comes_back(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=4 * CHUNK))
        node = at(store, "f")
        fetched(store, node, 3)
        store.content.truncate(node, CHUNK + 100)
        store.content.truncate(node, 4 * CHUNK)
        assert missing(node) == [0, 1]
        fetched(store, node, 0, 1)
        expected = b"s" * (CHUNK + 100) + bytes(3 * CHUNK - 100)
        assert content(store, node) == expected
    with opened(tmp_path / "s", taking_over=True) as store:
        assert content(store, at(store, "f")) == expected


def test_truncate_that_fails_cuts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=4 * CHUNK))
        node = at(store, "f")

        def none_left(*_: object) -> int:
            raise OSError(errno.EMFILE, "too many open files")

        monkeypatch.setattr(store.tree, "file", none_left)
        with pytest.raises(OSError, match="too many"):
            store.content.truncate(node, 0)
        assert missing(node) == [0, 1, 2, 3]


def test_writes_need_only_the_chunks_that_they_cover_in_part(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=3 * CHUNK + 10))
        node = at(store, "f")
        assert node.record is not None

        def needed(start: int, stop: int) -> list[int]:
            return store.content.needed_before_write(node.record, Extent(start, stop))  # type: ignore[arg-type]

        assert needed(0, CHUNK) == []
        assert needed(1, CHUNK) == [0]
        assert needed(0, 2 * CHUNK + 1) == [2]
        assert needed(3 * CHUNK, 3 * CHUNK + 10) == []
        assert needed(3 * CHUNK, 3 * CHUNK + 9) == [3]
        assert needed(4 * CHUNK, 5 * CHUNK) == []
        with pytest.raises(AssertionError):
            store.content.write(node, 1, b"x")


def test_a_short_write_acknowledges_only_whole_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), entry("f", 9, size=3 * CHUNK))
        node = at(store, "f")
        whole = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[: CHUNK + 5], at))
        assert store.content.write(node, 0, b"w" * (3 * CHUNK)) == CHUNK
        assert missing(node) == [1, 2]
        monkeypatch.setattr(os, "pwrite", lambda file, data, at: whole(file, data[:5], at))
        with pytest.raises(OSError, match="no space"):
            store.content.write(node, CHUNK, b"w" * CHUNK)
        assert missing(node) == [1, 2]
        monkeypatch.undo()
        fetched(store, node, 1, 2)
        assert content(store, node) == b"w" * CHUNK + b"s" * (2 * CHUNK)


def test_times_are_the_sources_until_the_container_changes_them(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("d", 2), entry("f", 9, size=2 * CHUNK), entry("g", 10, size=CHUNK))
        f, g, d = at(store, "f"), at(store, "g"), at(store, "d")
        for node in (f, g, d):
            assert node.record is not None
            shown = store.content.attributes(node)
            assert shown.mtime_ns == node.record.version.mtime_ns
            assert shown.ctime_ns == node.record.version.ctime_ns
        fetched(store, f, 0)
        assert store.content.attributes(f).mtime_ns == T0 + 9
        store.content.set_times(f, None, 12345)
        store.content.write(g, 0, b"w" * CHUNK)
        fetched(store, f, 1)
        assert store.content.attributes(f).mtime_ns == 12345
        assert store.content.attributes(f).ctime_ns > T0 * 1.1
        assert store.content.attributes(g).mtime_ns > T0 * 1.1
        assert os.stat(tmp_path / "s" / "data" / "f").st_mtime_ns == 12345


def test_a_directorys_times_outlast_populating_it(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, root(store), directory("d", 2), directory("e", 3))
        d, e = at(store, "d"), at(store, "e")
        store.content.set_times(d, 77, 99)
        populate(store, d, entry("f", 9))
        populate(store, e, entry("f", 10))
        shown = store.content.attributes(d)
        assert (shown.atime_ns, shown.mtime_ns) == (77, 99)
        shown = store.content.attributes(e)
        assert (shown.atime_ns, shown.mtime_ns, shown.ctime_ns) == (T0, T0 + 3, T0 + 6)
        store.names.create(d, b"new", 0o600, 0, 0, 0)
        assert store.content.attributes(d).mtime_ns > T0


def test_a_capability_is_there_before_during_and_after(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        key = b"security.capability"
        for name, inode in (("f", 9), ("g", 10), ("h", 11)):
            made = entry(name, inode, size=2 * CHUNK, xattrs=((key, CAPABILITY), (b"user.x", b"y")))
            store.placeholders.make(root(store), [made])
        store.placeholders.finish(root(store))
        f, g, h = (at(store, name) for name in "fgh")
        for node in (f, g, h):
            assert set(store.content.list_xattrs(node)) == {key, b"user.x"}
            fetched(store, node, 0)
            assert store.content.get_xattr(node, key) == CAPABILITY
        store.content.remove_xattr(g, key)
        store.content.set_owner(h, 1, 1)
        for node in (f, g, h):
            fetched(store, node, 1)
        assert os.getxattr(tmp_path / "s" / "data" / "f", key) == CAPABILITY
        # a page of a shared mapping; the kernel itself takes it away where a write does
        store.content.write(f, 0, b"mapped")
        assert store.content.get_xattr(f, key) == CAPABILITY
        for node in (g, h):
            assert store.content.list_xattrs(node) == [b"user.x"]


# -- placeholders ---------------------------------------------------------------------------


def test_what_an_interrupted_populating_left_is_cleared(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        store.placeholders.make(root(store), [entry("f", 9), directory("d", 2)])
        # below a directory whose own record a loss of power took
        (tmp_path / "s" / "data" / "d" / "deep").mkdir()
        (tmp_path / "s" / "data" / "d" / "deep" / "file").touch()
    with opened(tmp_path / "s", "another boot") as store:
        assert not store.usable(root(store))
        populate(store, root(store), entry("other", 12))
        assert names(store) == {b"other"}


def test_every_type_with_every_attribute(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        acl = ((b"system.posix_acl_default", DEFAULT_ACL),)
        populate(store, root(store), directory("d", 2, mode=stat.S_IFDIR | 0o2775, uid=5, gid=6, xattrs=acl))
        kinds = {
            "fifo": stat.S_IFIFO,
            "char": stat.S_IFCHR,
            "block": stat.S_IFBLK,
            "socket": stat.S_IFSOCK,
            "file": stat.S_IFREG,
            "dir": stat.S_IFDIR,
            "link": stat.S_IFLNK,
        }
        made = []
        for number, (name, kind) in enumerate(kinds.items()):
            mode = kind | (0o777 if kind == stat.S_IFLNK else 0o4751)
            more = {"target": b"to/here"} if kind == stat.S_IFLNK else {}
            made.append(entry(name, 50 + number, kind, mode=mode, uid=7, gid=8, rdev=os.makedev(1, 3), **more))
        populate(store, at(store, "d"), *made)
        for expected in made:
            node = at(store, f"d/{expected.name.decode()}")
            shown = store.content.attributes(node)
            assert (shown.mode, shown.uid, shown.gid) == (expected.mode, 7, 8)
            assert shown.mtime_ns == expected.version.mtime_ns
            assert store.content.list_xattrs(node) == [], "nothing of the directory's default ACL"
            if stat.S_IFMT(expected.mode) in (stat.S_IFCHR, stat.S_IFBLK):
                assert shown.rdev == os.makedev(1, 3)


def test_a_symbolic_link_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    with opened(tmp_path / "s") as store:
        target = os.fsencode(tmp_path / "outside")
        populate(store, root(store), entry("link", 9, stat.S_IFLNK, target=target, mode=stat.S_IFLNK | 0o777))
        with pytest.raises(OSError):  # noqa: PT011
            store.names.create(at(store, "link"), b"f", 0o600, 0, 0, 0)
        store.content.set_owner(at(store, "link"), 1, 1)
    assert not os.listdir(tmp_path / "outside")
    assert os.stat(tmp_path / "outside").st_uid == 0


def test_descriptors_stay_few(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(
            store,
            root(store),
            *(directory(f"d{number}", 1000 + number) for number in range(600)),
            *(entry(f"f{number}", 5000 + number, size=1) for number in range(600)),
        )
        for number in range(600):
            populate(store, at(store, f"d{number}"), entry("x", 10_000 + number, size=1))
            fetched(store, at(store, f"f{number}"), 0)
            fetched(store, at(store, f"d{number}/x"), 0)
        assert len(os.listdir("/proc/self/fd")) < 600
