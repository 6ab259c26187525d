"""What a tracker tells of a real tree while it is changed in every way."""

import ctypes
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import until
from voyfs.core import touched
from voyfs.rpc import fanotify, tracker
from voyfs.rpc.tracker import Tracker, Untold
from voyfs.syscalls import mount, umount

MS_BIND = 4096


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """tree/ is exported, other/ lies beside it on the same file system."""
    for directory in ("tree/a/b", "tree/c", "other/d"):
        (tmp_path / directory).mkdir(parents=True)
    for file in ("tree/a/f", "tree/a/b/g", "tree/c/h", "other/d/i", "other/j"):
        (tmp_path / file).write_text(file)
    return tmp_path / "tree"


@pytest.fixture
def tracked(tree: Path) -> Iterator[Tracker]:
    root = os.open(tree, os.O_PATH | os.O_DIRECTORY)
    made = Tracker(root)
    try:
        yield made
    finally:
        made.close()
        os.close(root)


def told(tracked: Tracker, mark: bytes) -> dict[str, set[str]]:
    found, _ = tracked.end(mark)
    return {os.fsdecode(each.path): {os.fsdecode(name) for name in each.names} for each in found}


def test_every_kind_of_change_is_told_by_its_name(tree: Path, tracked: Tracker) -> None:
    mark = tracked.begin()
    (tree / "c" / "new").touch()
    (tree / "c" / "directory").mkdir()
    (tree / "c" / "link").symlink_to("x")
    os.mkfifo(tree / "c" / "fifo")
    with open(tree / "a" / "f", "r+b") as file:
        file.write(b"other")
    os.chmod(tree / "a" / "b" / "g", 0o600)
    assert told(tracked, mark) == {"a": {"f"}, "a/b": {"g"}, "c": {"directory", "fifo", "link", "new"}}
    for change in (
        lambda: os.setxattr(tree / "c" / "h", "user.x", b"1"),
        lambda: os.truncate(tree / "c" / "h", 2),
        lambda: os.utime(tree / "c" / "h", ns=(1, 1)),
        lambda: os.chown(tree / "c" / "h", 5, 5),
        lambda: os.unlink(tree / "c" / "h"),
    ):
        mark = tracked.begin()
        change()
        assert told(tracked, mark) == {"c": {"h"}}
    mark = tracked.begin()
    os.chmod(tree / "c", 0o700)
    os.chmod(tree, 0o700)
    assert told(tracked, mark) == {"c": set(), "": set()}


def test_a_file_that_was_open_for_writing_is_told_when_it_is_closed(tree: Path, tracked: Tracker) -> None:
    file = os.open(tree / "c" / "h", os.O_RDWR)
    mark = tracked.begin()
    os.close(file)
    assert told(tracked, mark) == {"c": {"h"}}


def test_a_renamed_directory_is_told_at_both_places_and_what_was_in_it_at_the_new_one(
    tree: Path, tracked: Tracker
) -> None:
    mark = tracked.begin()
    (tree / "a" / "b" / "g").write_text("before the move")
    os.rename(tree / "a" / "b", tree / "c" / "moved")
    (tree / "c" / "moved" / "after").touch()
    found = told(tracked, mark)
    assert found.pop("c/moved") == {"g", "after"}
    assert found == {"a": {"b"}, "c": {"moved"}}


def test_moves_into_the_tree_and_out_of_it_are_told(tree: Path, tracked: Tracker) -> None:
    other = tree.parent / "other"
    mark = tracked.begin()
    (other / "d" / "i").write_text("before it comes")
    os.rename(other / "d", tree / "c" / "came")
    (tree / "c" / "came" / "i").write_text("after it came")
    (tree / "a" / "f").write_text("before it goes")
    os.rename(tree / "a", other / "went")
    (other / "went" / "f").write_text("after it went")
    assert told(tracked, mark) == {"c": {"came"}, "c/came": {"i"}, "": {"a"}}


def test_the_place_of_a_directory_is_asked_for_again_after_a_move(tree: Path, tracked: Tracker) -> None:
    other = tree.parent / "other"
    mark = tracked.begin()
    group = tracked._watch
    assert group is not None
    (other / "d" / "i").write_text("now it is known to lie outside")
    until(lambda: any(not inside for inside in group._inside.values()))
    os.rename(other / "d", tree / "d")
    (tree / "d" / "i").write_text("now it does not")
    assert told(tracked, mark)["d"] == {"i"}


def test_what_happens_elsewhere_is_not_told(tree: Path, tracked: Tracker) -> None:
    other = tree.parent / "other"
    mark = tracked.begin()
    (other / "new").touch()
    (other / "j").write_text("changed")
    (tree.parent / "treelike").mkdir()
    (tree.parent / "treelike" / "x").touch()
    shutil.rmtree(other / "d")
    assert tracked.end(mark) == ([], [])


