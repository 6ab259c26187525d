"""What a migration finds out, and lays down, before anything is touched: the checks of both ends, and the order.

It must not change anything on either host: `migrator check` is this and no more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from migrator.core import bundle, memory, preflight, suitability
from migrator.core.errors import PeerRefused, PeerUnreachable, Unsupported
from migrator.core.hook import Mode
from migrator.core.identity import Identity
from migrator.core.memory import Means, Memory
from migrator.core.plan import Container, Options, Order
from migrator.core.prediction import Link, Load, Prediction, predict
from migrator.core.preflight import Row, SourceFacts
from migrator.core.timeline import human_bytes
from migrator.core.volumes import Kind, Volume, classify, lazy
from migrator.ports import Clock, Disk, Hooks, Inspector, Network, Peer, Places, Runtime


@dataclass(frozen=True, slots=True)
class SourcePorts:
    """What the source's side acts through."""

    runtime: Runtime
    network: Network
    disk: Disk
    clock: Clock
    inspector: Inspector
    hooks: Hooks
    places: Places


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
    volumes: tuple[Volume, ...]

    @property
    def trees(self) -> list[str]:
        """Directories of the source that are served: the root, then the lazy volumes."""
        return [self.container.root, *(volume.source for volume in lazy(self.volumes))]


@dataclass(frozen=True, slots=True)
class Survey:
    """What both ends say before anything is touched; without a prediction where the target does not answer."""

    subject: Subject
    rows: tuple[Row, ...]
    memory: Memory  # how it moves
    prediction: Prediction | None

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "container": self.subject.container.name,
            "ready": all(row.ok for row in self.rows),
            "checks": [row.to_json() for row in self.rows],
            "volumes": [
                {"path": volume.destination, "source": volume.source, "kind": str(volume.kind), "text": volume.text}
                for volume in self.subject.volumes
            ],
            "memory": self.memory,
            "prediction": self.prediction.to_json() if self.prediction else None,
        }


def survey(name: str, options: Options, ports: SourcePorts, peer: Peer) -> Survey:
    """Check both ends. Raises only where there is no container to check."""
    container = ports.runtime.inspect(name)
    contents = ports.runtime.host_files(container)
    sizes = {path: len(content) for path, content in contents.items()}
    identity, network_problem = _network(container, Mode(options.network), ports)
    places = ports.inspector.places([bind.source for bind in bundle.bind_mounts(container.config, {})])
    volumes = tuple(classify(container.config, places, sizes, options.volumes))
    host = replace(ports.runtime.facts("source", ports.disk.problem()), traits=ports.inspector.traits())
    needs = ports.inspector.needs(container, volumes)
    facts = SourceFacts(host=host, network_problem=network_problem, needs=needs, volumes=volumes)
    rows = [*preflight.source_rows(container, facts), *suitability.source_rows(container, facts)]
    files = {each.destination: contents[each.source] for each in volumes if each.kind is Kind.COPY}
    subject = Subject(container, identity, files, volumes)
    asked = Memory(options.memory)
    changing = ports.inspector.changing(container)
    try:
        found = peer.probe(container.name, identity, needs)
        facts = replace(facts, host=replace(host, traits=replace(host.traits, wall=ports.clock.wall())))
        link = peer.measure()
    except (PeerUnreachable, PeerRefused) as error:
        rows.append(Row("agent", "target", error.message, error.remedy, type(error)))
        return Survey(subject, tuple(rows), asked, None)
    rows += [Row("agent", "target", found=_link_text(peer.address, link))]
    rows += [*preflight.target_rows(container, identity, found), *suitability.target_rows(container, facts, found)]
    means = Means(host.traits.features, found.host.traits.features, host.pipe_bytes, host.lazy_pages)
    rows += [_memory_row(mode, means, asked) for mode in (Memory.PRE_COPY, Memory.POST_COPY)]
    load = Load(
        container.memory_bytes,
        needs.disk_bytes,
        needs.disk_files,
        dirty_rate=changing(),
        tmpfs_bytes=container.tmpfs_bytes,
        shared_bytes=container.shared_bytes,
    )
    chosen = asked if memory.problem(asked, means)[0] else memory.choose(asked, means, link, load)
    predicted = predict(link, load, memory.still_bytes(chosen, link, load))
    return Survey(subject, tuple(rows), chosen, predicted)


def _memory_row(mode: Memory, means: Means, asked: Memory) -> Row:
    """A way that is closed is no failure unless it was ASKED for: there is always stop-copy."""
    why, remedy = memory.problem(mode, means)
    if mode is asked and why:
        return Row(f"memory: {mode}", "both", why, remedy)
    return Row(f"memory: {mode}", "both", found=f"not possible: {why}; {remedy}" if why else "possible")


def _network(container: Container, mode: Mode, ports: SourcePorts) -> tuple[Identity | None, str]:
    """The identity that the target builds, and why it cannot."""
    path = bundle.network_namespace(container.config)
    if mode is Mode.VETH:
        try:
            return ports.network.examine(container), ""
        except Unsupported as error:
            return None, error.message
    if mode is Mode.HOST:
        return None, "" if path is None else f"container {container.name} does not use the host's network"
    if path is None:
        return None, f"container {container.name} uses the host's network, which moves as --network host alone"
    if not path:
        return None, f"the runtime made the network namespace of container {container.name}"
    return Identity.bare(path), ""


def _link_text(address: str, link: Link) -> str:
    return f"{address}, {human_bytes(link.rate)}/s, a word there and back takes {link.round_trip * 1000:.1f} ms"


def order_for(task: Task, ports: SourcePorts, subject: Subject, exports: Sequence[str], mode: Memory) -> Order:
    """What the target is asked for; EXPORTS is where each of the subject's trees is served, MODE how memory moves."""
    container = subject.container
    volumes = {each.destination: each.source for each in lazy(subject.volumes)}
    fetch, look_up = ports.runtime.warm(container, volumes)
    return Order(
        migration=task.migration,
        container=container.name,
        config=container.config,
        identity=subject.identity,
        export=exports[0],
        volumes=subject.volumes,
        volume_exports=tuple(exports[1:]),
        fetch=tuple(fetch),
        look_up=tuple(look_up),
        files=subject.files,
        pipes=container.pipes,
        image_bytes=preflight.image_bytes(container),
        source_agent=task.source_agent,
        network=task.options.network,
        seeds=tuple(task.options.seeds),
        memory_follows=mode is Memory.POST_COPY,
        warm=task.options.warm,
    )
