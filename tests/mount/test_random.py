"""The mount against a plain directory: the same random operations, hydration racing with them."""

import os
import time
from pathlib import Path

import pytest

from tests.mount.workload import Workload
from tests.support.compare import Times, assert_same, times
from tests.support.programs import exported
from tests.support.trees import make_tree

STEPS = 500
LONG_STEPS = 4_000


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        one = metafunc.config.getoption("--seed")
        many = 200 if metafunc.config.getoption("--torture") else 4
        metafunc.parametrize("seed", range(many) if one is None else [one])


def test_random_operations_cannot_tell_the_mount_from_a_directory(seed: int, tmp_path: Path, torture: bool) -> None:
    make_tree(tmp_path / "source", seed)
    make_tree(tmp_path / "plain", seed)
    original, before = times(tmp_path / "source"), times(tmp_path / "plain")
    start = time.time_ns() - 20_000_000  # file times lag the clock by up to a tick
    steps = LONG_STEPS if torture else STEPS
    with exported(tmp_path, "--warm") as pair:
        workload = Workload(pair.path, tmp_path / "plain", seed)
        try:
            lazy = workload.choose.randrange(steps // 2)
            workload.run(lazy)
            pair.mount.ask("hydrate")
            workload.run(steps - lazy)
        finally:
            workload.finish()
        pair.mount.hydrate()
        assert_same(pair.path, tmp_path / "plain")
        _assert_times(times(pair.path), times(tmp_path / "plain"), original, before, start)
        assert pair.mount.ask("verify")["report"]["differences"] == []
        pair.mount.ask("detach")
        pair.server.stop()
        assert_same(pair.path, tmp_path / "plain")
        pair.mount.unmount()
        assert_same(pair.mount.store / "data", tmp_path / "plain")
        assert not os.listdir(pair.mount.store / "orphans")


def _assert_times(
    mount: dict[bytes, Times],
    plain: dict[bytes, Times],
    original: dict[bytes, Times],
    before: dict[bytes, Times],
    start: int,
) -> None:
    """What changed a time on the plain directory changed it on the mount, and nothing else did."""
    ctimes = {seen.ctime_ns for seen in before.values()}
    source_ctimes = {seen.ctime_ns for seen in original.values()}
    for path, expected in plain.items():
        seen = mount[path]
        if start <= expected.mtime_ns < start + 10**12:
            assert start <= seen.mtime_ns < start + 10**12, path
        else:
            assert seen.mtime_ns == expected.mtime_ns, path
        assert (expected.ctime_ns in ctimes) == (seen.ctime_ns in source_ctimes), path
