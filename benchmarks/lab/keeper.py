"""Keeps one laboratory host alive, and leaves nothing behind when it ends.

Run as a program, one per host (see `command`). Two processes come out of it:

* the *init* of the host: process 1 of new PID, mount, network, UTS, IPC and cgroup namespaces. Everything that runs on
  the host is inside its PID namespace, so its death is the host's power cut: the kernel kills the rest, and with the
  last process go the mounts, the interfaces and the namespaces, none of which has a name anywhere else.
* the *keeper*, outside of them: it waits for the init to end and then removes what the kernel does not, which is the
  host's cgroups and its directory.

The init watches a pidfd of the lab's owner and ends when the owner does, however that happens. A parent-death signal
would not do: it is tied to the *thread* that started the child, and test runners start labs from short-lived ones.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.lab import cgroups, syscalls
from benchmarks.lab.cgroups import Hierarchy
from benchmarks.lab.syscalls import mount

DATA: Final = "/var/lib/voyager"  # the one place on a host that is its own and lies on a real disk
HIDDEN: Final = ("/run", "/tmp", "/dev/shm")  # shadowed by the host's own tmpfs


@dataclass(frozen=True)
class Config:
    """What a lab asks of a keeper; travels as JSON in argv."""

    name: str  # host name
    owner: int  # inherited pidfd of the lab's owner
    directory: str = ""  # the host's own directory on disk; a wire has none
    hide: str = ""  # directory with the files of all hosts of all labs
    keep: list[str] = field(default_factory=list)  # stay visible although they lie below a hidden place
    cgroup: str = ""  # name of the host's group; a wire has none

    @property
    def is_host(self) -> bool:
        """Whether this is a whole host, and not only a network namespace for a wire."""
        return bool(self.directory)


def _let_go_of_mounts_below(hidden: list[str], keep: list[str]) -> None:
    """What others have mounted there would stay mounted as long as the host lives, though nobody can see it here."""
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        # space, tab, newline and backslash are written in octal
        path = Path(re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), line.split()[4]))
        inside = any(path.is_relative_to(place) and path != Path(place) for place in hidden)
        if inside and not any(Path(place).is_relative_to(path) for place in keep):
            with contextlib.suppress(OSError):  # gone meanwhile, or its parent was
                syscalls.detach(str(path))


def _mount_host(config: Config, groups: list[Hierarchy]) -> None:
    mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)  # first of all: nothing below may reach the machine
    hidden = [*HIDDEN, config.hide]
    _let_go_of_mounts_below(hidden, config.keep)
    kept = {
        path: os.open(path, os.O_PATH)
        for path in config.keep
        if any(Path(path).is_relative_to(place) for place in hidden)
    }
    own = os.open(config.directory, os.O_PATH)
    mount("proc", "/proc", "proc")
    mount("sysfs", "/sys", "sysfs")  # shows the interfaces of the namespace that mounts it
    if os.path.isdir("/sys/fs/fuse/connections"):
        mount("fusectl", "/sys/fs/fuse/connections", "fusectl")
    mount(f"/proc/self/fd/{own}", DATA, flags=syscalls.MS_BIND)
    for place, mode in (("/run", "755"), ("/tmp", "1777"), ("/dev/shm", "1777"), (config.hide, "0")):
        mount("tmpfs", place, "tmpfs", options=f"mode={mode}")
    for path, fd in kept.items():
        os.makedirs(path, exist_ok=True)
        mount(f"/proc/self/fd/{fd}", path, flags=syscalls.MS_BIND | syscalls.MS_REC)
    for fd in (own, *kept.values()):
        os.close(fd)
    cgroups.mount_hierarchies(groups)
    # What is left of the machine's own disk is common to all hosts: read-only, or it would be a way between them.
    mount("none", "/", flags=syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)


def _become_host(config: Config, groups: list[Hierarchy]) -> None:
    for hierarchy in groups:
        Path(hierarchy.group, "cgroup.procs").write_text("0")
    flags = syscalls.CLONE_NEWNET | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC
    if config.is_host:
        flags |= (
            syscalls.CLONE_NEWNS | syscalls.CLONE_NEWCGROUP
        )  # the cgroup namespace's root is the group just entered
    syscalls.unshare(flags)
    socket.sethostname(config.name)
    if config.is_host:
        for hierarchy in groups:
            if not hierarchy.options:
                Path(hierarchy.group, "init/cgroup.procs").write_text("0")
        _mount_host(config, groups)


def _init(config: Config, groups: list[Hierarchy], ready: int) -> None:
    """Process 1 of the host: reaps orphans, and ends with the owner."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: os._exit(1))  # an owner that gives up the start sends it to both of us
    try:
        _become_host(config, groups)
    except OSError as error:
        os.write(ready, str(error).encode())
        return
    os.write(ready, b"ready")  # and stays open: that it closes is how the keeper knows of our end
    poll = select.poll()
    poll.register(config.owner, select.POLLIN)
    poll.register(woken, select.POLLIN)
    while True:
        events = dict(poll.poll())
        if config.owner in events:
            return
        if woken in events:
            os.read(woken, 4096)
        try:
            while os.waitpid(-1, os.WNOHANG)[0] != 0:
                pass
        except ChildProcessError:
            pass


def command(config: Config) -> list[str]:
    """The argv of a keeper; isolated mode and no site make Python start in a third of the time."""
    repository = str(Path(__file__).resolve().parents[2])
    program = "import sys; sys.path.insert(0, sys.argv[1]); from benchmarks.lab import keeper; keeper.main()"
    return [sys.executable, "-I", "-S", "-c", program, repository, json.dumps(vars(config))]


def _answer(**values: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # the owner has gone; cleaning up goes on
        os.write(1, json.dumps(values).encode() + b"\n")


def _keep(config: Config, groups: list[Hierarchy]) -> None:
    """Start the init, tell the owner, and wait for the end of everything on the host."""
    alive, ready = os.pipe()
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(alive)
            _init(config, groups, ready)
        finally:
            os._exit(0)
    os.close(ready)
    message = os.read(alive, 4096).decode()
    if message == "ready":
        _answer(pid=pid)
    while os.read(alive, 4096):  # ends when the init does, however it does
        pass
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        cgroups.thaw(groups)
        time.sleep(cgroups.THAW_SECONDS)
    if message != "ready":
        raise OSError(message or "the init ended at once")


def main() -> None:
    """Answer on stdout with the init's process id or with what went wrong, as JSON; return when all is removed."""
    config = Config(**json.loads(sys.argv[2]))
    os.chdir("/")
    os.umask(0o022)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing interrupts the cleaning up; see _init
    groups = cgroups.hierarchies(config.cgroup) if config.cgroup else []
    try:
        cgroups.make(groups)
        _keep(config, groups)
    except OSError as error:
        _answer(error=str(error))
    finally:
        cgroups.remove(groups)
        if config.directory:
            shutil.rmtree(config.directory)
            for parent in Path(config.directory).parents[:2]:
                with contextlib.suppress(OSError):  # not empty: other hosts, other labs
                    parent.rmdir()
