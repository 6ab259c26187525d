"""The scene of the file system's benchmarks, as far as it needs no hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import PurePosixPath

import pytest

from benchmarks.fs.data import SHORT
from benchmarks.fs.scene import LOOPBACK, Scene, voyfs_server_name


def test_no_two_servers_have_one_port_also_when_one_was_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(SHORT, quiet=0)
    monkeypatch.setattr(scene, "a", None, raising=False)
    monkeypatch.setattr(scene, "tree", PurePosixPath("/trees").joinpath)

    def start(name: str, words: Sequence[str | os.PathLike[str]]) -> None:
        scene._servers[name] = subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr(scene, "_serve", start)
    scene.voyfs_server("first", LOOPBACK)
    second = scene.voyfs_server("second", LOOPBACK)
    scene.stop(voyfs_server_name("first", LOOPBACK))
    try:
        ports = {scene.voyfs_server("first", LOOPBACK), second, scene.voyfs_server("third", LOOPBACK)}
    finally:
        for name in list(scene._servers):
            scene.stop(name)
    assert len(ports) == 3
