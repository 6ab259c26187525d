"""What both sides must know to move one container, fixed before anything is touched.

Pure values and their JSON. It must not know how any of them was found, nor how they travel.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from migrator.core.hook import Mode
from migrator.core.identity import Identity
from migrator.core.volumes import Volume

_NAME: Final = re.compile(r"[A-Za-z0-9_][\w+.-]{0,254}", re.ASCII)


def is_name(text: str) -> bool:
    """Whether TEXT can name a container or a migration: one part of a path, as OCI runtimes have it."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Container:
    """A running container, as its runtime and /proc tell it."""

    name: str
    pid: int  # of its init
    bundle: str
    root: str  # absolute path of its root directory
    config: Mapping[str, Any]  # config.json
    cgroup: str  # path that freezes it: .../freezer.state (v1) or .../cgroup.freeze (v2)
    memory_bytes: int  # of all processes, that no file has
    pipes: tuple[int, ...] = ()  # which of descriptors 0 to 2 of its init are pipes
    root_is_directory: bool = True
    shared_bytes: int = 0  # of memory_bytes, what processes share
    tmpfs_bytes: int = 0  # in its own tmpfs mounts, which travel in the images

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Container:
        """From `to_json`."""
        return cls(**{**value, "pipes": tuple(value["pipes"])})


@dataclass(frozen=True, slots=True)
class Order:
    """What the source asks the target to prepare for."""

    migration: str
    container: str
    config: Mapping[str, Any]  # the source's config.json
    identity: Identity | None  # None: the container has no network but lo
    export: str  # HOST:PORT of the source's voyfs server
    fetch: tuple[str, ...] = ()  # to be local before the freeze, as paths in the container
    look_up: tuple[str, ...] = ()  # only names and attributes
    files: Mapping[str, bytes] = field(default_factory=dict)  # by destination: contents of read-only host files
    volumes: tuple[Volume, ...] = ()  # all bind mounts
    volume_exports: tuple[str, ...] = ()  # HOST:PORT for each that is lazy, in their order
    pipes: tuple[int, ...] = ()
    image_bytes: int = 0  # expected
    source_agent: str = ""  # HOST:PORT, to ask for the decision
    network: str = Mode.VETH  # a core.hook.Mode
    seeds: tuple[str, ...] = ()  # directories of the target that may have what the root has
    memory_follows: bool = False  # pages come after the restore
    warm: bool = False  # bring names and the working set before the freeze


@dataclass(frozen=True, slots=True)
class Options:
    """What the user may choose."""

    verify: bool = True  # compare digests of the whole tree with the source before it is released
    remove_source: bool = False  # delete the source's root directory at the end
    volumes: Mapping[str, str] = field(default_factory=dict)  # by destination: the kind of core.volumes to treat it as
    memory: str = "auto"  # a core.memory.Memory
    network: str = Mode.VETH  # how the network is treated: a core.hook.Mode
    compress: bool = False  # images on their way
    seeds: Sequence[str] = ()  # directories of the target that may have what the container's root has
    warm: bool = False  # bring names and the working set while the container still runs
    failback_window: float = 0.0  # seconds from the commit on for which the source keeps its copy of the data

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ImagePiece:
    """A piece of one image file. The last one of a file has `last` and the digest (XXH3-128) of the whole file."""

    name: str
    offset: int
    data: bytes
    last: bool = False
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far disk or memory are on the target; `rate` in bytes a second, `eta` in seconds (None: unknown).

    A total of 0 says that nothing is known. Memory has no files.
    """

    bytes_present: int
    bytes_total: int
    files_present: int
    files_total: int
    fetched_bytes: int
    rate: float
    eta: float | None
    complete: bool
    seed_bytes: int = 0  # taken from local trees, and not fetched

    @classmethod
    def of_memory(cls, present: int, total: int, rate: float, *, complete: bool) -> Progress:
        """PRESENT of TOTAL bytes are here."""
        eta = round((total - present) / rate, 1) if rate else None
        return cls(present, total, 0, 0, present, rate, eta, complete)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)
