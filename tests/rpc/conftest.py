"""A served tree, for tests that need no more than that."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rpc.support import serving
from voyfs.rpc.server import BlockServer


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    (path / "dir").mkdir(parents=True)
    (path / "file").write_bytes(os.urandom(300_000))
    for number in range(20):
        (path / "dir" / str(number)).write_bytes(b"%d" % number * 100)
    return path


@pytest.fixture
def server(export: Path) -> Iterator[BlockServer]:
    with serving(export) as running:
        yield running
