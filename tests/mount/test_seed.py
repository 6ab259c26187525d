"""Local trees that have what the source has: it is taken from there, checked, and never anything else."""

import json
import mmap
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mount.conftest import MakePair
from tests.mount.test_background import free_address, scrape
from tests.mount.test_bad_input import clean, refused
from tests.support.compare import snapshot
from tests.support.programs import exported, mounted, run, served, until
from tests.support.trees import make_tree
from voyfs.core.limits import CHUNK, MIB, SEEDS
from voyfs.syscalls import mount, umount

FILES = 8


def large(source: Path) -> None:
    (source / "d").mkdir(parents=True)
    for number in range(FILES):
        (source / "d" / f"f{number}").write_bytes(os.urandom(MIB - number))


def total(source: Path) -> int:
    return sum(path.stat().st_size for path in source.rglob("*") if path.is_file())


def copied(source: Path, seed: Path) -> Path:
    """A copy of `source`, of which nothing but the content is the same."""
    shutil.copytree(source, seed, symlinks=True, copy_function=shutil.copyfile)
    return seed


def test_what_a_seed_has_does_not_cross_the_network(tmp_path: Path) -> None:
    large(tmp_path / "source")
    seed = copied(tmp_path / "source", tmp_path / "seed")
    address = free_address()
    with exported(tmp_path, "--seed", seed, "--metrics", address) as made:
        status = made.mount.hydrate()
        assert (status["fetched_bytes"], status["seed_bytes"]) == (0, total(made.source))
        assert scrape(address)['voyfs_bytes_total{origin="seed"}'] == total(made.source)
        shown = run("status", made.path).stdout
        assert "from seeds" in shown
        assert "8.0 MiB, not fetched" in shown
        report = json.loads(run("verify", made.path, "--json").stdout)
        assert (report["difference_count"], report["equal_bytes"]) == (0, total(made.source))
        assert report["cached_bytes"] == total(made.source)
        assert snapshot(made.path) == snapshot(made.source)
        made.mount.unmount()
    assert snapshot(tmp_path / "store" / "data") == snapshot(tmp_path / "source")


def test_a_tree_with_everything_is_the_source_s_to_the_last_attribute(tmp_path: Path) -> None:
    make_tree(tmp_path / "source")
    make_tree(tmp_path / "seed")  # the same, but for what no two trees share
    make_tree(tmp_path / "other", seed=1)
    before = snapshot(tmp_path / "seed")
    with exported(tmp_path, "--seed", tmp_path / "other", "--seed", tmp_path / "seed") as made:
        status = made.mount.hydrate()
        assert status["seed_bytes"] > 5 * MIB
        assert status["fetched_bytes"] < 2 * MIB  # parts of chunks that are holes in part
        assert made.mount.ask("verify")["report"]["difference_count"] == 0
        assert snapshot(made.path) == snapshot(made.source)
        sparse = [path.relative_to(made.source) for path in made.source.rglob("sparse*")]
        assert sparse
        for path in sparse:
            assert (tmp_path / "store" / "data" / path).stat().st_blocks <= (made.source / path).stat().st_blocks
    assert snapshot(tmp_path / "seed") == before


def test_only_what_differs_is_fetched_chunk_by_chunk(tmp_path: Path) -> None:
    large(tmp_path / "source")
    seed = copied(tmp_path / "source", tmp_path / "seed") / "d"
    with (seed / "f0").open("r+b") as file:
        file.seek(3 * CHUNK + 1000)
        file.write(b"other")
    os.truncate(seed / "f1", 5 * CHUNK + 100)
    with (seed / "f2").open("ab") as file:
        file.write(b"more")
    (seed / "f3").unlink()
    (seed / "f4").write_bytes(bytes(MIB))  # zeros are never offered
    with exported(tmp_path, "--seed", tmp_path / "seed") as made:
        status = made.mount.hydrate()
        last = total(made.source) - (FILES - 1) * MIB
        assert last < MIB
        size = {number: MIB - number for number in range(FILES)}
        missing = CHUNK + (size[1] - 5 * CHUNK) + size[3] + size[4]
        assert status["fetched_bytes"] == missing
        assert status["seed_bytes"] == total(made.source) - missing
        assert snapshot(made.path) == snapshot(made.source)


