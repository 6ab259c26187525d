"""The trees that a migration serves from the source, the root first: started, watched, ended as one.

It must not know what serves them, nor which of them is what in the container.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from migrator.core import limits
from migrator.core.errors import MigratorError
from migrator.ports import Disk, Export

log = structlog.get_logger(__name__)


class Exports:
    """One export a tree."""

    def __init__(self, disk: Disk, roots: Sequence[str], served: Sequence[Export]) -> None:
        """ROOTS: what each of SERVED serves."""
        self._disk = disk
        self._roots = list(roots)
        self._served = list(served)
        self._keeping = threading.Lock()
        self._unwatched = threading.Event()
        self._watcher: threading.Thread | None = None

    @classmethod
    def start(cls, disk: Disk, roots: Sequence[str], host: str) -> Exports:
        """Serve each of ROOTS on any port of HOST; on failure none is served."""
        with ThreadPoolExecutor(len(roots)) as pool:  # each is a program that takes a second to start
            starting = [pool.submit(disk.export, root, f"{host}:0") for root in roots]
        failed = [error for each in starting if (error := each.exception()) is not None]
        exports = cls(disk, roots, [each.result() for each in starting if each.exception() is None])
        if failed:
            exports.stop()
            raise failed[0]
        return exports

    @classmethod
    def adopt(cls, disk: Disk, facts: Sequence[Mapping[str, Any]]) -> Exports:
        """Those of an earlier run of the agent; one that is gone comes back at its address with `watch`."""
        served = [disk.adopt(each) or _Gone(str(each["address"])) for each in facts]
        return cls(disk, [str(each["root"]) for each in facts], served)

    @property
    def addresses(self) -> list[str]:
        """HOST:PORT of each."""
        return [export.address for export in self._served]

    @property
    def facts(self) -> list[dict[str, Any]]:
        """What the journal keeps."""
        return [{**export.facts, "root": root} for root, export in zip(self._roots, self._served, strict=True)]

    def watch(self) -> None:
        """Until `unwatch`, serve again, at the same address, what is served no more; now, and whenever it ends.

        Raises MigratorError if that cannot be had now; later it is tried again and again.
        """
        self._keep()
        if self._watcher is None:
            self._unwatched.clear()
            called = contextvars.copy_context()  # what it logs names the migration, too
            self._watcher = threading.Thread(target=called.run, args=(self._watch,), name="exports", daemon=True)
            self._watcher.start()

    def unwatch(self) -> None:
        """What ends from now on has ended."""
        if self._watcher is not None:
            self._unwatched.set()
            self._watcher.join()
            self._watcher = None

    def _watch(self) -> None:
        while not self._unwatched.wait(limits.WATCH_SECONDS):
            try:
                self._keep()
            except MigratorError as error:
                log.warning("a tree is not served", why=error.message)

    def _keep(self) -> None:
        with self._keeping:
            for number, export in enumerate(self._served):
                if not export.alive:
                    self._served[number] = self._disk.export(self._roots[number], export.address)

    def wait_released(self, seconds: float) -> bool:
        """Wait until the target has released all of them; they are watched no more."""
        self.unwatch()
        deadline = time.monotonic() + seconds
        return all(export.wait_released(max(deadline - time.monotonic(), 0)) for export in self._served)

    def stop(self) -> None:
        """End all."""
        self.unwatch()
        for export in self._served:
            export.stop()


class _Gone(Export):
    """An export that did not survive."""

    def __init__(self, address: str) -> None:
        self._address = address

    @property
    def address(self) -> str:
        return self._address

    @property
    def facts(self) -> dict[str, Any]:
        return {"address": self._address}

    @property
    def alive(self) -> bool:
        return False

    def wait_released(self, seconds: float) -> bool:
        return True

    def stop(self) -> None:
        pass
