"""The whole way of a mount: lazy, hydrated, verified, detached, gone; a plain directory stays."""

import os
from pathlib import Path

from tests.mount.conftest import MakePair
from tests.mount.test_network import some_files
from tests.support.compare import assert_same, times
from tests.support.programs import mounted, mounted_at, processes_of, run


def test_a_tree_looks_the_same_lazy_hydrated_detached_and_as_a_plain_directory(pair: MakePair, tmp_path: Path) -> None:
    made = pair("--warm")
    original = times(made.source)
    assert times(made.path) == original
    assert_same(made.path, made.source)
    made.mount.hydrate()
    assert_same(made.path, made.source)
    assert times(made.path) == original
    report = made.mount.ask("verify")["report"]
    assert report["difference_count"] == 0
    assert report["equal"] == len(original)
    made.mount.ask("detach")
    made.server.stop()
    assert_same(made.path, made.source)
    made.mount.unmount()
    data = made.mount.store / "data"
    assert_same(data, made.source)
    assert {path: seen.mtime_ns for path, seen in times(data).items()} == {
        path: seen.mtime_ns for path, seen in original.items()
    }
    assert not mounted_at(made.path)
    assert not processes_of(made.mount.store)


def test_a_detached_store_mounts_again_without_its_source(pair: MakePair, tmp_path: Path) -> None:
    made = pair()
    made.mount.hydrate()
    made.mount.ask("detach")
    made.mount.unmount()
    made.server.stop()
    with mounted(made.server.address, made.path, made.mount.store) as again:
        assert again.status()["phase"] == "detached"
        assert_same(made.path, made.source)


def test_verify_counts_where_bytes_came_from_and_names_what_differs(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    size = sum(path.stat().st_size for path in made.source.rglob("*") if path.is_file())
    (made.path / "big").read_bytes()
    (made.path / "mine").write_bytes(b"m" * 1000)
    fetched = made.mount.status()["fetched_bytes"]
    made.mount.kill_daemon()
    (made.path / "small").write_bytes(b"SMALL")
    made.mount.hydrate()
    report = made.mount.ask("verify")["report"]
    assert report["difference_count"] == 0
    assert report["cached_bytes"] == fetched
    assert report["fetched_bytes"] == size - fetched - len(b"SMALL")
    assert report["written_bytes"] == len(b"SMALL")
    assert (report["written"], report["created"]) == (1, 1)
    big = made.mount.store / "data" / "big"
    with big.open("r+b") as behind_its_back:
        behind_its_back.seek(5_000_000)
        behind_its_back.write(b"damage")
    os.utime(big, ns=(os.stat(made.source / "big").st_mtime_ns,) * 2)
    (made.mount.store / "data" / "dir" / "f").chmod(0o600)
    done = run("verify", made.path)
    assert done.returncode == 1
    assert "2 differences" in done.stdout
    assert "big: its content differs" in done.stdout
    assert "dir/f: its mode is" in done.stdout
