"""The whole way of a mount: lazy, hydrated, verified, detached, gone; a plain directory stays."""

from pathlib import Path

from tests.mount.conftest import MakePair
from tests.support.compare import assert_same, times
from tests.support.programs import mounted, mounted_at, processes_of


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
