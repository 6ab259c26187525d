"""What the driver (source) and the holder (target) need of the world, as protocols.

Each has a real adapter and a fake in tests/migrator. They raise only `MigratorError`; the class says which.
Methods marked *quick* are used between freeze and resume: all they need was made before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from migrator.core.hook import Stage
from migrator.core.host import Needs, Traits
from migrator.core.identity import Identity
from migrator.core.phases import Hold, Outcome
from migrator.core.plan import Container, ImagePiece, Options, Order, Progress
from migrator.core.prediction import Link
from migrator.core.preflight import HostFacts, TargetFacts
from migrator.core.timeline import Measured
from migrator.core.volumes import Place, Volume


class Clock(Protocol):
    """Time of this host."""

    def now(self) -> float:
        """Seconds of a monotonic clock."""

    def wall(self) -> float:
        """Seconds since the epoch, for people."""

    def wait(self, seconds: float) -> bool:
        """Wait; True if the agent is being stopped, at once."""


class Dump(Protocol):
    """One container being taken from the source; what can be made before the freeze is."""

    @property
    def pages(self) -> str:
        """HOST:PORT that the target fetches pages from after it has restored; empty: they travel as images."""

    def round(self) -> Iterator[ImagePiece]:
        """Move the running container's memory, or what has changed of it since the round before; as `pieces`."""

    def stand_by(self) -> None:
        """Start all that can be started before the freeze, once: `pause` and `pieces` follow. Raises RuntimeFailed."""

    def pause(self) -> None:
        """Quick. Freeze all tasks; has happened on return. On failure, none stays frozen.

        Connections that wait to be accepted are let in first, for a moment at most: CRIU does not dump them, and their
        clients would find them reset.
        """

    def pieces(self) -> Iterator[ImagePiece]:
        """Quick. Dump the paused container, which stays paused; yield each image file as soon as it is complete.

        Ends when all were yielded; raises RuntimeFailed with CRIU's last lines. Pages may be fetched from then on.
        """

    def check(self) -> None:
        """Quick. Raises RuntimeFailed if pages that are yet to be fetched cannot be any more."""

    def stop(self) -> None:
        """Dump, or serve pages, no more. On return nobody but us touches the container, which is as it was.

        Raises RuntimeFailed if CRIU does not let go of it.
        """

    def touched(self) -> Mapping[str, int]:
        """Quick. Directories that dumping has written in, as paths in the container, with their times before (ns)."""

    def discard(self) -> None:
        """Give the room back."""


