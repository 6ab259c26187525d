"""Traces: which bytes of which files a start needed, in that order, so that the next start finds them here.

A trace is a file of lines of JSON: `{"voyfs-trace": 1}`, then `["PATH", START, STOP]` for each range that was needed
for the first time, in whole chunks; paths are below the root of the source. It holds names and numbers, no content.
What it says decides what is brought first and nothing else; still, one that no recorder wrote is refused.
"""

import errno
import json
import os
import stat
from collections.abc import Iterator

from voyfs.core.errors import TraceError
from voyfs.core.extents import Extent, chunks_touched, coalesce
from voyfs.core.limits import TRACE_BYTES, TRACE_RANGES
from voyfs.logs import get_logger
from voyfs.rpc.wire import path_problem, shown

log = get_logger(__name__)

Ranges = list[tuple[bytes, Extent]]

_HEADER = b'{"voyfs-trace": 1}\n'
_NAME = b'{"voyfs-trace": '
_END = 1 << 63  # of any file


def read_trace(path: str) -> Ranges:
    """What the trace at `path` holds. A last line without its end, of a recorder that was killed, does not count.

    Raises TraceError.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise TraceError(f"the trace {path} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise TraceError(f"the trace {path} is not a regular file")
    with open(file, "rb") as lines:
        return list(_parsed(path, lines.read(TRACE_BYTES + 1)))


def _parsed(path: str, content: bytes) -> Iterator[tuple[bytes, Extent]]:
    if not content.startswith(_HEADER):
        what = "is of another version" if content.startswith(_NAME) else "is none"
        raise TraceError(f"the trace {path} {what}; record one with `voyfs mount --record`")
    if len(content) > TRACE_BYTES:
        raise TraceError(f"the trace {path} is larger than {TRACE_BYTES} bytes")
    lines = content.split(b"\n")[1:-1]
    if len(lines) > TRACE_RANGES:
        raise TraceError(f"the trace {path} has more than {TRACE_RANGES} ranges")
    for number, line in enumerate(lines, 2):
        try:
            yield _range(line)
        except (ValueError, RecursionError) as error:
            raise TraceError(f"the trace {path} is damaged in line {number}: {error}") from error


def _range(line: bytes) -> tuple[bytes, Extent]:
    """Raises ValueError."""
    try:
        name, start, stop = json.loads(line)
        path = os.fsencode(name)
    except (ValueError, TypeError, RecursionError):
        raise ValueError("not a path and two numbers") from None
    if type(name) is not str or type(start) is not int or type(stop) is not int:
        raise ValueError("not a path and two numbers")
    if not path or path_problem(path) is not None:
        raise ValueError(f"not a path below a root: {shown(path)}")
    if not 0 <= start < stop <= _END:
        raise ValueError("not a range of a file")
    return path, Extent(start, stop)


def check_traces(record: str | None, replay: str | None, *, mountpoint: str) -> None:
    """Raises TraceError unless these may be the traces of a mount at `mountpoint`."""
    for path in (record, replay):
        if path is not None and os.path.realpath(path).startswith(os.path.realpath(mountpoint) + "/"):
            raise TraceError(f"the trace {path} lies in the mount point; keep it elsewhere")
    if record is not None and replay is not None and os.path.realpath(record) == os.path.realpath(replay):
        raise TraceError(f"{record} cannot be replayed and recorded at once; record into another file")
    if replay is not None:
        read_trace(replay)
    if record is not None:
        if os.path.lexists(record):
            os.close(_opened(record))
        elif not os.access(os.path.dirname(record), os.W_OK | os.X_OK):
            raise TraceError(f"cannot record to {record}: no file can be made there")


def _opened(path: str) -> int:
    """A descriptor of the trace or empty file at `path`, which is made if need be. Raises TraceError."""
    try:
        file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TraceError(f"cannot record to {path}: {error.strerror}") from error
    regular = stat.S_ISREG(os.fstat(file).st_mode)
    if regular and os.pread(file, len(_NAME), 0) in (b"", _NAME):
        return file
    os.close(file)
    raise TraceError(f"cannot record to {path}: it is something else than a trace; name another file")


class Recorder:
    """Records what is needed, until the trace is full or cannot be written: then the log says so, once."""

    def __init__(self, path: str, chunk: int, *, anew: bool) -> None:
        """Goes on with the trace at `path`, or begins it `anew`. Ranges are of whole chunks. Raises TraceError."""
        self._path = path
        self._chunk = chunk
        self._over = False
        self._seen: dict[bytes, set[int]] = {}
        self._count = 0  # chunks in it
        self._lines: list[bytes] = []
        self._file = _opened(path)
        written = b"" if anew else os.pread(self._file, TRACE_BYTES, 0)
        self._size = written.rfind(b"\n") + 1
        for name, extent in _parsed(path, written) if self._size else ():
            self._new(name, extent)
        os.ftruncate(self._file, self._size)  # a line without its end would spoil the next one
        if not self._size:
            self._add(_HEADER)
            self.write(self.take())

    def needed(self, path: bytes, extent: Extent, size: int) -> None:
        """Somebody needs `extent` of the file `path`, which has `size` bytes on the source."""
        if self._over:
            return
        for run in coalesce(self._new(path, extent.clip(size)), self._chunk, size, self._chunk * TRACE_RANGES):
            self._add(json.dumps([os.fsdecode(path), *run]).encode() + b"\n")

    def _new(self, path: bytes, extent: Extent) -> list[int]:
        """The chunks of `extent` that were not needed before."""
        touched = chunks_touched(extent, self._chunk)
        seen = self._seen.setdefault(path, set())
        new = [index for index in touched[:TRACE_RANGES] if index not in seen]
        if self._count + len(new) > TRACE_RANGES:
            self._stop("it is full")
            return []
        seen.update(new)
        self._count += len(new)
        return new

    def _add(self, line: bytes) -> None:
        if self._size + len(line) > TRACE_BYTES:
            self._stop("it is full")
        elif not self._over:
            self._size += len(line)
            self._lines.append(line)

    def _stop(self, why: str) -> None:
        if not self._over:
            self._over = True
            log.warning("recording ends", path=self._path, why=why)

    def take(self) -> bytes:
        """What is to be written, since this was last asked."""
        lines, self._lines = self._lines, []
        return b"".join(lines)

    def write(self, lines: bytes) -> None:
        """Writes what `take` gave; any thread may. From then on a killed daemon does not lose it."""
        try:
            if lines and os.write(self._file, lines) != len(lines):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._stop(error.strerror or str(error))

    def close(self) -> None:
        self.write(self.take())
        os.close(self._file)
