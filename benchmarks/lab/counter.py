"""Drives the counting client (`client`) on a host of the laboratory."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from benchmarks.lab import client
from benchmarks.lab.client import Report
from benchmarks.lab.hosts import Host
from benchmarks.lab.node import LabError

PROGRESS_SECONDS = 60.0  # longer than any freeze; after this the container is taken for dead


class CounterClient:
    """A client counting on a host; a context manager that stops it."""

    def __init__(
        self,
        host: Host,
        address: str,
        port: int,
        *,
        key: str = "voyager",
        pause: float = 0.001,
        times: bool = False,
    ) -> None:
        """Start counting KEY at ADDRESS:PORT, with PAUSE seconds after each reply."""
        argv = [sys.executable, "-I", "-S", client.__file__, address, str(port), "--key", key, "--pause", str(pause)]
        self._process = host.popen([*argv, *(["--times"] if times else [])], stdout=subprocess.PIPE)
        self._news = threading.Condition()
        self._report = Report()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                report = Report(**json.loads(line))
                with self._news:
                    self._report = report
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    @property
    def report(self) -> Report:
        """The latest progress."""
        with self._news:
            return self._report

    def wait_replies(self, more: int, timeout: float = PROGRESS_SECONDS) -> Report:
        """Wait until MORE replies have come, from now on."""
        target = self.report.count + more
        return self.wait(lambda report: report.count >= target, timeout)

    def wait(self, condition: Callable[[Report], bool], timeout: float = PROGRESS_SECONDS) -> Report:
        """Wait until a report fulfils CONDITION."""
        with self._news:
            self._news.wait_for(lambda: self._ended or condition(self._report), timeout)
            if not condition(self._report):
                raise LabError(f"what the client was to see did not come: {self._report}")
            return self._report

    def stop(self) -> Report:
        """End the client; its final report."""
        self._process.terminate()
        self._reader.join(PROGRESS_SECONDS)
        self._process.wait(PROGRESS_SECONDS)
        if not self.report.done:
            raise LabError(f"the client ended without a report, status {self._process.returncode}: {self._report}")
        return self.report

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it, whatever happened."""
        self._process.kill()
        self._process.wait(PROGRESS_SECONDS)
        self._reader.join(PROGRESS_SECONDS)