def test_two_seeds_make_up_for_each_other(tmp_path: Path) -> None:
    large(tmp_path / "source")
    seeds = [copied(tmp_path / "source", tmp_path / name) for name in ("one", "two")]
    for number, seed in enumerate(seeds):
        for name in range(number, FILES, 2):
            with (seed / "d" / f"f{name}").open("r+b") as file:
                file.write(b"other")
        (seed / "d" / f"f{number}").unlink()
    with exported(tmp_path, "--seed", seeds[0], "--seed", seeds[1]) as made:
        status = made.mount.hydrate()
        # in place 0 of each file one of the two differs; f0 is in the second alone, f1 in the first
        assert status["fetched_bytes"] == 0
        assert snapshot(made.path) == snapshot(made.source)


def test_who_reads_needs_not_wait_for_bytes_that_are_here(pair: MakePair, tmp_path: Path) -> None:
    large(tmp_path / "same")
    made = pair("--warm", "--seed", tmp_path / "same", prepare=lambda source: copied(tmp_path / "same", source))
    for number in range(FILES):
        assert (made.path / "d" / f"f{number}").read_bytes() == (made.source / "d" / f"f{number}").read_bytes()
    status = made.mount.status()
    assert (status["fetched_bytes"], status["seed_bytes"]) == (0, total(made.source))
    assert status["demand_fetches"]


def test_a_limit_holds_no_seed_back(tmp_path: Path) -> None:
    large(tmp_path / "source")
    seed = copied(tmp_path / "source", tmp_path / "seed")
    with exported(tmp_path, "--seed", seed, "--bandwidth", "1") as made:  # else it took weeks
        assert made.mount.hydrate()["fetched_bytes"] == 0


def test_nothing_outside_a_seed_and_nothing_special_is_read(tmp_path: Path) -> None:
    """All of it would match; whoever opens the fifo hangs."""
    large(tmp_path / "source")
    for name in ("in", "at"):
        (tmp_path / "source" / name).mkdir()
        (tmp_path / "source" / name / "f").write_bytes(os.urandom(CHUNK))
    outside = copied(tmp_path / "source", tmp_path / "outside")
    seed = tmp_path / "seed"
    (seed / "d").mkdir(parents=True)
    (seed / "in").symlink_to(outside / "in")
    (seed / "at").mkdir()
    (seed / "d" / "f0").symlink_to(outside / "d" / "f0")
    (seed / "d" / "f1").symlink_to("../../outside/d/f1")
    os.mkfifo(seed / "d" / "f2")
    os.mknod(seed / "d" / "f3", 0o020600, os.makedev(1, 5))
    (seed / "d" / "f4").mkdir()
    os.link(outside / "d" / "f5", seed / "d" / "f5")  # the one that counts
    mount(os.fsencode(outside / "at"), os.fsencode(seed / "at"), b"", 4096, b"")  # MS_BIND
    try:
        with exported(tmp_path, "--seed", seed) as made:
            status = made.mount.hydrate()
            assert status["seed_bytes"] == MIB - 5
            assert status["fetched_bytes"] == total(made.source) - (MIB - 5)
            assert snapshot(made.path) == snapshot(made.source)
            made.mount.unmount()
    finally:
        umount(os.fsencode(seed / "at"), 0)


@contextmanager
def disturbed(files: list[Path]) -> Iterator[threading.Event]:
    """`files` keep changing within the block, back and forth, through mappings that no version tells of."""
    over, begun = threading.Event(), threading.Event()

    def disturb() -> None:
        opened = [path.open("r+b") for path in files]
        maps = [mmap.mmap(file.fileno(), 0) for file in opened]
        right = [bytes(mapped) for mapped in maps]
        while not over.is_set():
            for mapped, content in zip(maps, right, strict=True):
                for at in range(0, len(content), CHUNK):
                    mapped[at : at + 4096] = bytes(4096)
                for at in range(0, len(content), CHUNK):
                    mapped[at : at + 4096] = content[at : at + 4096]
            begun.set()
        for each in (*maps, *opened):
            each.close()

    thread = threading.Thread(target=disturb)
    thread.start()
    begun.wait()
    try:
        yield over
    finally:
        over.set()
        thread.join()


def test_a_seed_that_changes_while_it_is_read_gives_no_wrong_byte(tmp_path: Path) -> None:
    large(tmp_path / "source")
    for number in range(FILES):
        (tmp_path / "source" / f"more{number}").write_bytes(os.urandom(4 * MIB))
    seed = copied(tmp_path / "source", tmp_path / "seed")
    files = [path for path in seed.rglob("*") if path.is_file()]
    with disturbed(files), exported(tmp_path, "--seed", seed) as made:
        status = made.mount.hydrate()
        assert status["seed_bytes"] + status["fetched_bytes"] == total(made.source)
        assert made.mount.ask("verify")["report"]["difference_count"] == 0
        assert snapshot(made.path) == snapshot(made.source)


