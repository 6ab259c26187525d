"""Holds the FUSE descriptor, starts the daemon and starts it again; does nothing else.

The mount lives as long as some process holds its descriptor, so whatever kills a daemon, its
users wait a moment for the next one instead of failing (see `handshake`). The less there is
here, the less can kill this process.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voyfs.control import ask, error_named
from voyfs.core.errors import ControlError, MountError
from voyfs.handshake import connected, open_and_mount, widen_readahead
from voyfs.logs import get_logger
from voyfs.mounts import check_free, unmount, wait_released
from voyfs.notify import Manager

log = get_logger(__name__)

# A daemon that ends with this status wants to be replaced (it was asked to, by SIGTERM).
REPLACE = 75

# Pauses between restarts; after so many in a row without a serving daemon we give up.
_FIRST_PAUSE, _LAST_PAUSE, _TRIES = 0.05, 2.0, 10

_MESSAGE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What a daemon needs to know; paths are absolute. `loss_seconds` None: wait for ever."""

    address: str
    mountpoint: str
    store: str
    warm: bool = False
    loss_seconds: float | None = None
    cert: str | None = None
    key: str | None = None
    ca: str | None = None
    server_name: str | None = None
    background: bool = False  # logs go to STORE/log
    bandwidth: int = 0  # the background's, in bytes a second; 0: no limit
    metrics: str | None = None  # HOST:PORT
    seeds: tuple[str, ...] = ()  # see `voyfs.seeds`
    record: str | None = None  # a trace to write, see `voyfs.traces`
    replay: str | None = None  # a trace to bring first
    share: str | None = None  # a file, see `sharing`

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class Supervisor:
    def __init__(self, settings: Settings, manager: Manager, metrics: socket.socket | None = None) -> None:
        """`metrics`: a listening socket on which each daemon answers for its figures."""
        self._settings = settings
        self._manager = manager
        self._descriptor: int | None = None
        self._metrics = metrics
        self._stopping = False
        self._mounting = False  # something may be mounted, and it is ours
        self._launching = False  # a daemon that could not be ended yet
        self._interrupted = 0  # the number of a signal that came meanwhile

    def run(self, announce: Callable[[], None]) -> None:
        """Mounts, calls `announce` when the mount answers, returns when it is unmounted.

        Raises what the first daemon could not start for: MountError, StoreError, SourceError...
        """
        mountpoint = Path(self._settings.mountpoint)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        kept = self._manager.kept()
        if kept is not None and connected(kept):
            daemon = self._go_on(kept)
        else:
            daemon = self._begin(mountpoint)
        if self._settings.background:
            redirect(Path(self._settings.store) / "log")
        widen_readahead(mountpoint)
        announce()
        self._manager.ready()
        self._watch(daemon)
        self._manager.forget()

    def _begin(self, mountpoint: Path) -> subprocess.Popen[bytes]:
        """Mounts, with a daemon that has its store and source already: what can fail leaves no trace."""
        settings = self._settings
        store = Path(settings.store).resolve()
        if store.is_relative_to(mountpoint.resolve()) or mountpoint.resolve().is_relative_to(store):
            raise MountError(f"the store {store} and the mount point {mountpoint} lie in each other; move one of them")
        if check_free(mountpoint):
            log.warning("cleaned away a dead mount", mountpoint=str(mountpoint))
        if settings.seeds:
            from voyfs.seeds import check_seeds

            check_seeds(settings.seeds, mountpoint=settings.mountpoint, store=settings.store)
        if settings.record is not None or settings.replay is not None:
            from voyfs.traces import check_traces

            check_traces(settings.record, settings.replay, mountpoint=settings.mountpoint)
        daemon, lifeline = self._start(taking_over=False)
        self._mounting = True
        try:
            self._descriptor = open_and_mount(Path(settings.store), mountpoint)
            self._hand_over(lifeline)
        except BaseException:
            daemon.kill()
            daemon.wait()
            if self._descriptor is not None:
                unmount(mountpoint, lazy=True)
            raise
        self._manager.keep(self._descriptor)
        return daemon

    def _go_on(self, descriptor: int) -> subprocess.Popen[bytes]:
        """Serves a mount whose supervisor is gone; its daemon, if it lives yet, makes way."""
        self._descriptor = descriptor
        self._mounting = True
        store = Path(self._settings.store)
        try:
            ask(store, "upgrade")
        except ControlError:
            pass  # it is gone as well
        wait_released(store)
        daemon, lifeline = self._start(taking_over=True)
        self._hand_over(lifeline)
        log.info("goes on with a mount that was kept", mountpoint=self._settings.mountpoint)
        return daemon

    def _watch(self, daemon: subprocess.Popen[bytes]) -> None:
        """Starts a new daemon when one ends, until the mount is gone.

        One that served had been all right, however short its life: its users are better off with the next one
        than with none. Only starts that come to nothing, again and again, are a reason to give up.
        """
        failures = 0
        while True:
            status = daemon.wait()
            if status == 0:
                return
            if status != REPLACE:
                log.warning("the daemon ended", status=status)
            if failures > _TRIES:
                raise MountError(
                    f"no daemon comes up for {self._settings.mountpoint}; see"
                    f" {self._settings.store}/log, then unmount with --lazy"
                )
            if failures:
                time.sleep(min(_FIRST_PAUSE * 2 ** (failures - 1), _LAST_PAUSE))
            try:
                daemon, lifeline = self._start(taking_over=True)
                self._hand_over(lifeline)
                failures = 0
            except Exception as error:
                failures += 1
                log.error("the daemon cannot start", why=str(error))

    def _start(self, *, taking_over: bool) -> tuple[subprocess.Popen[bytes], socket.socket]:
        """Starts a daemon; returns when it has its store and, if that is new, its source."""
        lifeline, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        figures = self._metrics.fileno() if self._metrics is not None else -1
        self._launching = True
        with theirs:
            daemon = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "voyfs.daemon", self._settings.to_json()),
                    *(str(theirs.fileno()), json.dumps(taking_over), str(figures)),
                ],
                pass_fds=[theirs.fileno(), *([figures] if figures >= 0 else [])],
                stdin=subprocess.DEVNULL,
            )
        self._launching = False
        try:
            if self._interrupted:
                raise SystemExit(128 + self._interrupted)
            self._receive(lifeline, "ready")
        except BaseException:
            daemon.kill()
            daemon.wait()
            raise
        return daemon, lifeline

    def _hand_over(self, lifeline: socket.socket) -> None:
        """Gives the descriptor to a daemon; returns when it answers the kernel."""
        assert self._descriptor is not None
        with lifeline:
            socket.send_fds(lifeline, [b"here"], [self._descriptor])
            self._receive(lifeline, "serving")

    def _receive(self, lifeline: socket.socket, expected: str) -> None:
        """Waits for the daemon's word. Raises the error that it names instead."""
        message = lifeline.recv(_MESSAGE_BYTES)
        if not message:
            raise MountError("the daemon died while it started; its log says why")
        reply: dict[str, Any] = json.loads(message)
        if "error" in reply:
            raise error_named(reply["kind"], reply["error"])
        assert reply == {"state": expected}

    def _stop(self, number: int, _: object) -> None:
        """On SIGINT and SIGTERM: unmounts; the daemon ends when its last user is gone."""
        if self._stopping:
            return
        if not self._mounting:  # what may be there is another's
            self._interrupted = number
            if not self._launching:
                raise SystemExit(128 + number)
            return
        self._stopping = True
        mountpoint = Path(self._settings.mountpoint)
        try:
            unmount(mountpoint)
        except MountError as error:
            log.warning("in use: unmounting lazily", why=str(error))
            unmount(mountpoint, lazy=True)


def redirect(path: Path) -> None:
    """Sends this process's output to the end of the file `path`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
