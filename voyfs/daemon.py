"""Composition root of the mount's daemon: the only place where its parts are wired.

Started by the supervisor as `python -m voyfs.daemon SETTINGS LIFELINE TAKING_OVER METRICS`. On the lifeline it says
"ready" when it has the store (and the source, if the store is new), receives the FUSE
descriptor, and says "serving" when it answers the kernel; or it names what went wrong.
"""

import json
import os
import select
import shutil
import signal
import socket
import sys
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from voyfs import control, listener, metrics
from voyfs.background import Background
from voyfs.bulk import BulkProcess
from voyfs.carrier import Carrier
from voyfs.core.errors import SourceUnreachable, TraceError, VoyfsError
from voyfs.core.limits import AHEAD_FETCHES
from voyfs.fuse import Operations, forget
from voyfs.gauges import families_of
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.neighbours import Neighbours
from voyfs.operator import Operator
from voyfs.pacing import Pacer
from voyfs.readahead import ReadAhead
from voyfs.rpc.client import GrpcSource
from voyfs.rpc.loss import SourceLoss
from voyfs.rpc.tls import TlsFiles
from voyfs.seeds import Seeds
from voyfs.sharing import Share
from voyfs.store.store import Store
from voyfs.supervisor import REPLACE, Settings, redirect
from voyfs.syscalls import boot_id
from voyfs.takeover import StandIn, keep_buffers_resident
from voyfs.traces import Recorder, read_trace
from voyfs.vfs import Vfs, cookie, in_thread

log = get_logger(__name__)

# A mount of a new store needs the source at once; a person waits for the answer.
ATTACH_SECONDS = 5.0

# A mount of a known store asks too, but is useful without it.
GREET_SECONDS = 1.0

CHECKPOINT_SECONDS = 5.0

# What a killed daemon may lose of a trace.
RECORD_SECONDS = 1.0

# Calls of the kernel served at the same time. Each that waits for the source holds one, and
# local data must be served meanwhile; a task costs a few KiB.
FUSE_TASKS = 1024


