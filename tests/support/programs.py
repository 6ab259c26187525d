"""`voyfs serve` and `voyfs mount` as programs, with all that they start, make and mount.

Every context manager here leaves nothing behind, whatever happened in its block: no mount, no
process. Ports are the kernel's choice and paths the caller's, so any number of tests may run side
by side.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from voyfs import control
from voyfs.core.errors import ControlError
from voyfs.mounts import mounts
from voyfs.syscalls import MNT_DETACH, umount

Result = TypeVar("Result")

COMMAND = (sys.executable, "-m", "voyfs.cli")
SECONDS = 60  # the bound of what hangs; nothing waits for it


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs `voyfs ARGUMENTS` to its end; the caller judges its status."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=cwd)


def first_line(process: "subprocess.Popen[str]") -> str:
    """The first line that `process` prints; empty when it ends without one."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def until(condition: Callable[[], object]) -> None:
    """Asks until it holds: for what gives no sign of itself."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def bounded(call: Callable[[], Result]) -> Result:
    """What `call` gives; TimeoutError if it hangs in the kernel, where no signal would end it.

    It is ended when the mount is taken away, which the caller's fixtures do.
    """
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome.result(SECONDS)


class Server:
    """`voyfs serve` of one tree, at the same address through all its lives."""

    def __init__(self, path: Path, log: Path, *options: str | Path, address: str = "127.0.0.1:0") -> None:
        self._path = path
        self._log = log
        self._options = options
        self.address = address
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *("serve", str(self._path), "--listen", self.address), *map(str, self._options)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = first_line(self.process)
        assert line.startswith("serving "), f"no server: {self._log.read_text()}"
        self.address = line.rpartition(" on ")[2]

    def stop(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait(SECONDS)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def restart(self) -> None:
        self.stop()
        self.start()


@contextmanager
def served(path: Path, *options: str | Path, address: str = "127.0.0.1:0") -> Iterator[Server]:
    server = Server(path, path.parent / f"{path.name}.serve.log", *options, address=address)
    try:
        yield server
    finally:
        server.stop()


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def processes_of(store: Path) -> list[int]:
    """Whatever runs for `store`: its path is in their command lines and is nobody else's."""
    found = []
    wanted = os.fsencode(store)
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass  # it has ended
    return [pid for pid in found if pid != os.getpid()]


def mounted_at(mountpoint: Path) -> int:
    """How many mounts lie at `mountpoint`."""
    return sum(path == mountpoint for path, _, _ in mounts())


