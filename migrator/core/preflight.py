"""Whether a migration can work, told from facts of both ends; one row a check, each failure with its remedy.

Pure: facts in, rows out. It must not look anything up. The order of the rows is the order in which they are worth
telling: what the user typed, then the container, then the hosts, then the target's names and space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from migrator.core import bundle, limits
from migrator.core.errors import MigratorError, NoSpace, NotReady, Taken, Unsupported
from migrator.core.host import Needs, Traits
from migrator.core.identity import Identity
from migrator.core.plan import Container
from migrator.core.timeline import human_bytes
from migrator.core.volumes import CHOICES, Kind, Volume


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host has. A `..._problem` is empty where all is well, else one line of what the check said."""

    name: str  # how messages call it: "source", "target"
    runtime: str  # version line; empty: not found
    runtime_program: str
    criu: str  # version line; empty: not found
    criu_problem: str
    voyfs_problem: str
    memory_free: int  # bytes, available for images
    pipe_bytes: int = 0  # the largest pipe that CRIU may make; this and the next are asked of the source alone
    lazy_pages: bool = True  # whether the runtime can leave pages to be fetched
    traits: Traits = field(default_factory=Traits)


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """The source's host, and what the container's files and network are there."""

    host: HostFacts
    network_problem: str = ""  # why the network could not be examined
    needs: Needs = field(default_factory=Needs)
    volumes: tuple[Volume, ...] = ()


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """The target's host, and what is in the way of this one container there."""

    host: HostFacts
    container_taken: bool
    directory: str  # where the container's bundle will be
    directory_taken: str  # why not: empty if it is free
    namespace_taken: bool
    port_taken: bool
    bridge_present: bool
    addresses_taken: tuple[str, ...]
    disk_free: int  # bytes on the file system of `directory`
    inodes_free: int = -1  # on the same; -1: it makes them as they are needed
    cpu_problem: str = ""  # what this CPU lacks of the source's
    missing: tuple[str, ...] = ()  # of the paths that the container needs of the host


@dataclass(frozen=True, slots=True)
class Row:
    """One check. `problem` is empty where it passed; `found` is what was looked at, where that is worth telling."""

    name: str
    host: str
    problem: str = ""
    remedy: str = ""
    error: type[MigratorError] = NotReady
    found: str = ""
    warning: bool = False  # a problem that does not keep a migration from being tried

    @property
    def ok(self) -> bool:
        """Whether it is in nobody's way."""
        return not self.problem or self.warning

    def to_json(self) -> dict[str, str]:
        """As JSON; `state` is "ok", "warning" or "fails"."""
        state = "ok" if not self.problem else "warning" if self.warning else "fails"
        return {
            "check": self.name,
            "host": self.host,
            "state": state,
            "found": self.found,
            "problem": self.problem,
            "remedy": self.remedy if self.problem else "",
            "kind": self.error.__name__ if state == "fails" else "",
        }

    def to_error(self) -> MigratorError:
        """The failure as an error."""
        return self.error(self.problem, remedy=self.remedy)


def raise_first(rows: Sequence[Row]) -> None:
    """Raise the first failed row as its error."""
    for row in rows:
        if not row.ok:
            raise row.to_error()


def image_bytes(container: Container) -> int:
    """Upper estimate of a container's images."""
    held = container.memory_bytes + container.tmpfs_bytes
    return int(held * limits.IMAGE_OVERHEAD) + limits.IMAGE_SLACK_BYTES


def _row(
    name: str, host: str, failed: bool, problem: str, remedy: str, error: type[MigratorError], found: str = ""
) -> Row:
    return Row(name, host, problem, remedy, error) if failed else Row(name, host, found=found)


def source_rows(container: Container, facts: SourceFacts) -> list[Row]:
    """What can be told without the target."""
    return [*_container_rows(container, facts), *_host_rows(facts.host, container)]


def target_rows(container: Container, identity: Identity | None, facts: TargetFacts) -> list[Row]:
    """What the target says."""
    return [*_host_rows(facts.host, container), *_name_rows(container, identity, facts), *_space_rows(facts)]


