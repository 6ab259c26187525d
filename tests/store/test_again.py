"""Calls that the kernel sends again because the daemon was killed before it answered.

Each call is made on a store whose daemon then dies: before the call was begun, between the change
of the tree and anything after it, or when all was done. The next daemon is asked again, and must
give what the first would have given, once.
"""

import errno
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.store.support import at, directory, entry, in_thread, in_trio, names, opened, populate
from voyfs.core.changes import Change
from voyfs.store import names as names_module
from voyfs.store.record import NAMES
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node
from voyfs.syscalls import RENAME_EXCHANGE, renameat2

Call = Callable[[Store, Node], object]


class KilledError(BaseException):
    pass


# What is called, how the kernel says it again, what is there afterwards, and the calls of the system that do it.
CALLS: dict[str, tuple[Call, tuple[Change, bytes], set[bytes], tuple[str, ...]]] = {
    "create": (lambda s, d: s.names.create(d, b"n", 0o640, 7, 8, 0), (Change.CREATE, b"n"), {b"n"}, ("open",)),
    "mkdir": (lambda s, d: s.names.mkdir(d, b"n", 0o750, 7, 8, 0), (Change.MKDIR, b"n"), {b"n"}, ("mkdir",)),
    "mknod": (
        lambda s, d: s.names.mknod(d, b"n", stat.S_IFIFO | 0o640, 0, 7, 8, 0),
        (Change.MKNOD, b"n"),
        {b"n"},
        ("mknod",),
    ),
    "symlink": (lambda s, d: s.names.symlink(d, b"n", b"to", 7, 8), (Change.SYMLINK, b"n"), {b"n"}, ("symlink",)),
    "link": (lambda s, d: s.names.link(at(s, "d/f"), d, b"n"), (Change.LINK, b"n"), {b"n"}, ("link",)),
    "unlink": (lambda s, d: s.names.unlink(d, b"f"), (Change.UNLINK, b"f"), {b"-f"}, ("rename",)),
    "unlink of one of two": (
        lambda s, d: s.names.unlink(d, b"h"),
        (Change.UNLINK, b"h"),
        {b"-h"},
        ("unlink", "rename"),
    ),
    "rmdir": (lambda s, d: s.names.rmdir(d, b"e"), (Change.RMDIR, b"e"), {b"-e"}, ("rename",)),
    "rename": (lambda s, d: s.names.rename(d, b"f", d, b"n", 0), (Change.RENAME, b"f/n"), {b"-f", b"n"}, ("rename",)),
    "rename over a file": (
        lambda s, d: s.names.rename(d, b"f", d, b"g", 0),
        (Change.RENAME, b"f/g"),
        {b"-f"},
        ("link", "rename"),
    ),
    "rename over a directory": (
        lambda s, d: s.names.rename(d, b"e", d, b"e2", 0),
        (Change.RENAME, b"e/e2"),
        {b"-e"},
        ("renameat2", "rename"),
    ),
    "exchange": (
        lambda s, d: s.names.rename(d, b"f", d, b"g", RENAME_EXCHANGE),
        (Change.RENAME, b"f/g"),
        set(),
        ("renameat2",),
    ),
}
START = {b"f", b"g", b"h", b"e", b"e2"}


def _prepared(path: Path) -> None:
    with opened(path) as store:
        populate(store, store.tree.node(ROOT), directory("d", 2))
        populate(
            store,
            at(store, "d"),
            *(entry("f", 10, size=1), entry("g", 11, size=1), entry("h", 12, size=1, nlink=2)),
            *(entry("h2", 12, size=1, nlink=2), directory("e", 13), directory("e2", 14)),
        )
        store.names.rename(at(store, "d"), b"h2", store.tree.node(ROOT), b"h2", 0)
        for name in ("e", "e2"):
            populate(store, at(store, f"d/{name}"))


