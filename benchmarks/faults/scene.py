"""Two hosts, their agents, a container that counts for a client, and one migration with one injury: a cell.

The container goes where the last migration has left it, so the hosts change their roles from cell to cell.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.faults.gate import DIRECTORY, Gate
from benchmarks.faults.injuries import Injury
from benchmarks.faults.points import SOURCE, Point
from benchmarks.faults.watcher import WITNESS, Side, Watcher
from benchmarks.lab import bundle, tls
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from benchmarks.lab.node import LabError
from migrator import local
from migrator.core.errors import AgentUnavailable, MigrationUnknown, MigratorError

NAME: Final = "redis"
PORT: Final = 7878
STATE: Final = Host.data / "migrator"
SOCKET: Final = "/run/migrator/agent.sock"
LOG: Final = Host.data / "agent.log"
JOURNAL_MIB: Final = 4
CONTAINERS_MIB: Final = 1024

# What is promised: so long after an injury is over, at the latest, the one copy answers its client; and so long after
# it, nothing of the migration is left to do. Generous for a machine that does other things, and below the client's
# patience (benchmarks.lab.client.SILENCE_SECONDS).
ANSWER_SECONDS: Final = 25.0
SETTLE_SECONDS: Final = 90.0
REACH_SECONDS: Final = 60.0  # to a point, from the start
NOTICE_SECONDS: Final = 30.0  # what an injury that lasts is given to be noticed
REPLIES: Final = 20

# Nothing that runs in it needs these: hundreds of migrations move the root, and its size is not what is tried.
_UNUSED: Final = ("usr/share", "var/lib/dpkg", "var/cache", "usr/lib/apt", "usr/sbin", "usr/lib/systemd")
_ENDED: Final = ("done", "rolled-back", "")
_AT_REST: Final = ("detached", "left", "discarded", "")


class Agent:
    """An agent on a host."""

    def __init__(self, host: Host) -> None:
        """Not started yet."""
        self.host = host
        self._process: subprocess.Popen[str] | None = None
        self.gate = Gate(host.path_of(str(DIRECTORY)))

    @property
    def address(self) -> str:
        """For the other."""
        return f"{self.host.address}:{PORT}"

    @property
    def alive(self) -> bool:
        """Whether it has not been killed."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """It answers when this returns."""
        words = [sys.executable, "-m", "benchmarks.faults.agent", "agent", "--listen", self.address]
        words += ["--state", str(STATE), "--socket", SOCKET, *tls.options(self.host)]
        repository = str(Path(__file__).resolve().parents[2])
        self._process = self.host.popen(
            ["sh", "-c", f"exec {shlex.join(words)} 2>>{LOG}"],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": repository},
        )
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            if "listens" not in lines.readline():
                raise LabError(f"the agent on {self.host.name} does not start: {self.log()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def call(self, op: str, **arguments: Any) -> Iterator[Mapping[str, Any]]:
        """Its replies."""
        return local.call(self.host.path_of(SOCKET), op, **arguments)

    def phase(self, migration: str) -> str:
        """Where a migration stands on this side; empty: nothing is known of it."""
        try:
            *_, reply = self.call("status", migration=migration)
        except MigrationUnknown:
            return ""
        known = reply["migrations"][0]
        return f"{known['phase']}, active" if known["active"] else str(known["phase"])

    def log(self) -> str:
        """What it said."""
        return self.host.path_of(LOG).read_text(errors="replace")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one cell."""

    point: str
    injury: str
    reached: bool
    problems: tuple[str, ...]
    ended: str  # "moved" or "stayed"
    answered: float  # seconds from the end of the injury to the client's replies
    settled: float  # and until nothing was left to do
    standstill: float  # the longest time in which neither copy acted

    @property
    def passed(self) -> bool:
        """Whether all promises were kept."""
        return self.reached and not self.problems


class Events(threading.Thread):
    """Follows `migrate` as the command line does, until it ends or the agent does."""

    def __init__(self, agent: Agent, target: str) -> None:
        """Start it."""
        super().__init__(daemon=True)
        self._agent, self._target = agent, target
        self.migration = ""
        self.why = ""  # it failed, as its command says
        self.noticed = threading.Event()  # something is in its way, or it has ended
        self._read, self._write = os.pipe()
        self.start()

    def fileno(self) -> int:
        """Readable at its end."""
        return self._read

    def run(self) -> None:
        """See threading.Thread."""
        options = {"remove_source": True}
        try:
            for reply in self._agent.call("migrate", container=NAME, target=self._target, options=options):
                event = reply.get("event", {})
                self.migration = event.get("migration", self.migration)
                if event.get("event") in ("failed", "waiting", "error", "result"):
                    self.noticed.set()
        except (MigratorError, OSError, ValueError) as error:
            self.why = str(error)  # the agent was killed, perhaps: its journal knows
        finally:
            self.noticed.set()
            os.close(self._write)

    def close(self) -> None:
        """Wait for it."""
        self.join(SETTLE_SECONDS)
        os.close(self._read)


