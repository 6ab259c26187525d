"""Reads what /proc tells of processes, as `core.processes` takes it. What ends meanwhile is left out.

It must not know which of it is a problem.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from migrator import syscalls
from migrator.core.processes import ONE_NAMESPACE, Descriptor, Process
from migrator.core.volumes import Place
from migrator.core.warm import is_written

PROTOCOL = "system.sockprotoname"  # an extended attribute that every socket has (net/socket.c)

# Of smaps_rollup: pages in no file. CRIU dumps them with each process, also those that were never copied after a fork.
PRIVATE = ("Anonymous:", "Swap:")
# What maps calls memory that processes share without a file; CRIU dumps each once, with what nobody maps any more.
SHARED = ("/dev/zero", "/SYSV", "/memfd:")


def read(path: str) -> str:
    """A file's text; empty if it cannot be read."""
    try:
        return Path(path).read_text(errors="surrogateescape")
    except OSError:
        return ""


def link(path: str) -> str:
    """What a link points to; empty if it cannot be read."""
    try:
        return os.readlink(path)
    except OSError:
        return ""


def files(pids: Iterable[int]) -> tuple[list[str], list[str], list[str]]:
    """Of these processes: their maps; link texts of what they have open; and of what they have open to write."""
    maps, opened, written = [], [], []
    for pid in pids:
        with contextlib.suppress(OSError):  # it ended meanwhile
            maps.append(read(f"/proc/{pid}/maps"))
            opened += [link(f"/proc/{pid}/{name}") for name in ("cwd", "root", "exe")]
            for number in os.listdir(f"/proc/{pid}/fd"):
                path = link(f"/proc/{pid}/fd/{number}")
                opened.append(path)
                if path.startswith("/") and is_written(read(f"/proc/{pid}/fdinfo/{number}")):
                    written.append(path)
    return maps, opened, written


