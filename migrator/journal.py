"""Decisions on disk: STATE/journal/ID, one JSON object a line, each durable before it is acted upon.

It must not know what the decisions mean.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import structlog

from migrator.core.errors import MigrationUnknown, MigratorError, NoSpace, Refused
from migrator.core.plan import is_name

log = structlog.get_logger(__name__)


class FileRecord:
    """One migration's journal, open for appending. Lines are whole or not there: a failed write is taken back."""

    def __init__(self, path: Path) -> None:
        """Creates it if need be; the name is durable then as well."""
        self._path = path
        self._lock = threading.Lock()
        new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = _whole(self._file)
        os.ftruncate(self._file, self._end)  # a line torn by a crash was never acted upon
        if new:
            _sync_directory(path.parent)

    def write(self, decision: str, *, durable: bool = True, **facts: Any) -> None:
        """Append a decision; raises NoSpace, or MigratorError for a disk that fails, and then it is not there."""
        entry = {"decision": str(decision), "time": time.time(), **facts}
        line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                if os.pwrite(self._file, line, self._end) != len(line):
                    raise OSError(28, "no space left on device")
                if durable:
                    os.fdatasync(self._file)
            except OSError as error:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._file, self._end)
                    os.fsync(self._file)
                kind = NoSpace if error.errno in (28, 122) else MigratorError
                raise kind(
                    f"cannot write the journal {self._path}: {error.strerror}", remedy="free space on that file system"
                ) from error
            self._end += len(line)

    def __del__(self) -> None:
        """The descriptor goes with the object."""
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._file)


class FileJournal:
    """All journals of a host."""

    def __init__(self, directory: Path) -> None:
        """DIRECTORY is made if need be."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory

    def create(self, migration: str) -> FileRecord:
        """A new one."""
        if not is_name(migration):
            raise Refused(f"'{migration}' is no name of a migration")
        try:
            return FileRecord(self._directory / migration)
        except OSError as error:
            raise NoSpace(f"cannot make a journal in {self._directory}: {error.strerror}") from error

    def reopen(self, migration: str) -> FileRecord:
        """One that exists."""
        return self.create(migration)

    def read(self, migration: str) -> list[dict[str, Any]]:
        """Its decisions, oldest first; raises MigrationUnknown, or MigratorError for one that makes no sense."""
        path = self._directory / migration
        try:
            if not is_name(migration):
                raise FileNotFoundError
            content = path.read_bytes()
        except OSError:
            raise MigrationUnknown(f"no migration {migration} is known here", remedy="see 'migrator list'") from None
        entries = []
        for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
            entry = _entry(line)
            if entry is None:
                raise MigratorError(f"line {number} of the journal {path} makes no sense")
            entries.append(entry)
        return entries

    def migrations(self) -> list[str]:
        """All, oldest first; those without a single decision are left out, and those that make no sense are kept aside.

        The container and the files that such a journal speaks of stay: nobody goes on with them or removes them.
        """
        found = []
        for path in self._directory.iterdir():
            try:
                if entries := self.read(path.name):
                    found.append((entries[0]["time"], path.name))
            except MigrationUnknown:
                continue  # no journal, or not any more
            except MigratorError as error:
                self._set_aside(path, error.message)
        return [name for _, name in sorted(found)]

    def _set_aside(self, path: Path, why: str) -> None:
        aside = self._directory.with_name(f"{self._directory.name}-unreadable")
        try:
            aside.mkdir(exist_ok=True, mode=0o700)
            path.rename(aside / path.name)
        except OSError as error:
            log.error("a journal is left out, and cannot be kept aside", why=why, problem=error.strerror)
        else:
            log.error("a journal is left out", why=why, kept=str(aside / path.name))


def _entry(line: bytes) -> dict[str, Any] | None:
    """A decision; None for a line that is none."""
    try:
        entry = json.loads(line)
    except ValueError:  # also of bytes that are no text
        return None
    good = isinstance(entry, dict) and isinstance(entry.get("decision"), str)
    return entry if good and isinstance(entry.get("time"), int | float) else None


def _whole(file: int) -> int:
    """Length of the part that ends with a whole line."""
    content = os.pread(file, os.fstat(file).st_size, 0)
    return content.rfind(b"\n") + 1


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
