"""What a migration finds out, and lays down, before anything is touched: the checks of both ends, and the order.

It must not change anything on either host: `migrator check` will be this and no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from migrator.core import bundle, preflight
from migrator.core.errors import Unsupported
from migrator.core.identity import Identity
from migrator.core.plan import Container, Options, Order
from migrator.core.preflight import SourceFacts
from migrator.ports import Clock, Disk, Network, Peer, Runtime


@dataclass(frozen=True, slots=True)
class SourcePorts:
    """What the source's side acts through."""

    runtime: Runtime
    network: Network
    disk: Disk
    clock: Clock


@dataclass(frozen=True, slots=True)
class Task:
    """One migration to drive."""

    migration: str
    container: str
    options: Options
    listen_host: str  # where this host serves the container's files: an address that the target reaches
    source_agent: str  # HOST:PORT of this host's agent


@dataclass(frozen=True, slots=True)
class Subject:
    """A container that may be moved, as it was found."""

    container: Container
    identity: Identity | None
    files: Mapping[str, bytes]  # by destination: contents of read-only host files


def examine(task: Task, ports: SourcePorts, peer: Peer) -> Subject:
    """Check both ends; raises the first check's error that failed."""
    container = ports.runtime.inspect(task.container)
    contents = ports.runtime.host_files(container)
    sizes = {path: len(content) for path, content in contents.items()}
    identity, network_problem = None, ""
    try:
        identity = ports.network.examine(container)
    except Unsupported as error:
        network_problem = error.message
    host = ports.runtime.facts("source", ports.disk.problem())
    facts = SourceFacts(host=host, bind_sizes=sizes, network_problem=network_problem)
    preflight.raise_first(preflight.source_rows(container, facts))
    found = peer.probe(container.name, identity)
    preflight.raise_first(preflight.target_rows(container, identity, found))
    files = {bind.destination: contents[bind.source] for bind in bundle.bind_mounts(container.config, sizes)}
    return Subject(container, identity, files)


def order_for(task: Task, ports: SourcePorts, subject: Subject, export: str) -> Order:
    """What the target is asked for; EXPORT is where the container's files are served."""
    container = subject.container
    fetch, look_up = ports.runtime.warm(container)
    return Order(
        migration=task.migration,
        container=container.name,
        config=container.config,
        identity=subject.identity,
        export=export,
        fetch=tuple(fetch),
        look_up=tuple(look_up),
        files=subject.files,
        pipes=container.pipes,
        image_bytes=preflight.image_bytes(container.memory_bytes),
        source_agent=task.source_agent,
    )