class Mount:
    """One `voyfs mount`, in the foreground: its supervisor is a child of this process."""

    def __init__(self, address: str, mountpoint: Path, store: Path, *options: str | Path) -> None:
        self.path = mountpoint
        self.store = store
        self.log = mountpoint.parent / f"{mountpoint.name}.mount.log"
        with self.log.open("ab") as log:
            self.supervisor = subprocess.Popen(
                [*COMMAND, "mount", address, str(mountpoint), "--store", str(store), *map(str, options)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        line = first_line(self.supervisor)
        if not line.startswith("mounted "):
            self.supervisor.wait(SECONDS)
            raise AssertionError(f"no mount: {self.log.read_text()}")

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        return control.ask(self.store, op, **arguments)

    def status(self) -> dict[str, Any]:
        return self.ask("status")["status"]  # type: ignore[no-any-return]

    def hydrate(self) -> dict[str, Any]:
        """Returns when everything is local, with the status."""
        return self.ask("hydrate", wait=True)["status"]  # type: ignore[no-any-return]

    def changes(self) -> Iterator[dict[str, Any]]:
        """Statuses as hydration goes on, until all is local; the caller stops when it has seen enough."""
        for reply in control.call(self.store, "hydrate", wait=True):
            yield reply["status"]

    def settled(self) -> dict[str, Any]:
        """Waits, call by call, until a daemon answers its control socket."""
        deadline = time.monotonic() + SECONDS
        while True:
            os.statvfs(self.path)  # answered by the daemon that serves next
            try:
                return self.status()
            except ControlError:
                assert time.monotonic() < deadline

    @property
    def daemon(self) -> int:
        """The daemon's pid; asks the file system first, so that one is there."""
        os.statvfs(self.path)
        (pid,) = children(self.supervisor.pid)
        return pid

    def bulk(self) -> int:
        """The pid of the daemon's bulk process, once it is one: a child that has not executed its
        program yet keeps the daemon waiting for that."""
        daemon = self.daemon

        def found() -> list[int]:
            return [pid for pid in children(daemon) if b"voyfs.bulk" in Path(f"/proc/{pid}/cmdline").read_bytes()]

        until(found)
        (pid,) = found()
        return pid

    def kill_daemon(self) -> None:
        """SIGKILL; whoever uses the mount waits for the next one."""
        os.kill(self.daemon, signal.SIGKILL)

    def kill_all(self) -> None:
        """SIGKILL of supervisor and daemon: the mount is dead."""
        pids = [self.supervisor.pid, self.daemon]
        # stopped first, so that no new daemon is started in between
        os.kill(pids[0], signal.SIGSTOP)
        for pid in reversed(pids):
            os.kill(pid, signal.SIGKILL)
        self.supervisor.wait(SECONDS)
        with open(self.store / "lock", "rb") as lock:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_SH)  # free when the daemon is gone, whoever reaps it

    def unmount(self) -> None:
        """As `voyfs unmount` without a process: returns when the supervisor has ended."""
        umount(os.fsencode(self.path), 0)
        status = self.supervisor.wait(SECONDS)
        assert status == 0, f"the supervisor ended with {status}: {self.log.read_text()}"

    def close(self) -> None:
        while mounted_at(self.path):
            umount(os.fsencode(self.path), MNT_DETACH)
        try:
            self.supervisor.wait(10)
        except subprocess.TimeoutExpired:
            pass
        for pid in {self.supervisor.pid, *processes_of(self.store)}:
            if pid != self.supervisor.pid or self.supervisor.returncode is None:
                os.kill(pid, signal.SIGKILL)
        self.supervisor.wait()
        assert self.supervisor.stdout is not None
        self.supervisor.stdout.close()
        # shown where a test failed
        print(
            f"the log of {self.path}, ended with {self.supervisor.returncode}:",
            self.log.read_text(),
            sep="\n",
            file=sys.stderr,
        )


@contextmanager
def mounted(address: str, mountpoint: Path, store: Path, *options: str | Path) -> Iterator[Mount]:
    mountpoint.mkdir(exist_ok=True)
    mount = Mount(address, mountpoint, store, *options)
    try:
        yield mount
    finally:
        mount.close()


class Pair:
    """An exported tree and its mount."""

    def __init__(self, source: Path, server: Server, mount: Mount) -> None:
        self.source = source
        self.server = server
        self.mount = mount
        self.path = mount.path


@contextmanager
def exported(base: Path, *options: str | Path) -> Iterator[Pair]:
    """BASE/source served and mounted at BASE/mount with the store BASE/store."""
    with ExitStack() as stack:
        server = stack.enter_context(served(base / "source"))
        mount = stack.enter_context(mounted(server.address, base / "mount", base / "store", *options))
        yield Pair(base / "source", server, mount)


def in_child(code: str, directory: Path, *, uid: int = 0, gid: int = 0) -> Any:
    """What `code` (Python; it sets `result`) gives in a process of its own, as JSON.

    It runs in `directory`, whose parents need not let uid:gid in. An OSError there is the errno, as
    a negative number.
    """
    prefix = f"import os, sys, json, errno\nos.setgroups([]); os.setgid({gid}); os.setuid({uid})\nresult = None\n"
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    program = f"{prefix}try:\n{body}except OSError as error:\n    result = -error.errno\nprint(json.dumps(result))\n"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