def place(path: str) -> Place:
    """What lies at a path of this host, and how its file system could be mounted elsewhere. The path must exist."""
    best: list[str] = []
    real = os.path.realpath(path)
    for line in read("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        point = syscalls.unescape(before.split()[4])
        if (real + "/").startswith(point.rstrip("/") + "/"):  # the last one covers those before
            best = [point, before.split()[3], *after.split(" ", 2)]
    if not best:
        return Place(os.path.isdir(path))
    point, root, kind, origin, options = best
    below = os.path.normpath(os.path.join(syscalls.unescape(root), os.path.relpath(real, point)))
    return Place(os.path.isdir(path), kind, syscalls.unescape(origin), options, below)


def processes(pids: Sequence[int], init: int) -> list[Process]:
    """The processes, with what they have open; INIT: the one whose mounts are the container's."""
    mounts = {int(line.split()[0]) for line in read(f"/proc/{init}/mountinfo").splitlines()}
    found = [each for pid in pids if (each := _process(pid, mounts)) is not None]
    known = {each.pid for each in found}
    # A parent that ended before it was read has left its children to another.
    again = (each if each.pid == init or each.parent in known else _process(each.pid, mounts) for each in found)
    return [each for each in again if each is not None]


def memory(pids: Sequence[int]) -> tuple[int, int]:
    """Bytes of memory that processes hold and no file has: private, and shared, which counts once."""
    private = 0
    shared: dict[tuple[str, str], int] = {}
    for pid in pids:
        for line in read(f"/proc/{pid}/smaps_rollup").splitlines():
            if line.startswith(PRIVATE):  # "Anonymous:     116 kB"
                private += int(line.split()[1]) << 10
        for line in read(f"/proc/{pid}/maps").splitlines():
            addresses, rights, _, device, inode, *path = line.split(maxsplit=5)
            if rights.endswith("s") and path and path[0].startswith(SHARED):
                with contextlib.suppress(OSError):
                    shared[device, inode] = os.stat(f"/proc/{pid}/map_files/{addresses}").st_blocks * 512
    return private, sum(shared.values())


def tmpfs(pid: int, others: Collection[str]) -> int:
    """Bytes in the tmpfs mounts that a process sees, but not at or below OTHERS, which are the host's."""
    found = {}
    outside = tuple(os.path.normpath(other) + "/" for other in others)
    for line in read(f"/proc/{pid}/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        device, point = before.split()[2], syscalls.unescape(before.split()[4])
        if after.startswith("tmpfs ") and not f"{point}/".startswith(outside):
            place = f"/proc/{pid}/root{point}"
            with contextlib.suppress(OSError):
                at = os.stat(place).st_dev
                if (
                    f"{os.major(at)}:{os.minor(at)}" == device
                ):  # nothing is mounted over it, and no link leads elsewhere
                    room = os.statvfs(place)
                    found[device] = (room.f_blocks - room.f_bfree) * room.f_frsize
    return sum(found.values())


def forget_touched(pids: Sequence[int]) -> None:
    """Clear the marks of what processes have touched, which are the kernel's own, for reclaiming memory."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("1")


def touched(pids: Sequence[int]) -> int:
    """Bytes of writable memory that were touched since; what processes share counts for each."""
    total = 0
    for pid in pids:
        writable = False
        for line in read(f"/proc/{pid}/smaps").splitlines():
            words = line.split()
            if not words[0].endswith(":"):  # "7f0000000000-7f0000001000 rw-p ..."
                writable = "w" in words[1]
            elif writable and words[0] == "Referenced:":
                total += int(words[1]) << 10
    return total


def _process(pid: int, mounts: set[int]) -> Process | None:
    status = dict(line.split(":\t", 1) for line in read(f"/proc/{pid}/status").splitlines() if ":\t" in line)
    if "PPid" not in status:
        return None
    namespaces = {}
    for kind in ONE_NAMESPACE:
        with contextlib.suppress(OSError):
            namespaces[kind] = os.stat(f"/proc/{pid}/ns/{kind}").st_ino
    # One that has ended and was not waited for has no namespaces any more; it has nothing else to dump either.
    own = mounts if namespaces else set()
    own = own | {int(line.split()[0]) for line in read(f"/proc/{pid}/mountinfo").splitlines()}
    return Process(
        pid=pid,
        name=status.get("Name", ""),
        parent=int(status["PPid"]),
        tracer=int(status.get("TracerPid", "0")),
        owners=frozenset(int(each) for name in ("Uid", "Gid") for each in status.get(name, "").split()[:3]),
        namespaces=namespaces,
        descriptors=tuple(_descriptors(pid, own)),
        mapped_devices=tuple(_mapped_devices(pid)),
    )


def _descriptors(pid: int, mounts: set[int]) -> list[Descriptor]:
    found = []
    with contextlib.suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                found.append(_descriptor(pid, int(number), mounts))
    return found


def _descriptor(pid: int, number: int, mounts: set[int]) -> Descriptor:
    place = f"/proc/{pid}/fd/{number}"
    link = os.readlink(place)
    if link.startswith("socket:"):
        name = ""
        with contextlib.suppress(OSError):
            name = os.getxattr(place, PROTOCOL).rstrip(b"\0").decode()
        return Descriptor(number, link, protocol=name)
    if not link.startswith("/"):
        return Descriptor(number, link)
    mount = [
        line.split()[1] for line in read(f"/proc/{pid}/fdinfo/{number}").splitlines() if line.startswith("mnt_id:")
    ]
    at = os.stat(place)
    kind = "c" if stat.S_ISCHR(at.st_mode) else "b" if stat.S_ISBLK(at.st_mode) else ""
    device = (kind, os.major(at.st_rdev), os.minor(at.st_rdev)) if kind else None
    return Descriptor(number, link, inside=not mount or int(mount[0]) in mounts, device=device)


def _mapped_devices(pid: int) -> list[str]:
    found = {line.split(maxsplit=5)[5] for line in read(f"/proc/{pid}/maps").splitlines() if " /dev/" in line}
    return sorted(path for path in found if not path.startswith(("/dev/zero", "/dev/shm/", "/dev/mqueue/")))
