"""A few cells of the fault matrix, one of each kind; `make faults` walks all of them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.faults import cells
from benchmarks.faults.scene import Scene
from benchmarks.faults.watcher import Look, Watcher, acting

CELLS = [
    ("target full", "prefetch"),
    ("voyfs server", "prefetch"),
    ("criu", "criu pre-resume"),
    ("target agent", "criu pre-restore"),
    ("link out", "restore"),
    ("source agent", "decide"),
    ("target agent", "release"),
    ("both agents", "destroy"),
]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Scene() as scene:
        yield scene


@pytest.mark.parametrize(("injury", "point"), CELLS)
def test_one_copy_answers_again_and_nothing_is_left(scene: Scene, injury: str, point: str) -> None:
    [cell] = cells([point], [injury])
    outcome = scene.cell(*cell)
    assert outcome.reached
    assert outcome.problems == ()


def test_the_watcher_counts_the_tasks_of_the_container_alone(tmp_path: Path) -> None:
    (tmp_path / "freezer.state").write_text("THAWED\n")
    ours = os.readlink("/proc/self/ns/pid")
    with subprocess.Popen(["sleep", "600"]) as task:
        (tmp_path / "cgroup.procs").write_text(f"{task.pid}\n")
        assert acting(tmp_path, "pid:[1]")
        assert not acting(tmp_path, ours), "it is of the host's own namespace"
        (tmp_path / "freezer.state").write_text("FROZEN\n")
        assert not acting(tmp_path, "pid:[1]")
        (tmp_path / "freezer.state").write_text("THAWED\n")
        criu = tmp_path / "criu"
        shutil.copy("/bin/sh", criu)
        with subprocess.Popen([criu, "-c", "sleep 600; :"]) as parent:
            (tmp_path / "cgroup.procs").write_text(f"{task.pid}\n{parent.pid}\n")
            assert not acting(tmp_path, "pid:[1]"), "CRIU is at work in it"
            children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
            while not (child := children.read_text().strip()):
                time.sleep(0.01)
            (tmp_path / "cgroup.procs").write_text(f"{task.pid}\n{child}\n")
            assert not acting(tmp_path, "pid:[1]"), "a program of CRIU's is"
            parent.kill()
            parent.wait()
            assert acting(tmp_path, "pid:[1]"), "whose program it was is gone"
            os.kill(int(child), signal.SIGKILL)
        task.kill()
        os.waitid(os.P_PID, task.pid, os.WEXITED | os.WNOWAIT)
        (tmp_path / "cgroup.procs").write_text(f"{task.pid}\n")
        assert not acting(tmp_path, "pid:[1]"), "it has ended"


def seen(*pairs: tuple[tuple[bool, int], tuple[bool, int]]) -> list[str]:
    """What a watcher says of these looks: acting, and bytes of ticks, of either side."""
    watcher = Watcher(None, None)  # type: ignore[arg-type]
    watcher.looks = [(Look(at, *source), Look(at, *target)) for at, (source, target) in enumerate(pairs)]
    return list(watcher.problems())


def test_the_watcher_sees_what_must_not_be() -> None:
    runs, stands = (True, 10), (False, 20)
    assert seen((runs, (False, -1)), (stands, (False, 20)), ((False, 20), (True, 30))) == []
    assert seen((runs, (False, -1)), (stands, (False, 20)), ((True, 30), (False, -1))) == []
    assert "acted at once" in seen((runs, (True, 10)))[0]
    assert "both copies wrote" in seen((stands, (False, -1)), (stands, (False, 30)), ((True, 40), (False, -1)))[0]
    drained = (stands, (False, -1)), ((True, 20), (False, -1)), ((False, 30), (False, 30)), ((True, 40), (False, -1))
    assert seen(*drained) == [], "it was let go for a moment right after it stood still"
    assert seen() == ["nobody looked"]
