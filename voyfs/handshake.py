"""Mounting, and the kernel's INIT: the supervisor's side of the FUSE connection.

The supervisor mounts with a descriptor that it opened itself and answers the kernel's INIT with
the capabilities chosen here. So every daemon, the first as well as a later one, takes over a
connection that is up already (see `takeover`), and the connection outlives them all.

Layouts: linux/fuse.h (protocol 7.38; the kernel adapts to it).
"""

import errno
import os
import select
import socket
import struct
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from voyfs.core.errors import MountError
from voyfs.syscalls import MNT_DETACH, mount, umount

FILE_SYSTEM = "fuse.voyfs"

HEADER_IN = struct.Struct("<IIQQIIIHH")  # len, opcode, unique, nodeid, uid, gid, pid, ext, pad
INIT_IN = struct.Struct("<IIIII11I")  # major, minor, max_readahead, flags, flags2, unused
HEADER_OUT = struct.Struct("<IiQ")  # len, error, unique
_INIT_OUT = struct.Struct("<IIIIHHIIHHIIH11H")

OP_INIT = 26
MAJOR, MINOR = 7, 38

_ASYNC_READ = 1 << 0
_ATOMIC_O_TRUNC = 1 << 3
_EXPORT_SUPPORT = 1 << 4  # "." and ".." may be looked up
_BIG_WRITES = 1 << 5
_DONT_MASK = 1 << 6  # the umask is ours to apply: a default ACL overrides it
_DO_READDIRPLUS = 1 << 13
_ASYNC_DIO = 1 << 15
_PARALLEL_DIROPS = 1 << 18
_POSIX_ACL = 1 << 20
_MAX_PAGES = 1 << 22
_CACHE_SYMLINKS = 1 << 23
_EXPLICIT_INVAL_DATA = 1 << 25  # only we change files; cached data is good until we say so

_WANTED = (
    _ASYNC_READ
    | _ATOMIC_O_TRUNC
    | _EXPORT_SUPPORT
    | _BIG_WRITES
    | _DONT_MASK
    | _DO_READDIRPLUS
    | _ASYNC_DIO
    | _PARALLEL_DIROPS
    | _POSIX_ACL
    | _MAX_PAGES
    | _CACHE_SYMLINKS
    | _EXPLICIT_INVAL_DATA
)

# The largest request that libfuse 3.14's buffer takes: 256 pages and a header.
MAX_WRITE = 1 << 20
_READ_AHEAD_KIB = 1024

# Calls that are sent again pass through a socket pair (see `takeover`), whose buffers only root may enlarge.
_MAX_WRITE_OF_USERS = 1 << 17

_HELPER = "fusermount3"

# Background requests (readahead, asynchronous direct I/O) that the kernel keeps under way.
_MAX_BACKGROUND, _CONGESTION = 64, 48


def open_and_mount(store: Path, mountpoint: Path) -> int:
    """Mounts a new connection at `mountpoint`; gives its descriptor, INIT answered.

    The store is the mount's source name, so that whoever finds the mount finds the daemon. Who is
    not root has it mounted by fusermount3, for himself alone. Raises MountError.
    """
    privileged = os.geteuid() == 0
    descriptor = _mount(store, mountpoint) if privileged else _mount_by_helper(store, mountpoint)
    try:
        _answer_init(descriptor, privileged=privileged)
    except BaseException:
        os.close(descriptor)
        take_down(mountpoint, lazy=True)
        raise
    return descriptor


def _mount(store: Path, mountpoint: Path) -> int:
    try:
        descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"cannot open /dev/fuse: {error.strerror}; load the fuse module") from error
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    try:
        mount(os.fsencode(store), os.fsencode(mountpoint), FILE_SYSTEM.encode(), 0, options.encode())
    except OSError as error:
        os.close(descriptor)
        hint = "; run as root" if error.errno == errno.EPERM else ""
        raise MountError(f"cannot mount at {mountpoint}: {error.strerror}{hint}") from error
    return descriptor


def _mount_by_helper(store: Path, mountpoint: Path) -> int:
    name = str(store).replace("\\", "\\\\").replace(",", "\\,")
    options = f"fsname={name},subtype={FILE_SYSTEM.removeprefix('fuse.')},default_permissions,nosuid,nodev"
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        environment = {**os.environ, "_FUSE_COMMFD": str(theirs.fileno())}
        _run_helper(["-o", options, "--", str(mountpoint)], environment, [theirs.fileno()])
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountError(f"cannot mount at {mountpoint}: {_HELPER} gave no descriptor")
    return descriptors[0]


def take_down(mountpoint: Path, *, lazy: bool) -> None:
    """Unmounts. Raises OSError, for a user who is not root MountError."""
    if os.geteuid() == 0:
        umount(os.fsencode(mountpoint), MNT_DETACH if lazy else 0)
    else:
        _run_helper(["-u", *(["-z"] if lazy else []), "--", str(mountpoint)], os.environ)


def _run_helper(arguments: list[str], environment: Mapping[str, str], descriptors: Sequence[int] = ()) -> None:
    try:
        done = subprocess.run(
            [_HELPER, *arguments], env=environment, pass_fds=descriptors, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise MountError(f"{_HELPER} is missing; install fuse3, or run as root") from error
    if done.returncode:
        raise MountError(" ".join(done.stderr.split()) or f"{_HELPER} failed with status {done.returncode}")


def _answer_init(descriptor: int, *, privileged: bool) -> None:
    request = os.read(descriptor, 1 << 17)
    _, opcode, unique, *_ = HEADER_IN.unpack_from(request)
    assert opcode == OP_INIT, "the first request of a connection is INIT"
    major, _, max_readahead, offered, *_ = INIT_IN.unpack_from(
        request.ljust(HEADER_IN.size + INIT_IN.size, b"\0"), HEADER_IN.size
    )
    if major != MAJOR:
        raise MountError(f"the kernel speaks FUSE {major}, this program {MAJOR}")
    wanted, largest = (_WANTED, MAX_WRITE) if privileged else (_WANTED & ~_POSIX_ACL, _MAX_WRITE_OF_USERS)
    body = _INIT_OUT.pack(
        *(MAJOR, MINOR, max(max_readahead, _READ_AHEAD_KIB << 10), wanted & offered),
        *(_MAX_BACKGROUND, _CONGESTION, largest, 1, largest // 4096, 0, 0, 0, 0),
        *([0] * 11),
    )
    os.write(descriptor, HEADER_OUT.pack(HEADER_OUT.size + len(body), 0, unique) + body)


def connected(descriptor: int) -> bool:
    """Whether something is mounted yet on the connection behind `descriptor`."""
    poll = select.poll()
    poll.register(descriptor, 0)
    return not poll.poll(0)


def widen_readahead(mountpoint: Path) -> None:
    """Lets the kernel read ahead 1 MiB at a time; only possible once it is mounted."""
    device = os.stat(mountpoint).st_dev
    path = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    try:
        path.write_text(str(_READ_AHEAD_KIB))
    except OSError:
        pass  # without it reads are right, in smaller pieces
