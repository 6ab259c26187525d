"""What can be asked of a running mount over its control socket (see `control`)."""

import functools
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

import trio

from voyfs.background import Background
from voyfs.control import Reply
from voyfs.core.bandwidth import MOST
from voyfs.core.errors import ControlError, NotComplete, SourceError
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource
from voyfs.prefetching import Prefetching
from voyfs.refresh import Forget
from voyfs.store.store import Store
from voyfs.supervisor import Settings
from voyfs.verify import verify
from voyfs.vfs import Vfs
from voyfs.warming import Warming

log = get_logger(__name__)

SAMPLE_SECONDS = 0.5
RATE_SAMPLES = 10  # the rate is over the last five seconds

# How long detaching tries to tell the source.
RELEASE_SECONDS = 10.0

# Problems named in a status; the rest is counted.
SHOWN_PROBLEMS = 100


@functools.cache
def _version() -> str:
    from importlib.metadata import version  # slow to load, and not needed to mount

    return version("voyager")


class Operator:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        vfs: Vfs,
        hydrator: Hydrator,
        background: Background,
        source: BlockSource,
        nursery: trio.Nursery,
        checkpoint: Callable[[], Awaitable[None]],
        forget: Forget,
        make_way: Callable[[], None],
    ) -> None:
        """`make_way` ends this daemon so that the next one takes over."""
        self._settings = settings
        self._store = store
        self._hydrator = hydrator
        self._background = background
        self._source = source
        self._nursery = nursery
        self._checkpoint = checkpoint
        self._make_way = make_way
        self._before = store.records.totals.bytes - store.records.totals.absent_bytes  # local when this daemon began
        self._prefetching = Prefetching(store, vfs, hydrator)
        self.warming = Warming(store, hydrator, background, source, forget)
        self._hydrating = False
        self._samples: deque[tuple[float, int]] = deque(maxlen=RATE_SAMPLES)

    async def handle(self, request: dict[str, Any]) -> AsyncIterator[Reply]:
        """Carries out one request. Raises VoyfsError, OSError, KeyError for a bad one."""
        match request["op"]:
            case "status":
                yield {"done": True, "status": self.status()}
            case "prefetch":
                brought = await self._prefetching.bring([os.fsencode(path) for path in request["paths"]])
                names, used = float(request.get("names", 0)), float(request.get("working_set", 0))
                if (names or used) and not self._hydrating and not self._store.detached:
                    await self.warming.bring(names, used)
                yield {"done": True, "brought": brought, "status": self.status()}
            case "refresh":
                if self._hydrating:
                    raise ControlError("refresh is for a warm mount; this one hydrates already")
                again = [os.fsencode(path) for path in request.get("again", ())]
                yield {"done": True, **asdict(await self.warming.refresh(again))}
            case "hydrate":
                self.hydrate()
                while request.get("wait") and not (self._hydrator.progress.hydrated or self._store.detached):
                    if self._stuck():
                        raise NotComplete(self._what_is_missing())
                    yield {"status": self.status()}
                    with trio.move_on_after(SAMPLE_SECONDS):
                        await self._hydrator.changed.wait()
                        await trio.sleep(SAMPLE_SECONDS / 10)
                yield {"done": True, "status": self.status()}
            case "bandwidth":
                rate = request["rate"]
                if type(rate) is not int or not 0 <= rate < MOST:
                    raise ControlError("a rate is a whole number of bytes a second")
                self._store.bandwidth = rate
                self._background.carrier.pacer.change(rate)
                yield {"done": True, "status": self.status()}
            case "verify":
                if self._store.detached:
                    raise ControlError("detached already: there is no source to compare with")
                self._require_complete()
                report = await verify(self._store, self._source)
                progress = self._hydrator.progress
                came = {
                    "fetched_bytes": progress.fetched_bytes,
                    "written_bytes": progress.written_bytes,
                    "cached_bytes": self._before + progress.seed_bytes,
                }
                yield {"done": True, "report": asdict(report) | came}
            case "detach":
                self._require_complete()
                await self._detach()
                yield {"done": True, "status": self.status()}
            case "upgrade":
                yield {"done": True}
                self._make_way()
            case other:
                raise ControlError(f"unknown operation {other!r}")

    # -- operations -------------------------------------------------------------------------

    def hydrate(self) -> None:
        """Starts the background unless it runs already or nothing is left for it.

        Where it ended without everything, it tries anew: what was in its way may be gone.
        """
        progress = self._hydrator.progress
        if (not self._hydrating or self._stuck()) and not self._store.detached:
            self._store.begin_hydration()  # where the disk is full nothing has begun, and it can be asked for again
            self._hydrating = True
            progress.ended = False
            progress.problems.clear()
            self._nursery.start_soon(self._background.run)
            self._nursery.start_soon(self.warming.unwatch)

    async def _detach(self) -> None:
        if self._store.detached:
            return
        await self._checkpoint()
        # Leaving does not depend on the source: one that is away for good has no need to be told.
        with trio.move_on_after(RELEASE_SECONDS) as scope:
            try:
                await self._source.release()
            except SourceError as error:
                log.warning("the source was not told", why=str(error))
        if scope.cancelled_caught:
            log.warning("the source was not told", why="it does not answer")
        self._store.detach()
        await self._checkpoint()
        log.info("detached: the source is needed no more")

    def _require_complete(self) -> None:
        if not self._hydrator.progress.hydrated and not self._store.detached:
            raise NotComplete(self._what_is_missing())

    def _stuck(self) -> bool:
        progress = self._hydrator.progress
        return progress.ended and not progress.hydrated

    def _what_is_missing(self) -> str:
        problems = self._hydrator.progress.problems
        if problems:
            path, problem = next(iter(problems.items()))
            return (
                f"{len(problems)} paths cannot be had from the source, the first is {os.fsdecode(path)}: {problem.why}"
            )
        missing = self._store.records.totals.absent_bytes
        return f"not everything is local yet ({missing} bytes known to be missing); hydrate first"

    # -- status -----------------------------------------------------------------------------

    async def sample(self) -> None:
        """Keeps the samples from which the rate is computed."""
        while True:
            progress = self._hydrator.progress
            self._samples.append((trio.current_time(), progress.fetched_bytes + progress.seed_bytes))
            await trio.sleep(SAMPLE_SECONDS)

    def status(self) -> dict[str, Any]:
        """Sizes in bytes, rates in bytes a second, times in seconds."""
        progress = self._hydrator.progress
        totals = self._store.records.totals
        detached = self._store.detached
        populated = progress.populated or detached
        rate = self._rate()
        if detached:
            phase = "detached"
        elif progress.hydrated:
            phase = "hydrated"
        else:
            phase = "hydrating" if self._hydrating else "warm"
        problems = [{"path": os.fsdecode(path), **found._asdict()} for path, found in progress.problems.items()]
        missing = totals.absent_bytes
        return {
            "phase": phase,
            "pid": os.getpid(),
            "version": _version(),
            "mountpoint": self._settings.mountpoint,
            "store": self._settings.store,
            "source": {
                "address": self._settings.address,
                "reachable": not detached and self._source.reachable,
            },
            "populated": populated,
            "bytes": {"present": totals.bytes - missing, "total": totals.bytes},
            "files": {
                "present": totals.files - totals.incomplete_files,
                "total": totals.files,
            },
            "fetched_bytes": progress.fetched_bytes,
            "seed_bytes": progress.seed_bytes,
            "spared_bytes": progress.spared_bytes,
            "first_ranges": progress.first,
            "demand_fetches": progress.demand_fetches,
            "demand_bytes": progress.demand_bytes,
            "prefetch": self._prefetching.status(rate),
            "working_set_bytes": progress.working_set_bytes,
            "bandwidth": self._background.carrier.pacer.rate,
            "share": self._settings.share,
            "rate": rate,
            "eta_s": round(missing / rate, 1) if rate and populated else None,
            "paused": progress.paused,
            "tracked": self.warming.tracked,
            "problems": problems[:SHOWN_PROBLEMS],
            "problem_count": len(problems),
        }

    def _rate(self) -> float:
        if len(self._samples) < 2:
            return 0.0
        (start, before), (end, now) = self._samples[0], self._samples[-1]
        return (now - before) / (end - start) if end > start else 0.0
