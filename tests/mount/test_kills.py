"""Several processes at random work, and daemons and supervisors killed under them at random points.

Each process keeps a plain directory beside its part of the mount as the model of what was acknowledged: no call may
fail that succeeds there, nothing may be missing in the end, nothing be carried out twice.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.mount.conftest import MakePair
from tests.support.compare import snapshot
from tests.support.programs import SECONDS, Mount, children, exported, mounted, until
from tests.support.trees import make_tree

WORKERS = 4
PROJECT = Path(__file__).parents[2]


def _prepare(source: Path) -> None:
    """A tree for each worker, and the same beside the mount."""
    source.mkdir()
    for number in range(WORKERS):
        make_tree(source / str(number), number)
        make_tree(source.parent / f"plain{number}", number)


class Workers:
    """The processes of one run."""

    def __init__(self, mount: Path, base: Path, seed: int, *options: str) -> None:
        self._base = base
        self.processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.mount.worker", mount / str(number), base / f"plain{number}"),
                    *(str(seed * WORKERS + number), *options),
                ],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(WORKERS)
        ]

    def steps(self) -> list[int]:
        """How many steps each has done."""
        paths = [self._base / f"plain{number}.steps" for number in range(WORKERS)]
        return [path.stat().st_size if path.exists() else 0 for path in paths]

    def work(self, steps: int) -> None:
        """Returns when all of them together have done so many more, or one has ended."""
        goal = sum(self.steps()) + steps
        until(lambda: sum(self.steps()) >= goal or any(process.poll() is not None for process in self.processes))

    def all_work(self) -> None:
        """Returns when each has done one more, or one has ended."""
        before = self.steps()
        until(
            lambda: (
                all(now > then for now, then in zip(self.steps(), before, strict=True))
                or any(process.poll() is not None for process in self.processes)
            )
        )

    def finish(self) -> list[list[str]]:
        """Ends them; what each says."""
        said = []
        for number, process in enumerate(self.processes):
            out, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, f"worker {number} saw what it must not see"
            said.append(json.loads(out))
        return said


@contextmanager
def working(mount: Path, base: Path, seed: int, *options: str) -> Iterator[Workers]:
    workers = Workers(mount, base, seed, *options)
    try:
        yield workers
    finally:
        for process in workers.processes:
            process.kill()
            process.communicate()


def _compare(mount: Path, base: Path, unknown: list[list[str]]) -> None:
    """Every worker's tree is as its model, but for the paths of a call that was never answered."""
    for number, paths in enumerate(unknown):
        here, there = snapshot(mount / str(number)), snapshot(base / f"plain{number}")
        for path in (here.keys() | there.keys()) - {os.fsencode(path) for path in paths}:
            assert here.get(path) == there.get(path), f"{path!r} of worker {number}"


def _kill_at_start(mount: Mount, old: int) -> None:
    """Kills the daemon that follows `old` before it serves anybody."""
    until(lambda: [pid for pid in children(mount.supervisor.pid) if pid != old])
    for pid in children(mount.supervisor.pid):
        os.kill(pid, signal.SIGKILL)


def test_several_processes_do_not_notice_that_daemons_are_killed(
    pair: MakePair, tmp_path: Path, torture: bool, seed: int
) -> None:
    choose = random.Random(seed)
    made = pair("--warm", prepare=_prepare)
    kills = 240 if torture else 12
    with working(made.path, tmp_path, seed) as workers:
        for number in range(kills):
            if number == kills // 2:
                made.mount.ask("hydrate")
            workers.work(choose.randrange(1, 60))
            daemon = made.mount.daemon
            os.kill(daemon, signal.SIGKILL)
            if choose.random() < 0.2:
                _kill_at_start(made.mount, daemon)
            workers.all_work()
            made.mount.settled()
        for process in workers.processes:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        said = workers.finish()
    _compare(made.path, tmp_path, said)
    made.mount.hydrate()
    assert made.mount.ask("verify")["report"]["differences"] == []
    made.mount.unmount()
    _compare(made.mount.store / "data", tmp_path, said)
    assert not os.listdir(made.mount.store / "orphans")


def test_a_store_mounted_again_has_all_that_was_acknowledged(tmp_path: Path, torture: bool, seed: int) -> None:
    """Supervisor and daemon killed at once: only what each process was doing at that moment is open."""
    choose = random.Random(seed)
    for number in range(20 if torture else 2):
        base = tmp_path / str(number)
        base.mkdir()
        _prepare(base / "source")
        with exported(base, *(("--warm",) if number % 2 else ())) as pair:
            with working(pair.path, base, seed * 100 + number, "mortal") as workers:
                workers.work(choose.randrange(50, 300))
                pair.mount.kill_all()
                said = workers.finish()
            with mounted(pair.server.address, pair.path, pair.mount.store) as again:
                _compare(again.path, base, said)
                again.hydrate()
                open_ends = {f"{worker}/{path}" for worker, paths in enumerate(said) for path in paths}
                different = again.ask("verify")["report"]["differences"]
                assert not [each for each in different if each[0] not in open_ends], open_ends
                _compare(again.path, base, said)
                again.unmount()
            assert not os.listdir(pair.mount.store / "orphans")
