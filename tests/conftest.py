"""Options of all tests, and what ends a test that hangs in the kernel."""

import errno
import faulthandler
import os
import random
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from voyfs.handshake import FILE_SYSTEM
from voyfs.mounts import mounts
from voyfs.syscalls import MNT_FORCE, umount

# So long before pytest-timeout ends a test: its signal does not end a call on a file system whose
# daemon never answers.
EARLIER_SECONDS = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="also the long runs: more seeds, more steps, more kills")
    parser.addoption("--seed", type=int, default=None, help="the one seed to run random workloads with")


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether the long runs are wanted."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture
def seed(request: pytest.FixtureRequest, torture: bool) -> int:
    """What random workloads are made from: in the long runs another one each time, which a failure names."""
    asked = request.config.getoption("--seed")
    if asked is not None:
        return int(asked)
    return random.randrange(1 << 16) if torture else 1


@pytest.fixture(autouse=True)
def hanging_calls_end(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Aborts this run's mounts when a test takes far too long: its calls fail, and so does the test."""
    marker = request.node.get_closest_marker("timeout")
    asked = request.config.getoption("timeout") or request.config.getini("timeout")
    seconds = float(marker.args[0] if marker else asked) - EARLIER_SECONDS
    timer = threading.Timer(seconds, _abort, [tmp_path_factory.getbasetemp()])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _abort(base: Path) -> None:
    print("a test takes too long: its mounts are aborted", file=sys.stderr)
    faulthandler.dump_traceback(all_threads=True)
    for path, kind, _ in mounts():
        if kind == FILE_SYSTEM and path.is_relative_to(base):
            try:
                umount(os.fsencode(path), MNT_FORCE)
            except OSError as error:
                if error.errno != errno.EBUSY:  # that is what an aborted mount in use says
                    print(f"{path}: {error}", file=sys.stderr)
