"""The container's files: served on the source, mounted on the target, by voyfs as a program (ports.Disk).

It must not know of containers or of the order of a migration, and of voyfs nothing but its command line and its control
socket.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from migrator import syscalls
from migrator.core import argv, limits
from migrator.core.argv import Tls
from migrator.core.errors import DiskFailed, NoSpace, Taken
from migrator.core.volumes import Place
from migrator.mounted import VoyfsMount
from migrator.tools import Tool, first_line

START_SECONDS = 30.0  # a Python program that imports gRPC, on a busy machine
BAD_SEED = 18  # voyfs' exit status


class VoyfsDisk:
    """See ports.Disk."""

    def __init__(self, program: Sequence[str], tls: Tls | None, state: Path) -> None:
        """PROGRAM: how to start voyfs. STATE: the agent's directory."""
        self._program = list(program)
        self._tls = tls
        self._share = state / "share"
        self._exports = state / "exports"
        self._exports.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._tool = Tool()

    def limit(self, rate: int) -> None:
        """Let the backgrounds of all mounts bring RATE bytes a second together (0: all they can), from now on.

        Raises DiskFailed. Reads of what is missing are never held back.
        """
        if not rate and not self._share.exists():
            return
        done = self._tool.run(argv.voyfs_share(self._program, self._share, rate), START_SECONDS)
        if done.returncode != 0:
            why = first_line(done.stderr, last=True) or f"status {done.returncode}"
            raise DiskFailed(f"cannot limit what mounts bring: {why}")

    def problem(self) -> str:
        """See ports.Disk."""
        if not os.path.exists("/dev/fuse"):
            return "there is no /dev/fuse"
        if shutil.which(self._program[0]) is None:
            return f"{self._program[0]} is not found"
        return ""

    def taken(self, directory: str) -> str:
        """See ports.Disk."""
        return "exists already" if os.path.lexists(directory) else ""

    def free_bytes(self, directory: str) -> int:
        """See ports.Disk."""
        place = Path(directory)
        while not place.exists():
            place = place.parent
        found = os.statvfs(place)
        return found.f_bavail * found.f_frsize

    def claim(self, directory: str) -> None:
        """See ports.Disk."""
        try:
            Path(directory).parent.mkdir(parents=True, exist_ok=True)
            Path(directory).mkdir()
        except FileExistsError:
            raise Taken(f"the target already has {directory}", remedy="move it away there") from None
        except OSError as error:
            kind = NoSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else DiskFailed
            raise kind(f"cannot make {directory}: {error.strerror}") from error

    def remove(self, directory: str) -> None:
        """See ports.Disk."""
        try:
            if mounted := syscalls.mounts_below(directory):
                raise DiskFailed(f"{directory} is not deleted, for {mounted[0]} is mounted", remedy="unmount it first")
            if os.path.lexists(directory):
                shutil.rmtree(directory)
        except OSError as error:
            raise DiskFailed(f"cannot delete {directory}: {error.strerror}") from error

    def export(self, root: str, listen: str) -> VoyfsExport:
        """See ports.Disk."""
        words = argv.voyfs_serve(self._program, Path(root), listen, self._tls)
        reader, writer = os.pipe()
        errors = self._exports / f"log-{os.getpid()}-{reader}"
        try:
            with open(errors, "wb") as log:
                process = subprocess.Popen(
                    words, stdin=subprocess.DEVNULL, stdout=writer, stderr=log, start_new_session=True
                )
            os.close(writer)
            address = _announced(reader)
            if address is None:
                process.kill()
                process.wait()
                why = first_line(errors.read_text(errors="replace"), last=True) or f"status {process.returncode}"
                raise DiskFailed(f"cannot serve {root}: {why}")
        except OSError as error:
            raise DiskFailed(f"cannot start {words[0]}: {error.strerror}") from error
        finally:
            os.close(reader)
            errors.unlink(missing_ok=True)
        return VoyfsExport(self._exports, address, process.pid, process)

    def adopt(self, facts: Mapping[str, Any]) -> VoyfsExport | None:
        """See ports.Disk."""
        pid = int(facts["pid"])
        if _start_time(pid) != facts["started"]:
            return None
        return VoyfsExport(self._exports, str(facts["address"]), pid, None)

    def end_strays(self, known: Sequence[Mapping[str, Any]]) -> None:
        """End the exports of an earlier run that no journal knows."""
        pids = {int(facts["pid"]) for facts in known}
        for path in self._exports.glob("*.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                facts = json.loads(path.read_text())
                export = self.adopt(facts) if int(facts["pid"]) not in pids else None
                if export is not None:
                    export.stop()
                elif _start_time(int(facts["pid"])) != facts["started"]:
                    path.unlink(missing_ok=True)

    def mount(
        self, address: str, mountpoint: str, store: str, seeds: Sequence[str] = (), found: Sequence[str] = ()
    ) -> VoyfsMount:
        """See ports.Disk."""
        mounted = VoyfsMount(Path(mountpoint), Path(store))
        try:
            Path(mountpoint).mkdir(parents=True)
        except OSError as error:
            raise DiskFailed(f"cannot make {mountpoint}: {error.strerror}") from error
        useful = [seed for seed in dict.fromkeys(found) if seed not in seeds and os.path.isdir(seed)]
        words = partial(argv.voyfs_mount, self._program, address, Path(mountpoint), Path(store), self._share, self._tls)
        done = self._tool.run(words([*seeds, *useful][: max(limits.SEEDS, len(seeds))]), START_SECONDS)
        if done.returncode == BAD_SEED and useful:
            done = self._tool.run(words(seeds), START_SECONDS)
        if done.returncode != 0:
            mounted.discard()
            raise DiskFailed(f"cannot mount the source's files: {first_line(done.stderr, last=True)}")
        return mounted

    def keep(self, store: str, place: str) -> None:
        """See ports.Disk."""
        self.remove(place)
        try:
            Path(place).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.rename(f"{store}/data", place)
        except OSError as error:
            raise DiskFailed(f"cannot keep {store} as {place}: {error.strerror}") from error

    def mounted(self, mountpoint: str, store: str) -> VoyfsMount:
        """See ports.Disk."""
        return VoyfsMount(Path(mountpoint), Path(store))

    def remount(self, place: Place, mountpoint: str) -> BorrowedMount:
        """See ports.Disk."""
        borrowed = BorrowedMount(mountpoint)
        try:
            Path(mountpoint).mkdir(parents=True)
        except OSError as error:
            raise DiskFailed(f"cannot make {mountpoint}: {error.strerror}") from error
        done = self._tool.run(argv.mount(place.kind, place.origin, place.options, Path(mountpoint)), START_SECONDS)
        if done.returncode != 0:
            borrowed.discard()
            raise DiskFailed(
                f"cannot mount {place.origin} ({place.kind}): {first_line(done.stderr, last=True)}",
                remedy="make the target able to mount it, or choose '--volume PATH=skip'",
            )
        return borrowed

    def remounted(self, mountpoint: str) -> BorrowedMount:
        """See ports.Disk."""
        return BorrowedMount(mountpoint)

    def make_empty(self, path: str, *, directory: bool) -> None:
        """See ports.Disk."""
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).mkdir() if directory else Path(path).touch()
        except OSError as error:
            raise DiskFailed(f"cannot make {path}: {error.strerror}") from error