class Runtime(Protocol):
    """The OCI runtime of this host, with CRIU below it."""

    def facts(self, host: str, voyfs_problem: str) -> HostFacts:
        """Versions and checks of runtime and CRIU, free memory; HOST is its name in messages."""

    def inspect(self, name: str) -> Container:
        """Raises ContainerUnknown, ContainerNotRunning."""

    def exists(self, name: str) -> bool:
        """Whether the runtime knows a container of that name, whatever its state."""

    def containers(self) -> list[dict[str, Any]]:
        """All containers: name, status, pid, bundle."""

    def host_files(self, container: Container) -> Mapping[str, bytes]:
        """Contents of those bind mounts' sources that are small regular files (see core.bundle), by source path."""

    def warm(self, container: Container, volumes: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """What restoring it will open: to fetch, and only to look up (see core.warm).

        VOLUMES: what moves like the root, directories of this host by where they are mounted.
        """

    def live(self, container: Container) -> list[str]:
        """Quick. Files that it can write into at this moment, as paths in it."""

    def prepare_dump(
        self, container: Container, migration: str, serve_on: str = "", *, connections: bool = True
    ) -> Dump:
        """Make room for its images; with its TCP CONNECTIONS, or they are closed.

        SERVE_ON: this host's address where pages will be fetched, if they follow later.
        """

    def resume(self, container: Container) -> None:
        """Let all tasks go on; does nothing to a container that runs. Also for one known only from the journal."""

    def destroy(self, name: str, bundle: str) -> None:
        """Kill a container and forget it, without touching its root directory.

        Nothing to do if there is none, or if the one of that name is another's: has another BUNDLE.
        """

    def settle(self, migration: str) -> None:
        """End a dump that an earlier run of the agent left at work, its container as it was; give back its room."""

    def prepare_restore(self, order: Order, bundle: str, config: Mapping[str, Any]) -> Restore:
        """Make the bundle and room for the images."""

    def adopt_restore(self, migration: str, container: str, bundle: str) -> Restore:
        """One of an earlier run of the agent, as far as it had come."""


class Restore(Protocol):
    """Room for one container on the target: bundle, images, and then the held copy."""

    def accept(self, piece: ImagePiece) -> int:
        """Quick. Store a piece; bytes stored. Raises TransferFailed where a digest differs, NoSpace."""

    def restore(self, pages: str = "") -> None:
        """Quick. Restore and freeze at once. Raises RuntimeFailed with CRIU's last lines.

        PAGES: HOST:PORT where memory is fetched from, afterwards; if that breaks off, all tasks are killed.
        """

    def pages_complete(self, seconds: float) -> bool:
        """Whether all memory is here, waiting up to SECONDS. Raises Lost if it never will be; the copy is killed."""

    def pages_progress(self, *, complete: bool) -> Progress:
        """How far memory is that follows the images; COMPLETE is what `pages_complete` said."""

    def interrupt(self) -> None:
        """Kill a restore that is under way, in another thread or left by an earlier agent, without waiting for its end.

        It ends at the latest when its disk does, which it may be waiting for.
        """

    def release(self) -> None:
        """Quick. Let the held copy run."""

    def forget_images(self) -> None:
        """Give the images' room back, once all memory is here."""

    def discard(self) -> None:
        """Kill whatever was restored and remove all that was made; what this has not made stays."""


class Inspector(Protocol):
    """Looks at this host, and at containers on it, without touching anything."""

    def traits(self) -> Traits:
        """What this host is."""

    def places(self, sources: Sequence[str]) -> Mapping[str, Place]:
        """What lies at paths of this host; what does not exist is left out."""

    def needs(self, container: Container, volumes: Sequence[Volume]) -> Needs:
        """What a running container needs of a host, its VOLUMES being treated as they say."""

    def changing(self, container: Container) -> Callable[[], float | None]:
        """Begins to watch its memory; what is returned ends that, and tells how many bytes changed a second, at most.

        None: it was not watched, for that would hold the container up.
        """

    def cpu_problem(self, image: bytes) -> str:
        """What this CPU lacks of the one in CRIU's image; empty if nothing."""

    def missing(self, paths: Sequence[str]) -> tuple[str, ...]:
        """Those of PATHS that do not exist here."""

    def inodes_free(self, directory: str) -> int:
        """How many more files the file system of DIRECTORY takes; -1: as many as it has space for."""


class SourceLink(Protocol):
    """The host's end of a container's interface on the source."""

    def cut(self) -> None:
        """Quick. Nothing reaches or leaves the container from here on."""

    def mend(self) -> None:
        """Undo `cut`, and what CRIU may have locked; tell the bridges where the address is."""

    def close(self) -> None:
        """Give back what this object holds; the interface stays as it is."""


class TargetLink(Protocol):
    """A container's interface on the target, closed at first."""

    def attract(self) -> None:
        """Quick. The source is cut: bring the container's frames here and hold them. (Nothing, if that is not done.)"""

    def open(self) -> None:
        """Quick. Open the network, let held frames go, tell the bridges where the address is."""

    def answered(self, seconds: float) -> float | None:
        """How many seconds ago the container first sent data since `open`; waits up to SECONDS; None: it did not."""

    def close(self) -> None:
        """Give back what this object holds; the interface stays as it is."""


class Network(Protocol):
    """Network identities on this host."""

    def examine(self, container: Container) -> Identity | None:
        """Raises Unsupported for what cannot be moved; None for a namespace with nothing but lo."""

    def source(self, identity: Identity) -> SourceLink:
        """Take hold of an existing one."""

    def conflicts(self, identity: Identity) -> tuple[bool, bool, bool]:
        """Whether the namespace is taken, the port's name is taken, the bridge exists."""

    def addresses_taken(self, identity: Identity) -> tuple[str, ...]:
        """Of its addresses, those that the host has, or others on the bridge."""

    def build(self, identity: Identity) -> TargetLink:
        """Make it, closed. On failure nothing of it stays."""

    def target(self, identity: Identity) -> TargetLink:
        """Take hold of one that an earlier run of the agent made."""

    def remove(self, identity: Identity) -> None:
        """Take the pair and the namespace away; nothing to do where they are gone."""


class Export(Protocol):
    """A tree served by this host."""

    @property
    def address(self) -> str:
        """HOST:PORT for the target."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the journal keeps, to find the server again after a restart."""

    @property
    def alive(self) -> bool:
        """Whether the server still runs."""

    def wait_released(self, seconds: float) -> bool:
        """Wait until the target has released it, i.e. the server has ended by itself."""

    def stop(self) -> None:
        """End the server."""


class Mounted(Protocol):
    """A voyfs mount of this host. All raise DiskFailed."""

    def prefetch(self, paths: Sequence[str]) -> None:
        """Make files local. Missing ones are ignored."""

    @property
    def prefetched(self) -> Progress:
        """How far `prefetch` is, asked by another thread while it is under way."""

    def warm(self, seconds: float) -> None:
        """Bring all names, then what the source uses, for SECONDS each: if the source keeps what changes meanwhile.

        Else nothing is brought, for `refresh` would have to look at all of it.
        """

    def look_up(self, paths: Sequence[str]) -> None:
        """Make names and attributes known. Missing ones are ignored."""

    def fetch_ends(self, paths: Sequence[str]) -> None:
        """Quick. Make the last bytes of regular files local. Whatever is in the way is ignored."""

    def refresh(self, live: Sequence[str]) -> int:
        """Quick. Correct what has changed on the source since; number of changed entries.

        LIVE: files that may have changed without a sign.
        """

    def set_times(self, times: Mapping[str, int]) -> None:
        """Quick. Give directories these modification times (ns) where they have others."""

    def hydrate(self) -> Iterator[Progress]:
        """Make everything local; yields progress, ends when complete."""

    @property
    def detached(self) -> bool:
        """Whether the source was released."""

    @property
    def missing_bytes(self) -> int:
        """What is not local yet, of all that is known of."""

    def verify(self) -> None:
        """Compare digests of the whole tree with the source. Raises Differs."""

    def detach(self) -> None:
        """Release the source for good."""

    def discard(self) -> None:
        """End the mount, whoever waits for it, and its daemon, if there is one; the store is worthless then."""


class Borrowed(Protocol):
    """Something mounted here from where the source had it, too."""

    def discard(self) -> None:
        """Unmount it. Raises DiskFailed."""


class Disk(Protocol):
    """voyfs on this host."""

    def problem(self) -> str:
        """Why voyfs cannot be used here; empty if it can."""

    def taken(self, directory: str) -> str:
        """Why DIRECTORY cannot hold a new bundle with its mount; empty if it can."""

    def free_bytes(self, directory: str) -> int:
        """Space on the file system that DIRECTORY is or will be on."""

    def claim(self, directory: str) -> None:
        """Make DIRECTORY, for the caller alone. Raises Taken where it exists, DiskFailed, NoSpace."""

    def remove(self, directory: str) -> None:
        """Delete a directory with all below it, never crossing into another file system. Raises DiskFailed."""

    def export(self, root: str, listen: str) -> Export:
        """Serve a tree. LISTEN is HOST:PORT, port 0 for any."""

    def adopt(self, facts: Mapping[str, Any]) -> Export | None:
        """The export of an earlier run of the agent, if it still runs."""

    def mount(
        self, address: str, mountpoint: str, store: str, seeds: Sequence[str] = (), found: Sequence[str] = ()
    ) -> Mounted:
        """Mount an export that may still change. On failure nothing stays mounted.

        What SEEDS, local trees, have in common with it is taken from there. Also what those have that were FOUND, which
        may be of no use, or gone.
        """

    def mounted(self, mountpoint: str, store: str) -> Mounted:
        """A mount of an earlier run of the agent."""

    def remount(self, place: Place, mountpoint: str) -> Borrowed:
        """Mount a network file system from its origin. Raises DiskFailed; nothing stays mounted then."""

    def remounted(self, mountpoint: str) -> Borrowed:
        """One of an earlier run of the agent."""

    def make_empty(self, path: str, *, directory: bool) -> None:
        """Make an empty directory or file, with its parents. Raises DiskFailed."""

    def keep(self, store: str, place: str) -> None:
        """The files of a STORE that is complete, and mounted no more, become the tree PLACE; what was there goes."""


class Places(Protocol):
    """Directories of this host that containers which came here by migration live in."""

    def leave(self, directory: str, *, keep: bool) -> None:
        """The container of that bundle has moved on and runs elsewhere: take down all that it had here.

        KEEP its files, if all of them are here, as a plain tree. Nothing to do if it did not come by migration.
        """

    def arrival(self, migration: str) -> Hold:
        """How far the container of a migration from here has come back by a later one; ABSENT where it does not."""


class Hooks(Protocol):
    """Programs of this host's operator."""

    def run(self, stage: Stage, facts: Mapping[str, Any]) -> None:
        """Run the one of STAGE, if there is one, to its end. Raises HookFailed where it fails or takes too long."""


class Record(Protocol):
    """The journal of one migration."""

    def write(self, decision: str, *, durable: bool = True, **facts: Any) -> None:
        """Append a decision. Durable: it survives power loss once this returns."""


class Journal(Protocol):
    """What this host decided, and still knows after a crash."""

    def create(self, migration: str) -> Record:
        """A journal for a new migration."""

    def reopen(self, migration: str) -> Record:
        """To go on writing."""

    def read(self, migration: str) -> list[dict[str, Any]]:
        """Its decisions, oldest first; a torn last one is left out. Raises MigrationUnknown."""

    def migrations(self) -> list[str]:
        """IDs of all migrations, oldest first."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the other side did in a call: its steps, and how long ago the last of them ended, in its own time.

    `answered`: of a commit, seconds ago that the container first sent data again; None where it sent nothing so soon.
    """

    steps: Sequence[Measured] = field(default_factory=tuple)
    ago: float = 0.0
    bytes: int = 0
    answered: float | None = None


class Peer(Protocol):
    """The target's agent, from the source. Every method raises PeerUnreachable, PeerRefused, and what happened there.

    All may be repeated: a repeated word that was heard before changes nothing.
    """

    @property
    def address(self) -> str:
        """HOST:PORT."""

    def probe(self, container: str, identity: Identity | None, needs: Needs) -> TargetFacts:
        """What is there, and what is in the way of this container, which NEEDS something of its host."""

    def measure(self) -> Link:
        """How fast the way there is; takes a fraction of a second."""

    def prepare(self, order: Order) -> Report:
        """Build network, mount and bundle; fetch what restoring will need."""

    def how_far(self, migration: str) -> Progress | None:
        """How far what `prepare` fetches is, asked by another thread while it is under way; None: that is not known."""

    def freeze(self, migration: str, live: Sequence[str]) -> Report:
        """Quick. The source is frozen and cut: correct the disk, hold the frames. LIVE: see Mounted.refresh."""

    def send(self, migration: str, pieces: Iterator[ImagePiece], *, compress: bool = False) -> Report:
        """Quick. Send images; with COMPRESS, fewer bytes and more work."""

    def restore(self, migration: str, touched: Mapping[str, int], pages: str = "") -> Report:
        """Quick. Restore and hold. TOUCHED, PAGES: see Dump."""

    def commit(self, migration: str) -> Report:
        """Quick. Open the network and let the copy run; `ago` is since then."""

    def pages(self, migration: str) -> Progress:
        """How far the target's copy has its memory; waits a little for all of it. Raises Lost if it never will."""

    def abort(self, migration: str) -> None:
        """Remove everything of the migration."""

    def hydrate(self, migration: str) -> Iterator[Progress]:
        """Make the disk local."""

    def verify(self, migration: str) -> None:
        """Compare digests with the source."""

    def detach(self, migration: str) -> None:
        """Release the source."""

    def standing(self, migration: str) -> Hold:
        """Where the migration stands there."""

    def cancel(self) -> None:
        """End what is under way, in other threads: it raises PeerUnreachable there. What is asked later is answered."""

    def close(self) -> None:
        """Hang up."""


class AskingPeer(Peer, Protocol):
    """Any agent: a target asks its source, too, and a source asks for what it has committed."""

    def outcome(self, migration: str) -> Outcome:
        """What the source decided."""

    def give_back(self, migration: str, options: Options) -> Iterator[Mapping[str, Any]]:
        """Move the container of a migration to there back to its source; what that tells, as JSON, to its end."""


Publish = Callable[[Mapping[str, Any]], None]
"""Takes one event of a migration, as JSON."""