def test_daemons_and_mounts_that_follow_use_seeds_or_do_without(tmp_path: Path) -> None:
    large(tmp_path / "source")
    seed = copied(tmp_path / "source", tmp_path / "seed")

    def content(number: int) -> None:
        assert (made.path / "d" / f"f{number}").read_bytes() == (made.source / "d" / f"f{number}").read_bytes()

    with exported(tmp_path, "--warm", "--seed", seed) as made:
        content(0)
        made.mount.kill_daemon()
        made.mount.settled()
        content(1)
        status = made.mount.status()
        assert (status["fetched_bytes"], status["seed_bytes"]) == (0, MIB - 1)
        made.mount.unmount()
        store, address = made.mount.store, made.server.address
        with mounted(address, made.path, store, "--warm") as again:
            content(2)
            status = again.status()
            assert (status["fetched_bytes"], status["seed_bytes"]) == (MIB - 2, 0)
            again.unmount()
        with mounted(address, made.path, store, "--seed", seed) as again:
            status = again.hydrate()
            assert (status["fetched_bytes"], status["seed_bytes"]) == (0, total(made.source) - 3 * MIB + 3)
            assert again.ask("verify")["report"]["difference_count"] == 0
            again.unmount()


def test_a_seed_that_vanishes_is_ignored_and_named_once(tmp_path: Path) -> None:
    large(tmp_path / "source")
    seed = copied(tmp_path / "source", tmp_path / "seed")
    with exported(tmp_path, "--warm", "--seed", seed) as made:
        shutil.rmtree(seed)
        assert (made.path / "d" / "f0").read_bytes() == (made.source / "d" / "f0").read_bytes()
        said = [f'"path": "{seed}"', "it was removed"]
        until(lambda: all(word in made.mount.log.read_text() for word in said))
        assert made.mount.hydrate()["seed_bytes"] == 0
        assert made.mount.log.read_text().count("seed-ignored") == 1
        made.mount.kill_daemon()  # the next one does not find it at all
        made.mount.settled()
        until(lambda: made.mount.log.read_text().count("seed-ignored") == 2)
        assert snapshot(made.path) == snapshot(made.source)


def test_a_hydration_that_is_killed_goes_on_from_the_seed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "big").write_bytes(os.urandom(64 * MIB))
    seed = copied(tmp_path / "source", tmp_path / "seed")
    with exported(tmp_path, "--seed", seed) as made:
        until(lambda: made.mount.status()["bytes"]["present"])
        os.kill(made.mount.bulk(), signal.SIGKILL)
        made.mount.kill_daemon()
        made.mount.settled()
        assert made.mount.hydrate()["fetched_bytes"] == 0
        assert made.mount.ask("verify")["report"]["difference_count"] == 0


def test_what_is_no_seed(tmp_path: Path) -> None:
    large(tmp_path / "source")
    point, store = tmp_path / "mount", tmp_path / "store"
    (point / "inside").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(point / "inside")
    with served(tmp_path / "source") as server:
        arguments = ("mount", server.address, point, "--store", store)
        for daemon in ((), ("--daemon",)):
            for seed, word in (
                ("missing", "No such file"),
                ("file", "not a directory"),
                ("mount", "in the mount point"),
                ("link", "in the mount point"),
                ("store/data", "No such file"),
            ):
                refused(18, str(tmp_path / seed), word, arguments=(*arguments, "--seed", tmp_path / seed, *daemon))
                clean(store, point)
        many = []
        for number in range(SEEDS + 1):
            (tmp_path / f"s{number}").mkdir()
            many += ["--seed", tmp_path / f"s{number}"]
        refused(18, f"more than {SEEDS}", arguments=(*arguments, *many))
        other = tmp_path / "other"
        with mounted(server.address, point, store):
            for seed in (point, point / "d"):
                where = (other, "--store", tmp_path / "second", "--seed", seed)
                other.mkdir(exist_ok=True)
                refused(18, str(seed), "data directory of its store", arguments=("mount", server.address, *where))
            # that one may be incomplete: what is not in it looks like zeros, which nobody takes for data
            (point / "d" / "f0").read_bytes()
            with mounted(server.address, other, tmp_path / "second", "--seed", store / "data") as second:
                second.hydrate()
                assert snapshot(other) == snapshot(tmp_path / "source")
                second.unmount()