class BorrowedMount:
    """See ports.Borrowed."""

    def __init__(self, mountpoint: str) -> None:
        """Whether anything is mounted there is seen when it is discarded."""
        self._mountpoint = mountpoint

    def discard(self) -> None:
        """See ports.Borrowed."""
        try:
            syscalls.unmount_below(self._mountpoint)
        except OSError as error:
            raise DiskFailed(f"cannot unmount {self._mountpoint}: {error.strerror}") from error


class VoyfsExport:
    """See ports.Export. The server outlives the agent; a file tells the next agent of it."""

    def __init__(self, directory: Path, address: str, pid: int, process: subprocess.Popen[bytes] | None) -> None:
        """PROCESS: if it is a child of this agent."""
        self._address = address
        self._pid = pid
        self._process = process
        self._started = _start_time(pid)
        self._file = directory / f"{pid}.json"
        self._file.write_text(json.dumps(self.facts))

    @property
    def address(self) -> str:
        """See ports.Export."""
        return self._address

    @property
    def facts(self) -> dict[str, Any]:
        """See ports.Export."""
        return {"address": self._address, "pid": self._pid, "started": self._started}

    @property
    def alive(self) -> bool:
        """See ports.Export."""
        return not self.wait_released(0)

    def wait_released(self, seconds: float) -> bool:
        """See ports.Export."""
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            ended = self._process.returncode is not None
        else:
            ended = self._wait_adopted(seconds)
        if ended:
            self._file.unlink(missing_ok=True)
        return ended

    def stop(self) -> None:
        """See ports.Export."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._pid, number)
                self.wait_released(limits.CALL_SECONDS)

    def _wait_adopted(self, seconds: float) -> bool:
        try:
            descriptor = os.pidfd_open(self._pid)
        except ProcessLookupError:
            return True
        try:
            if _start_time(self._pid) != self._started:
                return True
            return bool(select.select([descriptor], [], [], seconds)[0])
        finally:
            os.close(descriptor)


def _announced(reader: int) -> str | None:
    """The address in the line "serving PATH on HOST:PORT"; None if the program ends, or takes too long."""
    text = b""
    while not text.endswith(b"\n"):
        if not select.select([reader], [], [], START_SECONDS)[0]:
            return None
        data = os.read(reader, 65536)
        if not data:
            return None
        text += data
    return os.fsdecode(text).strip().rpartition(" on ")[2]


def _start_time(pid: int) -> int:
    """When a process began, in ticks since the machine did; with the pid it names a process for good. 0: no such."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0