class Daemon:
    def __init__(self, settings: Settings, lifeline: socket.socket, *, taking_over: bool, figures: int) -> None:
        """`taking_over`: the mount has users already, whom an earlier daemon served. `figures`: the
        listening socket for metrics, -1 if there is none."""
        self._settings = settings
        self._taking_over = taking_over
        self._lifeline = lifeline
        self._figures = figures
        self._greeted = True  # or the source did not answer
        self._path = Path(settings.store)

    async def run(self) -> int:
        """Serves until unmounted (0) or asked to make way for another daemon (REPLACE)."""
        settings = self._settings
        missing = not self._path.exists()
        new = missing or (self._path.is_dir() and not any(self._path.iterdir()))
        self._store = Store(self._path, boot_id(), taking_over=self._taking_over)
        try:
            try:
                await self._connect()
            except BaseException:
                if new and self._store.export_id is None:
                    self._unmake(self._path, whole=missing)
                raise
            if settings.record is not None:
                self._record(settings.record)
            self._say(state="ready")
            return await self._serve(await in_thread(self._receive_descriptor))
        finally:
            self._store.close()

    @staticmethod
    def _unmake(store: Path, *, whole: bool) -> None:
        """Removes what was made of a store that nothing came of; `whole`: with its directory."""
        for part in store.iterdir():
            if part.is_dir():
                shutil.rmtree(part, ignore_errors=True)
            else:
                part.unlink()
        if whole:
            store.rmdir()

    async def _connect(self) -> None:
        settings = self._settings
        tls = None
        if settings.cert and settings.key and settings.ca:
            tls = TlsFiles(Path(settings.cert), Path(settings.key), Path(settings.ca))
        loss = SourceLoss(settings.loss_seconds)
        self._tls = tls
        self._source = GrpcSource(settings.address, tls=tls, server_name=settings.server_name, loss=loss)
        self._seeds = Seeds(settings.seeds) if settings.seeds else None
        self._share = Share(Path(settings.share)) if settings.share else None
        self._hydrator = Hydrator(self._store, self._source, self._seeds, self._share)
        self._hydrator.neighbours = Neighbours(self._store, self._source, self._hydrator, cookie)
        if self._store.detached or self._taking_over:
            return  # whatever is wrong with the source now, what is local must be served on
        known = self._store.export_id is not None
        with trio.move_on_after(GREET_SECONDS if known else ATTACH_SECONDS):
            try:
                await self._hydrator.attach()
            except SourceUnreachable:
                if not known:
                    raise
            return
        if not known:
            raise SourceUnreachable(
                f"no answer from {settings.address} within {ATTACH_SECONDS:.0f} s; is"
                " `voyfs serve` running there, and the port open?"
            )
        self._greeted = False

    def _receive_descriptor(self) -> int:
        _, descriptors, _, _ = socket.recv_fds(self._lifeline, 4096, 1)
        if not descriptors:
            raise SystemExit(1)  # the supervisor is gone
        return descriptors[0]

    async def _serve(self, descriptor: int) -> int:
        if self._settings.background:
            redirect(self._path / "log")
        if not self._greeted:
            log.warning("the source does not answer yet", address=self._settings.address)
        stand_in = StandIn(descriptor, taking_over=self._taking_over)
        vfs = Vfs(self._store, self._hydrator)
        operations = Operations(vfs, stand_in)
        keep_buffers_resident()
        pyfuse3.init(operations, stand_in.mountpoint, set())
        status = 0
        lane = partial(
            BulkProcess,
            self._settings.address,
            self._path,
            tls=self._tls,
            server_name=self._settings.server_name,
            held=[self._store.lock],  # the next daemon must not begin before these processes' last byte
            seeds=self._settings.seeds,
        )
        bulk, readers = lane(), lane(idle=False, jobs=AHEAD_FETCHES)
        self._hydrator.next = ReadAhead(self._store, self._source, self._hydrator, readers)
        # A rate that was set while mounted lasts as long as the mount.
        rate = self._store.bandwidth if self._taking_over else None
        pacer = Pacer(self._settings.bandwidth if rate is None else rate, self._share)
        self._store.bandwidth = pacer.rate
        carrier = Carrier(self._store, bulk, self._hydrator, pacer)
        background = Background(self._store, self._source, self._hydrator, carrier, self.checkpoint)
        async with trio.open_nursery() as nursery:
            self._hydrator.nursery = nursery

            def make_way() -> None:
                """Calls under way are not answered: the kernel sends them to the next daemon."""
                nonlocal status
                status = REPLACE
                nursery.cancel_scope.cancel()

            operator = Operator(
                self._settings,
                self._store,
                vfs,
                self._hydrator,
                background,
                self._source,
                nursery,
                self.checkpoint,
                forget,
                make_way,
            )
            if self._settings.warm and not self._store.hydrating:
                await operator.warming.watch()
            nursery.start_soon(listener.serve, listener.listen(self._path), operator.handle)
            nursery.start_soon(self._checkpoints)
            nursery.start_soon(operator.sample)
            nursery.start_soon(self._hydrator.keep_telling)
            if self._figures >= 0:
                families = families_of(self._store, self._hydrator, background, self._source)
                nursery.start_soon(metrics.serve, self._figures, families)
            if self._hydrator.recorder is not None:
                nursery.start_soon(self._recording, self._hydrator.recorder)
            if self._settings.replay is not None and not self._store.detached:
                await self._replay(self._settings.replay, background, nursery)
            if not self._settings.warm or self._store.hydrating:
                operator.hydrate()

            async def announce() -> None:
                await operations.initialised.wait()
                await stand_in.feed()
                if not stand_in.resends:
                    log.warning("the kernel cannot send unanswered calls again (before 6.9)")
                self._say(state="serving")
                self._lifeline.close()

            async def on_sigterm() -> None:
                with trio.open_signal_receiver(signal.SIGTERM) as signals:
                    async for _ in signals:
                        make_way()

            async def on_unmount() -> None:
                """Ends what still waits for the source: there is nobody left to be answered."""
                with select.epoll() as errors:
                    errors.register(descriptor, 0)
                    await trio.lowlevel.wait_readable(errors.fileno())
                nursery.cancel_scope.cancel()

            nursery.start_soon(announce)
            nursery.start_soon(on_sigterm)
            nursery.start_soon(on_unmount)
            await pyfuse3.main(min_tasks=8, max_tasks=FUSE_TASKS)
            nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await bulk.close()
            await readers.close()
            await self._source.close()
            if status == 0:  # the mount is gone, and with it whoever used what has no name
                self._store.names.adopt_orphans()
            if self._hydrator.recorder is not None:
                self._hydrator.recorder.close()
            try:
                await self.checkpoint()
            except OSError as error:  # the log has it, for the next mount of this boot
                log.error("the last checkpoint fails", why=str(error))
            (self._path / control.NAME).unlink(missing_ok=True)
        return status

    async def checkpoint(self) -> None:
        await self._store.checkpoint(in_thread)

    async def _checkpoints(self) -> None:
        while True:
            if self._seeds is not None:
                self._seeds.look()
            await trio.sleep(CHECKPOINT_SECONDS)
            try:
                await self.checkpoint()
            except OSError as error:  # a full disk above all; what was to be written waits
                log.warning("checkpoint fails", why=str(error))

    def _record(self, trace: str) -> None:
        try:
            self._hydrator.recorder = Recorder(trace, self._store.chunk, anew=not self._taking_over)
        except TraceError as error:
            if not self._taking_over:
                raise
            log.warning("recording ends", path=trace, why=str(error))  # its users are to be served

    async def _recording(self, recorder: Recorder) -> None:
        while True:
            await trio.sleep(RECORD_SECONDS)
            lines = recorder.take()
            if lines:
                await in_thread(partial(recorder.write, lines))

    async def _replay(self, trace: str, background: Background, nursery: trio.Nursery) -> None:
        try:
            background.bring_first(await in_thread(partial(read_trace, trace)), nursery)
        except TraceError as error:  # it was good when the mount was made
            log.warning("trace-ignored", why=str(error))

    def _say(self, **message: str) -> None:
        self._lifeline.send(json.dumps(message).encode())


def main() -> None:
    settings = Settings(**json.loads(sys.argv[1]))
    lifeline = socket.socket(fileno=int(sys.argv[2]))
    os.set_inheritable(lifeline.fileno(), False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the supervisor decides
    figures = int(sys.argv[4])
    if figures >= 0:
        os.set_inheritable(figures, False)
    daemon = Daemon(settings, lifeline, taking_over=json.loads(sys.argv[3]), figures=figures)
    try:
        sys.exit(trio.run(daemon.run))
    except* (VoyfsError, OSError) as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        kind = type(error).__name__ if isinstance(error, VoyfsError) else "StoreError"
        try:
            lifeline.send(json.dumps({"error": str(error), "kind": kind}).encode())
        except OSError:  # it was said already that all was well
            log.error("the daemon ends", why=str(error), kind=kind)
        sys.exit(1)


if __name__ == "__main__":
    main()
