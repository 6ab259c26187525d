"""What the source uses comes first: on real mounts, with the real page cache."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mount.conftest import MakePair
from tests.rpc.support import keep_cached
from tests.support.programs import Pair, run, until
from voyfs.core.extents import Extent
from voyfs.core.limits import BULK_JOB_BYTES, CHUNK, MIB

HOT = [Extent(3 * CHUNK, 5 * CHUNK), Extent(17 * CHUNK, 18 * CHUNK)]


def some_hot(source: Path) -> None:
    """64 MiB in 8 files, of which the same 3 chunks each are cached, and a small file."""
    (source / "a" / "deep").mkdir(parents=True)
    for number in range(8):
        (source / "a" / f"f{number}").write_bytes(os.urandom(8 * MIB))
        keep_cached(source / "a" / f"f{number}", HOT)
    (source / "a" / "deep" / "small").write_bytes(b"small")
    keep_cached(source / "a" / "deep" / "small", [Extent(0, 5)])


HOT_BYTES = 8 * sum(extent.length for extent in HOT) + 5


def read_hot(made: Pair) -> None:
    for number in range(8):
        expected = (made.source / "a" / f"f{number}").read_bytes()
        with open(made.path / "a" / f"f{number}", "rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
            for extent in HOT:
                assert os.pread(file.fileno(), extent.length, extent.start) == expected[extent.start : extent.stop]


def test_the_working_set_comes_by_range_and_nothing_else(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_hot)
    done = run("prefetch", made.path, "--working-set")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3.0 MiB" in done.stdout
    status = made.mount.status()
    assert status["working_set_bytes"] == status["fetched_bytes"] == status["bytes"]["present"] == HOT_BYTES
    read_hot(made)
    assert made.mount.status()["demand_fetches"] == 0


def test_the_background_brings_it_before_the_rest(pair: MakePair) -> None:
    made = pair("--bandwidth", "1", prepare=some_hot)  # a byte a second: one job, then nothing for weeks
    until(lambda: made.mount.status()["working_set_bytes"] == HOT_BYTES)
    assert run("bandwidth", made.path, "4M").returncode == 0
    until(lambda: made.mount.status()["bytes"]["present"] >= BULK_JOB_BYTES + HOT_BYTES)
    read_hot(made)
    status = made.mount.status()
    assert (status["demand_fetches"], status["phase"]) == (0, "hydrating")


def test_how_much_prefetch_brings_is_known_before_it_has_come(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_hot)
    paths = [f"/a/f{number}" for number in range(8)]
    os.listdir(made.path / "a")
    read_hot(made)  # 3 chunks of each are here already
    made.server.stop()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(made.mount.ask, "prefetch", paths=[*paths, *paths, "/a/deep"])
        until(lambda: made.mount.status()["prefetch"]["files"]["total"] == 8)
        waiting = made.mount.status()["prefetch"]
        assert (waiting["bytes"], waiting["files"]["present"]) == ({"present": HOT_BYTES - 5, "total": 64 * MIB}, 0)
        made.server.start()
        assert asked.result(60)["brought"] == 2 * len(paths) + 1
    assert made.mount.status()["prefetch"] | {"eta_s": None} == {
        "bytes": {"present": 64 * MIB, "total": 64 * MIB},
        "files": {"present": 8, "total": 8},
        "eta_s": None,
    }
    made.mount.ask("prefetch", paths=["/a/deep/small", "/missing"])
    assert made.mount.status()["prefetch"]["bytes"] == {"present": 5, "total": 5}, "of what was asked for last"


def test_prefetch_needs_something_to_bring(tmp_path: Path) -> None:
    done = run("prefetch", tmp_path)
    assert done.returncode == 2
    assert "--working-set" in done.stderr
