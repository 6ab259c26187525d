"""The contenders: each a mount on a host, there within a block and gone after it."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from benchmarks.fs import sampling
from benchmarks.fs.scene import BIN, LOOPBACK, TOOLS, Far, Scene, Wire, Words, voyfs_status
from benchmarks.lab.hosts import Host
from benchmarks.lab.node import LabError
from voyfs import control

MOUNT_SECONDS: Final = 30.0

# How each is named in tables.
VOYFS: Final = "voyfs"
WARM: Final = "voyfs --warm"  # nothing but what is asked for
SSHFS: Final = "sshfs"
RCLONE: Final = "rclone"
RSYNC: Final = "rsync"
RAW: Final = "gRPC stream"
C: Final = "C pass-through"
C_BARE: Final = "C without xattrs"  # the example's default: the kernel learns at once that there is nothing to ask for
NATIVE: Final = "plain directory"


@dataclass
class Mounted:
    """A mount; `path` is inside `host`."""

    host: Host
    path: PurePosixPath


@dataclass
class Voyfs(Mounted):
    """A voyfs mount."""

    store: PurePosixPath
    supervisor: subprocess.Popen[str]

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        return voyfs_status(self.host, self.store)

    def hydrate(self) -> None:
        """Return when all is local."""
        for _ in control.call(self.host.path_of(self.store), "hydrate", wait=True):
            pass

    @property
    def pids(self) -> list[int]:
        """Of the supervisor, the daemon and the bulk process."""
        return sampling.with_children(self.supervisor.pid)

    @property
    def daemon(self) -> int:
        """The daemon's."""
        return self.pids[1]


@contextmanager
def mounted(scene: Scene, contender: str, tree: str, wire: Wire = LOOPBACK) -> Iterator[Mounted]:
    """CONTENDER's mount of TREE on the reader's host; everything of it is removed after the block."""
    if contender in (VOYFS, WARM):
        options = ["--warm"] if contender == WARM else []
        with voyfs(scene, tree, wire, *options) as mount:
            yield mount
        return
    with scene.wire(wire, scene.ssh_server()) as far:
        directory = scene.work_directory(far.reader)
        try:
            with _sftp(contender, far, scene.tree(tree), directory) as mount:
                yield mount
        finally:
            far.reader.run(["rm", "-rf", "--one-file-system", directory])


@contextmanager
def voyfs(scene: Scene, tree: str, wire: Wire, *options: str) -> Iterator[Voyfs]:
    """A new store each time."""
    with scene.wire(wire, scene.voyfs_server(tree, wire)) as far:
        host = far.reader
        directory = scene.work_directory(host)
        mountpoint, store = directory / "mount", directory / "store"
        host.path_of(mountpoint).mkdir()
        words: Words = [
            BIN / "voyfs",
            "mount",
            far.at,
            mountpoint,
            "--store",
            store,
            *options,
            *scene.tls_options(host, wire),
        ]
        log = host.path_of(directory / "log").open("w")
        with log:
            process = host.popen(words, stdout=subprocess.PIPE, stderr=log, env=scene.environment)
        assert process.stdout is not None
        try:
            with process.stdout as lines:
                if not lines.readline().startswith("mounted"):
                    raise LabError(f"voyfs does not mount: {host.path_of(directory / 'log').read_text()}")
            yield Voyfs(host, mountpoint, store, process)
        finally:
            host.run(["umount", "-l", mountpoint], check=False)
            _end(process)
            host.run(["rm", "-rf", "--one-file-system", directory], timeout=600)


@contextmanager
def passthrough(scene: Scene, path: PurePosixPath, *, xattr: bool = True) -> Iterator[Mounted]:
    """libfuse's own example over PATH on host a, told to let the kernel cache, and to serve, as much as voyfs does."""
    if not scene.has_passthrough:
        raise LabError("libfuse's examples are missing: install libfuse3-dev with its documentation")
    directory = scene.work_directory(scene.a)
    words: Words = [
        TOOLS / "passthrough_ll",
        "-f",
        "-o",
        f"source={path},cache=always,{'xattr' if xattr else 'no_xattr'}",
        directory,
    ]
    with _mounting(scene.a, words, directory):
        yield Mounted(scene.a, directory)


