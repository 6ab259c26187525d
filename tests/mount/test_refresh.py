"""A warm mount is brought early and corrected by what changed: on real mounts, with a source that goes on meanwhile."""

import mmap
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import MakePair
from tests.rpc.support import keep_cached
from tests.support.compare import snapshot
from tests.support.programs import Pair, run, until
from voyfs.core.extents import Extent

SEED = 20261126

# The source takes note of what happens every 20 ms: of something that happens elsewhere, most probably, by then.
AWAY_SECONDS = 0.2


def a_tree(source: Path) -> None:
    """40 directories with 10 files each, all in the page cache."""
    for number in range(40):
        directory = source / f"d{number % 8}" / f"e{number}"
        directory.mkdir(parents=True)
        for file in range(10):
            (directory / f"f{file}").write_bytes(b"%d %d" % (number, file) * 100)


def warmed(made: Pair) -> None:
    """All names and all that lies in the source's memory are brought."""
    made.mount.ask("prefetch", paths=[], names=60, working_set=60)


def refreshed(made: Pair, *again: str) -> dict[str, Any]:
    return made.mount.ask("refresh", again=list(again))


def assert_equal(made: Pair) -> None:
    """What the mount shows, warm and then with everything, is what the source has."""
    assert snapshot(made.path) == snapshot(made.source)
    made.mount.hydrate()
    assert made.mount.ask("verify")["report"]["differences"] == []
    made.mount.unmount()
    assert "checkpoint fails" not in made.mount.log.read_text()


def test_names_and_the_working_set_are_brought_early(pair: MakePair) -> None:
    made = pair("--warm", prepare=a_tree)
    assert made.mount.status()["tracked"]
    done = run("prefetch", made.path, "--names", "--working-set")
    assert (done.returncode, done.stderr) == (0, "")
    status = made.mount.status()
    assert status["fetched_bytes"] == status["bytes"]["present"] == status["working_set_bytes"] > 0
    refresh = refreshed(made)
    assert (refresh["changed"], refresh["looked_at"], refresh["listed"]) == (0, 0, "")
    made.server.stop()
    for here, there in zip(sorted(made.path.rglob("*")), sorted(made.source.rglob("*")), strict=True):
        assert here.relative_to(made.path) == there.relative_to(made.source)
        assert here.lstat().st_mtime_ns == there.lstat().st_mtime_ns