def _inodes(path: Path) -> dict[str, int]:
    return {entry.name: entry.inode() for entry in os.scandir(path / "data" / "d")}


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("killed", ["before", "first", "second", "after"])
def test_a_call_sent_again_is_carried_out_once(
    tmp_path: Path, what: str, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, (change, name), difference, system = CALLS[what]
    path = tmp_path / "s"
    _prepared(path)
    before = _inodes(path)
    with opened(path, taking_over=True) as store:
        parent = at(store, "d")
        at(store, "h2")
        number = parent.ino
        if killed == "after":
            call(store, parent)
        elif killed != "before":
            with monkeypatch.context() as patch:
                _kill_after(patch, system, {"first": 1, "second": 2}[killed])
                try:
                    call(store, parent)
                except KilledError:
                    pass
    with opened(path, taking_over=True) as store:
        at(store, "h2")
        parent = at(store, "d")
        store.names.intents.sent_again(change, number, name)
        call(store, parent)
        expected = (START | {n for n in difference if n[:1] != b"-"}) - {n[1:] for n in difference if n[:1] == b"-"}
        assert names(store, "d") == expected
        assert parent.record is not None
        assert parent.record.flags & NAMES, "verify is to know that the container did it"
        assert store.content.attributes(parent).mtime_ns > before_now
        if b"n" in difference and what not in ("link", "rename"):
            shown = store.content.attributes(at(store, "d/n"))
            assert (shown.uid, shown.gid) == (7, 8)
    after = _inodes(path)
    if what == "exchange":
        assert (after["f"], after["g"]) == (before["g"], before["f"])
    if what == "rename over a file":
        assert after["g"] == before["f"]
        assert os.path.exists(path / "orphans" / str(before["g"])), "an open file goes on"
    if what == "rename over a directory":
        assert after["e2"] == before["e"]
    if what == "link":
        assert after["n"] == after["f"]


before_now = 10**18 * 1.1


def _kill_after(patch: pytest.MonkeyPatch, system: tuple[str, ...], count: int) -> None:
    """The daemon dies right after the `count`-th of these system calls that it makes."""
    made = 0

    def wrapped(real: Callable[..., object], name: str) -> Callable[..., object]:
        def run(*args: object, **kwargs: object) -> object:
            nonlocal made
            result = real(*args, **kwargs)
            if name != "open" or args[0] == b"n":
                made += 1
                if made == count:
                    raise KilledError
            return result

        return run

    for name in system:
        if name == "renameat2":
            patch.setattr(names_module, name, wrapped(renameat2, name))
        else:
            patch.setattr(os, name, wrapped(getattr(os, name), name))


@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("fails", [False, True])
def test_a_directory_is_the_containers_before_it_is_changed(
    tmp_path: Path, what: str, fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who is killed right after the change has noted it, though nobody may send the call again."""
    call, (_, name), _, system = CALLS[what]
    _prepared(tmp_path / "s")
    with opened(tmp_path / "s", taking_over=True) as store:
        parent = at(store, "d")
        at(store, "h2")
        assert parent.record is not None
        parent.record.flags &= ~NAMES
        noted: list[int] = []

        def told(real: Callable[..., object], *args: object, **kwargs: object) -> object:
            if {b"n", *name.split(b"/")} & set(args):
                noted.append(parent.record.flags & NAMES)
                if fails:
                    raise OSError(errno.EIO, "the disk is broken")
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            first = system[0]
            place, real = (names_module, renameat2) if first == "renameat2" else (os, getattr(os, first))
            patch.setattr(place, first, partial(told, real))
            try:
                call(store, parent)
            except OSError:
                assert fails
        assert noted
        assert all(noted)
        assert bool(parent.record.flags & NAMES) != fails


def test_both_directories_of_a_rename_are_the_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepared(tmp_path / "s")
    with opened(tmp_path / "s", taking_over=True) as store:
        both = [at(store, path).record for path in ("d", "d/e")]
        for record in both:
            assert record is not None
            record.flags &= ~NAMES
        real, noted = os.rename, [0]

        def told(*args: Any, **kwargs: Any) -> None:
            noted[:] = [record.flags & NAMES for record in both if record is not None]
            real(*args, **kwargs)

        monkeypatch.setattr(os, "rename", told)
        store.names.rename(at(store, "d"), b"f", at(store, "d/e"), b"f", 0)
    assert noted == [NAMES, NAMES]


def test_a_directory_that_cannot_be_replaced_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _prepared(tmp_path / "s")
    before = _inodes(tmp_path / "s")
    with opened(tmp_path / "s", taking_over=True) as store:
        parent = at(store, "d")

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, "the disk is broken")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", fail)
            with pytest.raises(OSError, match="broken"):
                store.names.rename(parent, b"e", parent, b"e2", 0)
        assert _inodes(tmp_path / "s") == before
        assert at(store, "d/e").ino == before["e"]


@pytest.mark.parametrize("what", ["create", "mkdir", "mknod", "symlink", "link"])
def test_what_was_never_sent_before_fails_as_ever(tmp_path: Path, what: str) -> None:
    """A second call of a program is not a call that is sent again."""
    call, _, _, _ = CALLS[what]
    _prepared(tmp_path / "s")
    with opened(tmp_path / "s") as store:
        call(store, at(store, "d"))
    with opened(tmp_path / "s", taking_over=True) as store, pytest.raises(FileExistsError):
        call(store, at(store, "d"))


@in_trio
async def test_notes_of_intents_do_not_pile_up(tmp_path: Path) -> None:
    with opened(tmp_path / "s") as store:
        populate(store, store.tree.node(ROOT))
        root = store.tree.node(ROOT)
        await store.checkpoint(in_thread)
        for _ in range(25_000):
            store.names.symlink(root, b"l", b"to", 0, 0)
            node = store.names.unlink(root, b"l")
            assert node is not None
            node.lookups = 0
            store.names.release(node)
        await store.checkpoint(in_thread)
        state = tmp_path / "s" / "state"
        assert sum(log.stat().st_size for log in state.glob("recent-*")) < 100_000