@contextmanager
def _sftp(contender: str, far: Far, path: PurePosixPath, directory: PurePosixPath) -> Iterator[Mounted]:
    mountpoint = directory / "mount"
    far.reader.path_of(mountpoint).mkdir()
    words: Words
    if contender == SSHFS:
        options = (
            f"port={far.port},IdentityFile={TOOLS}/user,UserKnownHostsFile={TOOLS}/known,StrictHostKeyChecking=yes"
        )
        words = ["sshfs", "-f", "-o", options, f"root@{far.address}:{path}", mountpoint]
    else:
        remote = f":sftp,host={far.address},port={far.port},user=root,key_file={TOOLS}/user:{path}"
        cache: Words = ["--vfs-cache-mode", "full", "--cache-dir", directory / "cache", "--config", directory / "none"]
        cache.append("--vfs-fast-fingerprint")  # or it starts md5sum on the source for every file
        words = ["rclone", "mount", remote, mountpoint, *cache]
    with _mounting(far.reader, words, mountpoint):
        yield Mounted(far.reader, mountpoint)


@contextmanager
def _mounting(
    host: Host, words: Sequence[str | os.PathLike[str]], mountpoint: PurePosixPath
) -> Iterator[subprocess.Popen[str]]:
    process = host.popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _wait_mounted(host, mountpoint, process)
        yield process
    finally:
        host.run(["umount", "-l", mountpoint], check=False)
        _end(process)


def _wait_mounted(host: Host, mountpoint: PurePosixPath, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + MOUNT_SECONDS
    table = Path(f"/proc/{host.pid}/mountinfo")
    while f" {mountpoint} " not in table.read_text():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            said = process.stderr.read() if process.stderr else ""
            raise LabError(f"{shlex.join(map(str, process.args))}: does not mount: {said}")  # type: ignore[arg-type]
        time.sleep(0.002)


def _end(process: subprocess.Popen[str]) -> None:
    """It ends by itself when it is unmounted; if not, it is killed."""
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            with suppress(OSError):
                stream.close()


# -- copying everything -------------------------------------------------------------------------


@dataclass(frozen=True)
class Copied:
    """Bringing a whole tree over; processor seconds of both ends."""

    seconds: float
    reader_cpu: float
    source_cpu: float


def copy(scene: Scene, contender: str, tree: str, wire: Wire = LOOPBACK) -> Copied:
    """From nothing to everything local: mounting and hydrating, or one rsync."""
    return _hydrate(scene, tree, wire) if contender == VOYFS else _rsync(scene, tree, wire)


def _hydrate(scene: Scene, tree: str, wire: Wire) -> Copied:
    scene.voyfs_server(tree, wire)  # it runs before the clock does, as rsync's does
    server = scene.voyfs_pid(tree, wire)
    before = sampling.ticks_of([server])
    start = time.monotonic()
    with voyfs(scene, tree, wire) as mount:
        mount.hydrate()
        seconds = time.monotonic() - start
        reader = sampling.ticks_of(mount.pids)
    return Copied(seconds, reader, sampling.ticks_of([server]) - before)


def _rsync(scene: Scene, tree: str, wire: Wire) -> Copied:
    """With everything that voyfs keeps too: hard links, ACLs, xattrs, numeric owners."""
    scene.tree(tree)
    with scene.wire(wire, scene.rsync_server()) as far:
        directory = scene.work_directory(far.reader)
        server = scene.server_pid("rsync")
        source_before = sampling.ticks_of([server])
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        url = f"rsync://{far.address}:{far.port}/trees/{tree}/"
        start = time.monotonic()
        far.reader.run(["rsync", "-aHAX", "--numeric-ids", "--whole-file", url, directory], timeout=1800)
        seconds = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        reader = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        source = sampling.ticks_of([server]) - source_before
        far.reader.run(["rm", "-rf", directory], timeout=600)
    return Copied(seconds, reader, source)