def _container_rows(container: Container, facts: SourceFacts) -> Iterator[Row]:
    name, config = container.name, container.config

    def row(check: str, failed: bool, problem: str, remedy: str) -> Row:
        return _row(check, "source", failed, problem, remedy, Unsupported)

    yield row(
        "terminal",
        bundle.has_terminal(config),
        f"container {name} has a terminal, whose other end cannot move",
        "run it detached with process.terminal false",
    )
    yield row(
        "root",
        not container.root_is_directory,
        f"the root of container {name}, {container.root}, is not a directory",
        "check root.path in its config.json",
    )
    for volume in facts.volumes:
        yield _volume_row(name, volume)
    unknown = bundle.unknown_mounts(config)
    yield row(
        "mount types",
        bool(unknown),
        f"container {name} has mounts of a type that cannot be moved: {', '.join(unknown)}",
        "remove them from its config.json",
    )
    foreign = bundle.foreign_namespaces(config)
    yield row(
        "namespaces",
        bool(foreign),
        f"container {name} shares its {', '.join(foreign)} namespace with others",
        "give it namespaces of its own; only the network's may be given by its path",
    )
    yield row("network", bool(facts.network_problem), facts.network_problem, _NETWORK_REMEDY)


def _volume_row(name: str, volume: Volume) -> Row:
    check = f"volume {volume.destination}" if volume.kind is not Kind.COPY else f"host file {volume.destination}"
    if volume.problem:
        return Row(
            check,
            "source",
            f"the bind mount at {volume.destination} of container {name} {volume.problem}",
            f"remove it, or say what is to become of it: --volume {volume.destination}={'|'.join(CHOICES)}",
            Unsupported,
            volume.text,
        )
    return Row(check, "source", found=volume.text)


_NETWORK_REMEDY = (
    "give the container a network namespace by its path (such as /run/netns/NAME) with one veth interface whose "
    "other end is plugged into a bridge"
)


def _host_rows(host: HostFacts, container: Container) -> Iterator[Row]:
    def row(check: str, failed: bool, problem: str, remedy: str, found: str = "") -> Row:
        return _row(check, host.name, failed, f"the {host.name} {problem}", remedy, NotReady, found)

    program = host.runtime_program
    yield row("runtime", not host.runtime, f"has no {program}", f"install {program} there", host.runtime)
    yield row("criu", not host.criu, "has no criu", "install CRIU there (4.0 or later), on the agent's PATH", host.criu)
    yield row(
        "criu check",
        bool(host.criu_problem),
        f"fails 'criu check': {host.criu_problem}",
        "use a CRIU that supports the running kernel; run 'criu check' there for all it says",
    )
    yield row(
        "voyfs", bool(host.voyfs_problem), f"cannot run voyfs: {host.voyfs_problem}", "install voyfs and FUSE there"
    )
    needed = image_bytes(container)
    yield _row(
        "memory",
        host.name,
        host.memory_free < needed,
        f"the {host.name} has {human_bytes(host.memory_free)} of memory left, and the images need up to "
        f"{human_bytes(needed)}",
        "free memory there",
        NoSpace,
        f"{human_bytes(host.memory_free)} free, at most {human_bytes(needed)} needed",
    )


def _name_rows(container: Container, identity: Identity | None, facts: TargetFacts) -> Iterator[Row]:
    def row(check: str, failed: bool, problem: str, remedy: str, error: type[MigratorError] = Taken) -> Row:
        return _row(check, "target", failed, problem, remedy, error)

    yield row(
        "container name",
        facts.container_taken,
        f"the target already has a container called {container.name}",
        "remove or rename that one",
    )
    yield row(
        "directory",
        bool(facts.directory_taken),
        f"the target's {facts.directory} {facts.directory_taken}",
        "remove it there if nothing needs it",
    )
    if identity is None:
        return
    yield row(
        "namespace",
        facts.namespace_taken,
        f"the target already has a network namespace at {identity.namespace}",
        "remove it there",
    )
    yield row(
        "interface", facts.port_taken, f"the target already has an interface called {identity.port}", "remove it there"
    )
    yield row(
        "address",
        bool(facts.addresses_taken),
        f"the container's address {', '.join(facts.addresses_taken)} is used on the target, by it or beside its bridge",
        "free it there",
    )
    yield row(
        "bridge",
        not facts.bridge_present,
        f"the target has no bridge called {identity.bridge}",
        "make one there, in the same network as the source's",
        NotReady,
    )


def _space_rows(facts: TargetFacts) -> Iterator[Row]:
    yield _row(
        "disk",
        "target",
        facts.disk_free < limits.STORE_BYTES,
        f"the target has {human_bytes(facts.disk_free)} left for {facts.directory}, too little even for metadata "
        f"({human_bytes(limits.STORE_BYTES)})",
        "free space there",
        NoSpace,
    )
