"""Which state of a container's processes CRIU cannot dump, told from /proc while they run.

Pure: what was read comes in as values. What CRIU takes is listed, not what it refuses: a kernel learns new kinds of
descriptors faster than CRIU does. Sources: CRIU 4.2, criu/files.c (dump_one_file, dump_chrdev), criu/sockets.c,
criu/namespaces.c (get_ns_id), criu/seize.c.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Final

ANONYMOUS: Final = frozenset({"eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd", "bpf-map", "pidfd"})
PROTOCOLS: Final = frozenset(
    {
        *("TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6"),
        *("UNIX", "UNIX-STREAM", "NETLINK", "PACKET"),
    }
)
# linux/major.h: memory devices, terminals by their other names, Unix98 pseudo terminals; and of the miscellaneous, tun.
CHARACTER: Final = frozenset({1, 5, *range(136, 144)})
TUN: Final = (10, 200)
PTS: Final = range(136, 144)
# A process may have those of its own; of the others, CRIU takes one for the whole container.
ONE_NAMESPACE: Final = ("pid", "ipc", "uts", "user")
SHOWN: Final = 5  # problems of one kind in one line, and there may be thousands


@dataclass(frozen=True, slots=True)
class Descriptor:
    """An open descriptor. `link`: as /proc shows it."""

    number: int
    link: str
    inside: bool = True  # whether it lies on a mount of the container's, where it lies on any
    protocol: str = ""  # of a socket; empty: could not be told
    device: tuple[str, int, int] | None = None  # "c" or "b", major, minor


@dataclass(frozen=True, slots=True)
class Process:
    """A process of the container."""

    pid: int
    name: str
    parent: int
    tracer: int = 0
    owners: frozenset[int] = frozenset()  # users and groups that it runs as
    namespaces: Mapping[str, int] = field(default_factory=dict)  # by type: the inode
    descriptors: Sequence[Descriptor] = ()
    mapped_devices: Sequence[str] = ()


def problems(processes: Sequence[Process], init: int, behind: Sequence[str] = ()) -> list[str]:
    """A line for each thing that CRIU would stumble over; INIT is the container's first process.

    BEHIND: mount points whose files stay where they are.
    """
    known = {process.pid for process in processes}
    first = next((process for process in processes if process.pid == init), None)
    found = []
    for process in processes:
        said = []
        if process.tracer:
            said.append(f"is being traced by process {process.tracer}")
        if process.pid != init and process.parent not in known:
            said.append("was put into the container from outside, and its parent stays there")
        if first is not None:
            # One that is ending, or has ended and was not waited for, has given up some of them already.
            told = [kind for kind in ONE_NAMESPACE if kind in process.namespaces]
            own = [kind for kind in told if process.namespaces[kind] != first.namespaces.get(kind)]
            if own:
                said.append(f"has a {' and '.join(own)} namespace of its own (a container in the container?)")
        said += [*_descriptors(process, behind), *(f"maps {device}" for device in process.mapped_devices)]
        if len(said) > SHOWN:
            said[SHOWN:] = [f"{len(said) - SHOWN} more of the kind"]
        found += [f"process {process.pid} ({process.name}) {text}" for text in said]
    return found


def _descriptors(process: Process, behind: Sequence[str]) -> list[str]:
    said = []
    for each in process.descriptors:
        if any(PurePosixPath(each.link).is_relative_to(place) for place in behind):
            said.append(f"has {each.link} open, on a volume that stays behind,")
            continue
        if why := _descriptor(each):
            said.append(f"has {why} open as descriptor {each.number}")
    return said


def _descriptor(each: Descriptor) -> str:
    """What it is that CRIU cannot dump; empty if it can."""
    if each.link.startswith("anon_inode:"):
        kind = each.link.removeprefix("anon_inode:").strip("[]")
        return "" if kind in ANONYMOUS else f"a thing of the kernel ({kind})"
    if each.link.startswith("socket:"):
        return f"a socket of protocol {each.protocol}" if each.protocol not in (*PROTOCOLS, "") else ""
    if not each.link.startswith("/") or each.link.startswith("/memfd:"):
        return ""
    if each.device is not None:
        kind, major, minor = each.device
        if kind == "c" and major in PTS and not each.inside:
            return f"a terminal of the host ({each.link})"
        if kind == "b" or (major not in CHARACTER and (major, minor) != TUN):
            return f"the device {each.link} ({kind} {major}:{minor})"
    return "" if each.inside else f"{each.link}, which lies outside of the container,"
