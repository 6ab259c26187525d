"""Leaving the source behind: when everything is local, nothing depends on it any more."""

import os
from pathlib import Path

from tests.support.programs import exported, mounted, run, served


def test_what_is_local_needs_no_source_to_be_called_so(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_bytes(os.urandom(300_000))
    with served(tmp_path / "source") as server:
        address = server.address
        with mounted(address, tmp_path / "mount", tmp_path / "store") as mount:
            mount.hydrate()
            mount.unmount()
    with mounted(address, tmp_path / "mount", tmp_path / "store") as mount:  # nobody serves any more
        assert mount.hydrate()["phase"] == "hydrated"
        assert mount.ask("detach")["status"]["phase"] == "detached"
        assert (tmp_path / "mount/file").read_bytes() == (tmp_path / "source/file").read_bytes()


def test_a_store_inside_its_own_mount_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "mount").mkdir()
    with served(tmp_path / "source") as server:
        done = run("mount", server.address, tmp_path / "mount", "--store", tmp_path / "mount/store", "--daemon")
    assert done.returncode == 10
    assert "lie in each other" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list((tmp_path / "mount").iterdir())


def test_unmounting_survives_a_store_that_was_moved(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with exported(tmp_path) as pair:
        (tmp_path / "store").rename(tmp_path / "elsewhere")
        done = run("unmount", pair.path)
        assert done.returncode == 0, done.stderr