class Scene:
    """A context manager; on exit all is gone."""

    source: Agent  # where the container is
    target: Agent
    stopped: Agent  # the one that stands at the point

    def __init__(self) -> None:
        """Nothing yet."""
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Hosts, agents, container, client."""
        with ExitStack() as stack:
            lab = stack.enter_context(Lab())
            hosts = [lab.host(name) for name in "ab"]
            tls.install(hosts)
            for host in hosts:
                for place, mib in ((STATE / "journal", JOURNAL_MIB), (STATE / "containers", CONTAINERS_MIB)):
                    host.run(["mkdir", "-p", place])
                    host.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "faults", place])
            self.source, self.target = Agent(hosts[0]), Agent(hosts[1])
            self.stopped = self.source
            for agent in (self.source, self.target):
                stack.callback(agent.gate.close)
                agent.start()
            words = ["bash", "-c", WITNESS, "witness", *bundle.REDIS]
            self.container = bundle.make(hosts[0], NAME, words, data_mib=8)
            hosts[0].run(["rm", "-rf", *(self.container.rootfs / path for path in _UNUSED)])
            (hosts[0].path_of(self.container.rootfs) / "srv/ticks").touch()
            self.container.start()
            self.container.wait_port(bundle.PORT)
            self._counting = lab.host("c")
            self._client = self._count()
            stack.callback(lambda: self._client.__exit__(None, None, None))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove all of it."""
        self._stack.__exit__(kind, error, traceback)

    def _count(self) -> CounterClient:
        client = CounterClient(self._counting, self.container.network.address, bundle.PORT, pause=0.005)
        client.wait_replies(REPLIES)
        return client

    def side(self, name: str) -> Agent:
        """By "source" or "target"."""
        return self.source if name == SOURCE else self.target

    def disks(self, side: str) -> list[str]:
        """Inside the host: what is full when that side's disk is. A source's container has a disk of its own."""
        return [str(STATE / "journal"), *([] if side == SOURCE else [str(STATE / "containers")])]

    def watch(self) -> Watcher:
        """Both sides of the next migration."""
        return Watcher(*(self._watched(agent.host) for agent in (self.source, self.target)))

    def _watched(self, host: Host) -> Side:
        places = (self.container.rootfs, STATE / "containers" / NAME / "store/data")
        containers = Path(f"/proc/{host.pid}/root")  # past the mount on the host's directory, which is a tmpfs there
        roots = [host.path_of(places[0]), containers / str(places[1]).lstrip("/")]
        return Side(host, NAME, lambda: roots)

    def cell(self, point: Point, injury: Injury) -> Outcome:
        """One migration, with one injury at one point, to its end."""
        self.stopped = self.side(point.side)
        connections = self._client.report.connections
        with self.watch() as watcher:
            self.stopped.gate.want(point.name)
            events = Events(self.source, self.target.address)
            try:
                reached = self.stopped.gate.wait(REACH_SECONDS, events.fileno())
                if reached:
                    injury.hurt(self)
                self.stopped.gate.open()
                if injury.lasts:
                    events.noticed.wait(NOTICE_SECONDS)
                injury.mend(self)
                over = time.monotonic()
                problems, ended, answered, settled = self._end(events, watcher, over)
            finally:
                self.stopped.gate.open()
                events.close()
        if not reached:
            problems.append(f"the point was not reached: {events.why or 'the migration ended before'}")
        problems += list(watcher.problems())
        problems += self._client_problems(connections, injury)
        if ended == "moved":
            self.source, self.target = self.target, self.source
        problems += [f"left on {self.target.host.name}: {line}" for line in remains(self.target.host)]
        return Outcome(point.name, injury.name, reached, tuple(problems), ended, answered, settled, watcher.standstill)

    def _end(self, events: Events, watcher: Watcher, over: float) -> tuple[list[str], str, float, float]:
        """Wait until one copy answers and nothing is left to do."""
        problems: list[str] = []
        if not watcher.wait(lambda source, target: source.acting != target.acting, ANSWER_SECONDS):
            problems.append(f"no copy acts {ANSWER_SECONDS:.0f} s after the injury was over")
        try:
            self._client.wait_replies(REPLIES, ANSWER_SECONDS)
        except LabError:
            problems.append(f"the client has no answer {ANSWER_SECONDS:.0f} s after the injury was over")
        answered = time.monotonic() - over
        deadline = over + SETTLE_SECONDS
        while True:
            with suppress(AgentUnavailable):
                here, there = self.source.phase(events.migration), self.target.phase(events.migration)
                if here in _ENDED and there in _AT_REST:
                    break
            if time.monotonic() > deadline:
                problems.append(f"after {SETTLE_SECONDS:.0f} s the source is '{here}', the target '{there}'")
                break
            time.sleep(0.05)
        ended = "moved" if here == "done" else "stayed"
        expected = (ended == "stayed", ended == "moved")
        if not watcher.wait(lambda source, target: (source.acting, target.acting) == expected, ANSWER_SECONDS):
            problems.append(f"it has {ended}, and does not act there")
        return problems, ended, answered, time.monotonic() - over

    def _client_problems(self, connections: int, injury: Injury) -> Iterator[str]:
        report = self._client.report
        wrong = [text for text in report.errors if "MISCONF" not in text]
        if wrong:
            yield f"the client saw: {wrong[0]}"
        if report.connections != connections and not injury.starves:
            yield "the client's connection broke"
        if report.errors:  # a new one, for it tells of the first few alone
            self._client.__exit__(None, None, None)
            try:
                self._client = self._count()
            except LabError as error:
                yield f"a new client has no answer: {error}"