def test_only_what_changed_is_looked_at(pair: MakePair) -> None:
    made = pair("--warm", prepare=a_tree)
    warmed(made)
    (made.source / "d0" / "e0" / "f0").write_bytes(b"other")
    (made.source / "d1" / "e1" / "new").write_bytes(b"new")
    (made.source / "d2" / "e2" / "f0").unlink()
    done = run("refresh", made.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5 entries had changed on the source, of 6 that were looked at\n"
    assert_equal(made)


def test_every_kind_of_change_is_caught(pair: MakePair) -> None:
    made = pair("--warm", prepare=a_tree)
    warmed(made)
    source, away = made.source, made.source.parent / "away"
    # a directory gets another place, and something else its own
    (source / "d0" / "e0" / "f1").write_bytes(b"before the move")
    os.rename(source / "d0", source / "d1" / "moved")
    (source / "d1" / "moved" / "e0" / "f2").write_bytes(b"after the move")
    (source / "d0").mkdir()
    (source / "d0" / "e0").write_bytes(b"a file now")
    # one is changed where it cannot be seen, and comes back
    os.rename(source / "d2", away)
    (away / "e2" / "f0").write_bytes(b"changed out of sight")
    time.sleep(AWAY_SECONDS)
    os.rename(away, source / "d2")
    # two take each other's place
    os.rename(source / "d3" / "e3", source / "d3" / "third")
    os.rename(source / "d3" / "e11", source / "d3" / "e3")
    os.rename(source / "d3" / "third", source / "d3" / "e11")
    # attributes
    os.chmod(source, 0o750)
    os.chmod(source / "d4", 0o700)
    os.chown(source / "d4" / "e4" / "f0", 5, 6)
    os.setxattr(source / "d4" / "e4" / "f1", "user.x", b"1")
    os.setxattr(source / "d5", "user.y", b"2")
    # kinds
    (source / "d6" / "e6" / "f0").unlink()
    (source / "d6" / "e6" / "f0").mkdir()
    shutil.rmtree(source / "d7")
    (source / "d7").symlink_to("d2")
    os.mkfifo(source / "fifo")
    assert refreshed(made)["listed"] == ""
    assert_equal(made)


def a_second_name(source: Path) -> None:
    os.link(source / "d0" / "e0" / "f0", source / "d1" / "linked")


def a_name_outside(source: Path) -> None:
    outside = source.parent / "outside"
    os.link(source / "d0" / "e0" / "f0", outside)
    outside.write_bytes(b"changed through a name that is not exported")


@pytest.mark.parametrize("change", [a_second_name, a_name_outside])
def test_a_file_with_several_names_has_everything_listed(pair: MakePair, change: Callable[[Path], None]) -> None:
    made = pair("--warm", prepare=a_tree)
    warmed(made)
    change(made.source)
    assert refreshed(made)["listed"] == "a file with several names has changed"
    assert_equal(made)


def test_a_file_of_several_names_that_only_seems_unchanged_is_not_believed(pair: MakePair) -> None:
    def linked(source: Path) -> None:
        a_tree(source)
        os.link(source / "d0" / "e0" / "f0", source / "d1" / "linked")

    made = pair("--warm", prepare=linked)
    warmed(made)
    os.close(os.open(made.source / "d1" / "linked", os.O_RDWR))  # it could have been written into
    done = refreshed(made)
    assert (done["changed"], done["listed"]) == (2, "a file with several names has changed")
    assert_equal(made)


def test_a_source_that_changes_all_the_time_is_caught_up_with(pair: MakePair) -> None:
    """Anything, in any order, while names and content are brought."""
    chance = random.Random(SEED)
    made = pair("--warm", prepare=a_tree)

    def some_path(*kinds: str) -> Path:
        return chance.choice([p for p in made.source.rglob("*") if p.name[0] in kinds])

    def change(number: int) -> None:
        match chance.randrange(6):
            case 0:
                some_path("f").write_bytes(os.urandom(chance.randrange(2000)))
            case 1:
                (some_path("d", "e") / f"f-new{number}").write_bytes(b"%d" % number)
            case 2:
                some_path("f").unlink()
            case 3:
                os.chmod(some_path("d", "e", "f"), chance.choice([0o700, 0o755, 0o711]))
            case 4:
                os.rename(some_path("e"), some_path("d") / f"e-moved{number}")
            case _:
                os.rename(some_path("f"), some_path("e") / f"f-moved{number}")

    for round_ in range(6):
        for number in range(15):
            change(100 * round_ + number)
        names, used = chance.choice([(60, 0), (0, 60), (60, 60), (0.05, 0.05)])
        made.mount.ask("prefetch", paths=[], names=names, working_set=used)
    for number in range(15):
        change(1000 + number)
    done = refreshed(made)
    assert (bool(done["changed"]), done["listed"]) == (True, "")
    assert_equal(made)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_stores_through_a_mapping_are_never_missed(pair: MakePair, when: str) -> None:
    """A process maps the file and stores into it before, or also after it is to be fetched, or only then."""
    made = pair("--warm", prepare=a_tree)
    path = made.source / "d0" / "e0" / "f0"

    def mapped() -> mmap.mmap:
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), 0)

    mapping = mapped() if when != "after" else None
    if mapping is not None:
        mapping[:6] = b"before"
    keep_cached(path, [Extent(0, path.stat().st_size)])
    warmed(made)
    fetched = (made.mount.store / "data" / "d0" / "e0" / "f0").stat().st_blocks > 0
    assert fetched == (mapping is None)  # it is left alone while it may change
    if mapping is None:
        mapping = mapped()
    if when != "before":
        mapping[:6] = b"stored"
    done = refreshed(made, "d0/e0/f0")
    assert done["listed"] == ""
    assert (made.path / "d0" / "e0" / "f0").read_bytes() == path.read_bytes()
    mapping.close()
    assert_equal(made)


def test_a_source_that_was_started_again_has_everything_listed(pair: MakePair) -> None:
    made = pair("--warm", prepare=a_tree)
    warmed(made)
    (made.source / "d0" / "e0" / "f0").write_bytes(b"before")
    made.server.restart()
    (made.source / "d0" / "e0" / "f1").write_bytes(b"after")
    done = refreshed(made)
    assert "started again" in done["listed"]
    assert (done["changed"], done["looked_at"]) == (2, 448)
    assert_equal(made)


def test_a_daemon_that_was_replaced_lists_everything(pair: MakePair) -> None:
    made = pair("--warm", prepare=a_tree)
    warmed(made)
    made.mount.kill_daemon()
    made.mount.settled()
    (made.source / "d0" / "e0" / "f0").write_bytes(b"changed")
    done = refreshed(made)
    assert "was not asked" in done["listed"]
    assert_equal(made)


def test_hydrating_ends_the_watch(pair: MakePair) -> None:
    made = pair("--warm", prepare=a_tree)
    assert made.mount.status()["tracked"]
    made.mount.hydrate()
    assert not made.mount.status()["tracked"]
    process = made.server.process
    assert process is not None

    def watches() -> bool:
        with suppress(FileNotFoundError):  # closed meanwhile
            return any("fanotify" in os.readlink(each) for each in Path(f"/proc/{process.pid}/fd").iterdir())
        return True

    until(lambda: not watches())
