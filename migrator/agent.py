"""Composition root of the agent: the only place where adapters are made and put together."""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import structlog

from migrator import logs, tls, together
from migrator.clock import SystemClock
from migrator.core import limits
from migrator.core.address import join_address, parse_address
from migrator.core.argv import RuntimeCommand, Tls
from migrator.core.draining import First
from migrator.core.errors import CannotListen, MigratorError, Refused
from migrator.core.plan import Options
from migrator.disk import VoyfsDisk
from migrator.drain import Drain, Wish
from migrator.holder import Holder, TargetPorts
from migrator.hooks import ProgramHooks
from migrator.inspector import HostInspector
from migrator.journal import FileJournal
from migrator.local import LocalServer, Reply
from migrator.metrics import MetricsServer
from migrator.migrations import Here, Migrations
from migrator.network import VethNetwork
from migrator.peer import GrpcPeer
from migrator.preparation import SourcePorts
from migrator.returning import Returns
from migrator.runc import OciRuntime
from migrator.server import PeerServer, Servicer
from voyfs.core.bandwidth import MOST
from voyfs.core.metrics import Family

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line gives."""

    listen: str
    state: Path
    socket: Path
    material: Tls | None
    runtime: RuntimeCommand
    voyfs: tuple[str, ...]
    metrics: str = ""  # HOST:PORT to answer Prometheus at; empty: nowhere
    hooks: Path | None = None  # directory of the operator's programs
    bandwidth: int = 0  # bytes a second that all hydrations to this host take together; 0: no limit


class Agent:
    """Everything of one host, put together."""

    def __init__(self, settings: Settings) -> None:
        """Raises MigratorError where something is missing; nothing runs yet."""
        try:
            host, port = parse_address(settings.listen)
        except ValueError as error:
            raise CannotListen(f"--listen: {error}", remedy="give an address of this host") from None
        if settings.material is not None:
            tls.check(settings.material)
        tls.require_secure(host, settings.material)
        run = settings.socket.parent
        run.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._material = settings.material
        self._host = host
        self._clock = SystemClock()
        self._runtime = OciRuntime(settings.runtime, run, settings.material)
        self._disk = VoyfsDisk(settings.voyfs, settings.material, settings.state)
        self._disk.limit(settings.bandwidth)
        network = VethNetwork()
        journal = FileJournal(settings.state / "journal")
        inspector = HostInspector(settings.material)
        hooks = ProgramHooks(settings.hooks)
        self._holder = Holder(
            TargetPorts(self._runtime, network, self._disk, self._clock, journal, inspector, hooks),
            PurePosixPath(settings.state),
        )
        self._migrations = Migrations(
            SourcePorts(self._runtime, network, self._disk, self._clock, inspector, hooks, self._holder),
            journal,
            self._holder,
            self._connect,
            self._here,
        )
        self._local = LocalServer(settings.socket, self._handle)
        self._returns = Returns(self._migrations, journal, self._connect)
        servicer = Servicer(self._holder, self._migrations.outcome_of, self._returns.give_back)
        self._metrics: MetricsServer | None = None
        try:
            if settings.metrics:
                self._metrics = MetricsServer(settings.metrics, self._families)
            self._server = PeerServer(host, port, settings.material, servicer)
        except BaseException:
            self._local.stop()
            raise

    @property
    def address(self) -> str:
        """Where other agents reach this one."""
        return join_address(self._host, self._server.port)

    def start(self) -> None:
        """Pick up what was left, then answer."""
        self._disk.end_strays(self._migrations.exports())
        self._holder.recover()
        self._server.start()
        self._local.start()
        if self._metrics is not None:
            self._metrics.start()
        self._migrations.recover()
        threading.Thread(target=self._migrations.ask_around, name="asking", daemon=True).start()
        threading.Thread(target=self._migrations.sweep, name="sweeping", daemon=True).start()

    def stop(self) -> None:
        """Migrations before commit go back; the others go on when the agent starts again."""
        self._clock.stop()
        self._migrations.join(limits.STOP_SECONDS)
        self._local.stop()
        if self._metrics is not None:
            self._metrics.stop()
        self._server.stop()

    def _families(self) -> list[Family]:
        return self._migrations.tally.families(self._holder.moves.holds())

    def _connect(self, target: str) -> GrpcPeer:
        try:
            host, port = parse_address(target)
        except ValueError as error:
            raise MigratorError(str(error), remedy="name the target as HOST or HOST:PORT") from None
        return GrpcPeer(host, port, self._material)

    def _here(self, peer: str) -> Here:
        """An agent that listens on all addresses is reached by the one that leads to the peer."""
        host = self._host
        if host in ("0.0.0.0", "::"):
            host = _address_towards(parse_address(peer)[0]) or host
        return Here(host, join_address(host, self._server.port))

    def _handle(self, request: dict[str, Any]) -> Iterator[Reply]:
        """Operations of the local socket."""
        match request["op"]:
            case "migrate" if "group" in request:
                names, options = request["group"], Options(**request.get("options", {}))
                migrations = self._migrations.start_group(names, request["target"], options)
                yield from ({"event": event} for event in together.follow(self._migrations, names, migrations))
                yield {}
            case "migrate":
                migration = self._migrations.start(
                    request["container"], request["target"], Options(**request.get("options", {}))
                )
                yield from ({"event": event} for event in self._migrations.follow(migration))
                yield {}
            case "check":
                options = Options(**request.get("options", {}))
                yield {"survey": self._migrations.check(request["container"], request["target"], options)}
            case "drain":
                wish = Wish(
                    tuple(dict.fromkeys(request["targets"])),
                    Options(**request.get("options", {})),
                    First(request["first"]),
                    int(request["parallel"]),
                )
                drain = Drain(self._migrations, self._runtime, self._holder.moves, self._clock, wish)
                yield from ({"event": event} for event in drain.run())
                yield {}
            case "bandwidth":
                rate = request["rate"]
                if type(rate) is not int or not 0 <= rate < MOST:
                    raise Refused("a rate is a whole number of bytes a second")
                self._disk.limit(rate)
                yield {}
            case "abort":
                yield {"migration": self._migrations.abort(request["migration"])}
            case "rollback":
                yield from ({"event": event} for event in self._returns.roll_back(request["migration"]))
                yield {}
            case "follow":
                migration = request["migration"] or self._migrations.newest()
                yield from ({"event": event} for event in self._migrations.follow(migration))
                yield {}
            case "status" if request.get("migration"):
                yield {"migrations": [self._migrations.describe(request["migration"])]}
            case "status":
                yield {"agent": self.address, "migrations": self._migrations.all()}
            case "list":
                yield {"containers": self._runtime.containers(), "migrations": self._migrations.all()}
            case other:
                raise MigratorError(f"unknown operation {other!r}")


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT; call it in the main thread."""
    logs.configure()
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    agent = Agent(settings)
    agent.start()
    print(f"agent listens on {agent.address}", file=logs.Quiet(sys.stdout), flush=True)
    over.wait()
    log.info("stopping")
    agent.stop()


def _address_towards(host: str) -> str | None:
    """This host's address on the way to another."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(place)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return None
