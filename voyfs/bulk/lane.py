"""The owner's end of the bulk lane: starts the process, hands it jobs, awaits outcomes.

Never forks: gRPC may be running in this process, and a copy of it could not. The process is
executed afresh and inherits one socket only, so it can never hold a mount open.
"""

import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import trio

from voyfs.bulk.frames import Setup, decode_outcomes, encode_jobs, encode_setup
from voyfs.core.errors import SourceUnreachable
from voyfs.core.limits import BULK_JOB_BYTES, BULK_JOB_FILES, BULK_JOBS, MIB
from voyfs.ports import FileDone, FileJob
from voyfs.rpc.address import parse_address, require_secure
from voyfs.rpc.tls import TlsFiles

_LINE_BYTES = 1 * MIB  # 256 outcomes with an error each are 100 KiB
_RESTART_SECONDS = 1.0  # between two starts of the process, at least


@dataclass
class _Waiting:
    count: int
    done: trio.Event = field(default_factory=trio.Event)
    outcomes: list[FileDone] | None = None  # None: the process ended


class _Process:
    """One life of the process."""

    def __init__(self, setup: Setup, held: Sequence[int]) -> None:
        """Raises OSError when it cannot be started."""
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            # Not trio.lowlevel.open_process: it starts processes from a worker thread, and the
            # end of that thread would be taken for the end of the owner.
            self.popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "voyfs.bulk"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                pass_fds=held,
            )
            undo.pop_all()
        ours.setblocking(False)
        self.started = trio.current_time()
        self.ended = trio.Event()
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._sending = trio.Lock()
        self._setup: bytes = encode_setup(setup)
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = count(1)

    async def converse(self) -> None:
        """Passes outcomes on until the process ends; then fails what is left."""
        buffer = b""
        try:
            while True:
                try:
                    data = await self._stream.receive_some()
                except trio.BrokenResourceError:
                    break
                *lines, buffer = (buffer + data).split(b"\n")
                if not data or len(buffer) > _LINE_BYTES or not all(map(self._finish, lines)):
                    break
        finally:
            with trio.CancelScope(shield=True):
                # Dead and gone, so that not a byte lands after those who wait hear of it.
                self.popen.kill()
                await trio.to_thread.run_sync(self.popen.wait)
                await self._stream.aclose()
            self.ended.set()
            for waiting in self._waiting.values():
                waiting.done.set()

    def _finish(self, line: bytes) -> bool:
        """False where the process has lost its mind."""
        try:
            number, outcomes = decode_outcomes(line)
            waiting = self._waiting[number]
        except (ValueError, TypeError, LookupError):
            return False
        if len(outcomes) != waiting.count:
            return False
        waiting.outcomes = outcomes
        waiting.done.set()
        return True

    async def run(self, jobs: Sequence[FileJob]) -> list[FileDone] | None:
        """None when the process ended first. When cancelled, the process is killed first."""
        number = next(self._numbers)
        waiting = self._waiting[number] = _Waiting(len(jobs))
        try:
            async with self._sending:
                if not self.ended.is_set():
                    line = encode_jobs(number, jobs)
                    setup, self._setup = self._setup, b""
                    await self._stream.send_all(setup + line)
            if not self.ended.is_set():
                await waiting.done.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await self.ended.wait()
        except trio.Cancelled:
            self.popen.kill()
            with trio.CancelScope(shield=True):
                await self.ended.wait()
            raise
        finally:
            del self._waiting[number]
        return waiting.outcomes


class BulkProcess:
    """A `BulkLane` from the export at `address` (HOST:PORT) into the backing directory `data`.

    The process starts with the first job, and again when it has ended; it lives until `close`,
    at most as long as the trio run. With `idle` it leaves processor and disk to others. It is given `jobs` at once.
    What the trees `seeds` (see `voyfs.seeds`) have as well is not fetched.
    The descriptors `held` stay open as long as it lives: whoever waits for a lock on one waits for its end.
    """

    def __init__(
        self,
        address: str,
        data: Path,
        *,
        tls: TlsFiles | None = None,
        server_name: str | None = None,
        idle: bool = True,
        jobs: int = BULK_JOBS,
        held: Sequence[int] = (),
        seeds: Sequence[str] = (),
    ) -> None:
        """Raises ListenError, InsecureError."""
        require_secure(parse_address(address), tls)
        if tls is not None:
            tls.check()
        self._held = held
        self._setup = Setup(address, tls, server_name, data.absolute(), idle, tuple(seeds))
        self._slots = trio.Semaphore(jobs)
        self._starting = trio.Lock()
        self._process: _Process | None = None
        self._closed = False

    async def run(self, jobs: Sequence[FileJob]) -> list[FileDone]:
        """As `BulkLane.run`. If it is cancelled nevertheless, the process is killed first, so
        that nothing lands later; other calls under way then end with SourceUnreachable."""
        _check(jobs)
        async with self._slots:
            if self._closed:
                return _unreachable(jobs, "the bulk lane was closed")
            try:
                process = await self._living()
            except OSError as error:
                return _unreachable(jobs, f"the bulk process cannot be started: {error}")
            outcomes = await process.run(jobs)
        if outcomes is None:
            return _unreachable(jobs, "the bulk process ended")
        return outcomes

    async def begin(self) -> bool:
        """Starts the process, if it does not run, before there is a job; whether it is ready for one now."""
        await self.run([])
        return self.pid is not None

    async def close(self) -> None:
        """Ends the process; nothing lands any more. Calls under way end as if it had died."""
        self._closed = True
        await self.rest()

    async def rest(self) -> None:
        """As `close`, but the next job starts the process again."""
        if self._process is not None:
            self._process.popen.kill()
            with trio.CancelScope(shield=True):
                await self._process.ended.wait()

    @property
    def pid(self) -> int | None:
        """Of the process, if it runs."""
        process = self._process
        return None if process is None or process.ended.is_set() else process.popen.pid

    async def _living(self) -> _Process:
        async with self._starting:
            process = self._process
            if process is None or process.ended.is_set():
                if process is not None:
                    await trio.sleep_until(process.started + _RESTART_SECONDS)
                process = self._process = _Process(self._setup, self._held)
                trio.lowlevel.spawn_system_task(process.converse)
            return process


def _check(jobs: Sequence[FileJob]) -> None:
    if len(jobs) > BULK_JOB_FILES:
        raise ValueError("more than BULK_JOB_FILES in one run")
    if sum(extent.length for job in jobs for extent in job.extents) > BULK_JOB_BYTES:
        raise ValueError("more than BULK_JOB_BYTES in one run")


def _unreachable(jobs: Sequence[FileJob], why: str) -> list[FileDone]:
    return [FileDone(SourceUnreachable(why), 0) for _ in jobs]
