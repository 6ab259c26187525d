"""Containers that are moved while clients use them: redis, and PostgreSQL with more of a database than it buffers."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.lab import postgresql
from benchmarks.lab.container import Container
from benchmarks.lab.node import LabError
from benchmarks.stage import BIN, Event, Stage
from benchmarks.warm.rates import SECONDS, Rates, rates
from voyfs.core.limits import WORKING_SET_EXTENTS
from voyfs.rpc.pagecache import cached_extents

REPLIES: Final = 500  # of redis, before the migration, and after it
WARM_SECONDS: Final = 60.0  # of PostgreSQL's load, before the migration
END_SECONDS: Final = 60.0
SHARED_BUFFERS: Final = "128MB"  # as PostgreSQL comes
# pgbench's own transaction, but most accounts that it uses lie close together, as if they were the recent ones: 95 % of
# them in the middle quarter. Drawn evenly, they would make all of the database the working set.
SCRIPT: Final = """
\\set aid random_gaussian(1, 100000 * :scale, 8)
\\set bid random(1, 1 * :scale)
\\set tid random(1, 10 * :scale)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = :tid;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = :bid;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (:tid, :bid, :aid, :delta, CURRENT_TIMESTAMP);
END;
"""


@dataclass(frozen=True)
class Sample:
    """One migration of a container with clients at work; bytes."""

    application: str
    disk_bytes: int
    working_set_bytes: int  # in the source's page cache right before
    demand_bytes: int
    demand_fetches: int
    fetched_bytes: int  # demand and background
    downtime_s: float
    hydration_s: float
    load: float  # of the machine, a minute's average before
    rates: Rates | None = None  # where the client tells them

    @property
    def share(self) -> float:
        """Of the working set, on demand."""
        return self.demand_bytes / self.working_set_bytes


class Database(Stage):
    """A PostgreSQL whose page cache is as cold as after a restart of its host."""

    def __init__(self, scale: int) -> None:
        """SCALE: of pgbench, some 15 MiB each."""
        super().__init__(disk_mib=0)
        self.scale = scale

    def start_container(self) -> Container:
        """Make it, fill it, and start it again."""
        self.container = postgresql.make(self.a, "postgresql", shared_buffers=SHARED_BUFFERS)
        self._start()
        self.client.fill(self.scale)
        postgresql.stop(self.container)
        self.a.run(["sync", "-f", self.container.bundle])
        forget(self.a.path_of(self.container.rootfs))
        self._start()
        return self.container

    def _start(self) -> None:
        self.container.start()
        self.container.wait_port(postgresql.PORT)

    @property
    def client(self) -> postgresql.Client:
        """On its own host."""
        return postgresql.Client(self.c, self.container.network.address)


def redis(disk_mib: int) -> Sample:
    """On hosts of its own; DISK_MIB of data files beside it."""
    load = os.getloadavg()[0]
    with Stage(disk_mib) as stage:
        stage.start_container()
        forget(stage.a.path_of(stage.container.rootfs))
        stage.start_agents()
        with stage.count() as client:
            client.wait_replies(REPLIES)
            working_set = cached(stage.a.path_of(stage.container.rootfs))
            *_, last = stage.migrate("--warm", "--no-verify")  # which reads all of the source's disk
            client.wait_replies(REPLIES)
            seen = client.stop()
        if not seen.unbroken:
            raise LabError(f"the client was disturbed: {seen.errors}")
        return _sample("redis", stage, working_set, last, load)


def database(scale: int) -> Sample:
    """Likewise PostgreSQL, with pgbench's tables of SCALE."""
    load = os.getloadavg()[0]
    options = ("--progress-timestamp", "-s", str(scale))
    with Database(scale) as stage:
        stage.start_container()
        stage.start_agents()
        with tempfile.TemporaryFile("w+") as out, stage.client.bench(*options, script=SCRIPT, out=out) as pgbench:
            time.sleep(WARM_SECONDS)
            working_set = cached(stage.a.path_of(stage.container.rootfs))
            begun = resumed = time.time()
            for last in stage.migrate("--warm", "--no-verify"):
                if last["event"] == "opened":
                    resumed = time.time()
            done = max(time.time(), resumed + SECONDS)
            time.sleep(done - time.time() + SECONDS + 2)
            postgresql.end(pgbench)
            status = pgbench.wait(END_SECONDS)
            out.seek(0)
            said = out.read()
        if status != 0 or "number of failed transactions: 0 " not in said:
            raise LabError(f"pgbench failed with status {status}: {said[-1000:]}")
        return _sample("postgresql", stage, working_set, last, load, rates(said, begun, resumed, done))


def _sample(
    application: str, stage: Stage, working_set: int, last: Event, load: float, measured: Rates | None = None
) -> Sample:
    """What the target's mount tells after a migration that ended with the event LAST."""
    if last["event"] != "result":
        raise LabError(f"the migration failed: {last.get('error')}\n{stage.log_of(stage.b)}")
    done = stage.b.run([BIN / "voyfs", "status", stage.moved.mountpoint, "--json"])
    status = json.loads(done.stdout)
    names = ("demand_bytes", "demand_fetches", "fetched_bytes")
    timeline = last["result"]["timeline"]
    return Sample(
        application=application,
        disk_bytes=status["bytes"]["total"],
        working_set_bytes=working_set,
        downtime_s=timeline["downtime_s"],
        hydration_s=next(phase["seconds"] for phase in timeline["phases"] if phase["phase"] == "hydrate"),
        load=load,
        rates=measured,
        **{name: status[name] for name in names},
    )


def cached(tree: Path) -> int:
    """Bytes of the tree's files that lie in the page cache, in whole chunks."""
    return sum(
        extent.length
        for file in _files(tree)
        for extent in cached_extents(file, os.fstat(file).st_size, WORKING_SET_EXTENTS)
    )


def forget(tree: Path) -> None:
    """Drop from the page cache what only came there because the tree was just made: all that nobody maps."""
    for file in _files(tree):
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)


def _files(tree: Path) -> Iterator[int]:
    """Each regular file, open for reading as long as it is looked at."""
    for directory, _, names in os.walk(tree):
        for name in names:
            path = Path(directory, name)
            with contextlib.suppress(FileNotFoundError):  # the container removes files, too
                if stat.S_ISREG(path.lstat().st_mode):
                    with path.open("rb") as file:
                        yield file.fileno()