def test_a_file_with_a_name_elsewhere_is_told_by_its_inode(tree: Path, tracked: Tracker) -> None:
    outside = tree.parent / "other" / "link"
    inode = (tree / "a" / "f").stat().st_ino
    mark = tracked.begin()
    os.link(tree / "a" / "f", outside)
    assert inode in tracked.end(mark)[1]
    mark = tracked.begin()
    outside.write_text("through the other name")
    assert tracked.end(mark)[1] == [inode]
    mark = tracked.begin()
    outside.unlink()  # its count of links changes, and the time of that
    assert tracked.end(mark)[1] == [inode]


def test_changes_through_a_bind_mount_are_told(tree: Path, tracked: Tracker) -> None:
    there = tree.parent / "there"
    there.mkdir()
    mark = tracked.begin()
    mount(os.fsencode(tree / "a"), os.fsencode(there), b"none", MS_BIND, b"")
    try:
        (there / "b" / "new").touch()
        assert told(tracked, mark) == {"a/b": {"new"}}
    finally:
        umount(os.fsencode(there), 0)


def test_a_root_that_is_a_bind_mount_or_was_renamed_is_still_the_root(tree: Path) -> None:
    there = tree.parent / "there"
    there.mkdir()
    mount(os.fsencode(tree), os.fsencode(there), b"none", MS_BIND, b"")
    root = os.open(there, os.O_PATH | os.O_DIRECTORY)
    made = Tracker(root)
    try:
        mark = made.begin()
        (tree / "a" / "f").write_text("beneath")
        os.rename(tree, tree.parent / "renamed")
        (tree.parent / "renamed" / "new").touch()
        (there / "c" / "h").unlink()
        assert told(made, mark) == {"a": {"f"}, "": {"new"}, "c": {"h"}}
    finally:
        made.close()
        os.close(root)
        umount(os.fsencode(there), 0)


def test_a_mount_below_the_root_makes_it_unknown(tree: Path, tracked: Tracker) -> None:
    mark = tracked.begin()
    mount(b"none", os.fsencode(tree / "c"), b"tmpfs", 0, b"")
    try:
        with pytest.raises(Untold, match="mounted below"):
            tracked.end(mark)
        with pytest.raises(Untold, match="mounted below"):
            tracked.begin()
    finally:
        umount(os.fsencode(tree / "c"), 0)


def test_a_file_system_whose_mappings_leave_no_trace_is_not_tracked(tree: Path) -> None:
    mount(b"none", os.fsencode(tree), b"tmpfs", 0, b"")
    try:
        root = os.open(tree, os.O_PATH | os.O_DIRECTORY)
        with pytest.raises(Untold, match="tmpfs"):
            Tracker(root).begin()
        os.close(root)
    finally:
        umount(os.fsencode(tree), 0)


def test_more_than_is_kept_makes_it_unknown_and_ends_the_watch(
    tree: Path, tracked: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tracked.begin()
    monkeypatch.setattr(touched, "TOUCHED_NAMES", 2)
    for name in ("one", "two", "three"):
        (tree / name).touch()
    with pytest.raises(Untold, match="too much"):
        tracked.end(mark)
    monkeypatch.undo()
    mark = tracked.begin()  # anew
    (tree / "newer").touch()
    assert told(tracked, mark) == {"": {"newer"}}


def test_what_the_kernel_drops_makes_it_unknown(tree: Path, tracked: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker, "_NAP_SECONDS", 3600.0)  # nobody takes them meanwhile
    mark = tracked.begin()
    most = int(Path("/proc/sys/fs/fanotify/max_queued_events").read_text())
    for number in range(most + 1):
        os.close(os.open(tree / str(number), os.O_CREAT | os.O_WRONLY))
    with pytest.raises(Untold, match="than the kernel keeps"):
        tracked.end(mark)


def test_without_the_right_to_it_nothing_is_promised(
    tree: Path, tracked: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        ctypes.set_errno(1)
        return -1

    monkeypatch.setattr(fanotify._libc, "fanotify_init", refused)
    with pytest.raises(Untold, match="not permitted"):
        tracked.begin()


def test_a_mark_is_good_once_and_only_for_its_tracker(tree: Path, tracked: Tracker) -> None:
    first, second = tracked.begin(), tracked.begin()
    (tree / "new").touch()
    assert told(tracked, first) == told(tracked, second) == {"": {"new"}}
    for mark in (first, b"nobody's"):
        with pytest.raises(Untold):
            tracked.end(mark)
    assert tracked._watch is None  # nobody asks any more, so nobody pays


def test_clients_that_never_ask_again_are_bounded(tracked: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(tracker.ASKERS):
        tracked.begin()
    with pytest.raises(Untold, match="too many"):
        tracked.begin()
    monkeypatch.setattr(tracker, "ASKER_SECONDS", 0.0)
    with pytest.raises(Untold):
        tracked.end(b"nobody's")
    assert tracked._watch is None
