"""What the owner of a bulk process and the process say to each other: lines of JSON.

One line is one message; JSON in ASCII holds no line breaks of its own. Bytes (paths) travel as
Latin-1 text. JSON and not pickle: the process deals with the network, and must not be able to
make its owner run anything. Pure.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from voyfs.core import errors
from voyfs.core.entry import Version
from voyfs.core.extents import Extent
from voyfs.ports import FileDone, FileJob
from voyfs.rpc.tls import TlsFiles

_ERRORS: dict[str, type[errors.SourceError]] = {
    kind.__name__: kind
    for kind in (
        errors.SourceUnreachable,
        errors.SourceRefused,
        errors.SourceChanged,
        errors.SourceCorrupt,
        errors.SourceMalformed,
        errors.SourceUnreadable,
    )
}


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message: which source, and which backing directory."""

    address: str
    tls: TlsFiles | None
    server_name: str | None
    data: Path
    idle: bool  # leave disk and processor to everybody else
    seeds: tuple[str, ...] = ()


def _line(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def encode_setup(setup: Setup) -> bytes:
    tls = setup.tls
    files = None if tls is None else [str(tls.cert), str(tls.key), str(tls.ca)]
    return _line([setup.address, files, setup.server_name, str(setup.data), setup.idle, setup.seeds])


def decode_setup(line: bytes) -> Setup:
    address, files, server_name, data, idle, seeds = json.loads(line)
    tls = None if files is None else TlsFiles(*map(Path, files))
    return Setup(address, tls, server_name, Path(data), idle, tuple(seeds))


def encode_jobs(number: int, jobs: Sequence[FileJob]) -> bytes:
    files = [
        (
            job.local.decode("latin-1"),
            job.inode,
            job.source.decode("latin-1"),
            (job.version.inode, job.version.size, job.version.mtime_ns, job.version.ctime_ns),
            job.extents,
        )
        for job in jobs
    ]
    return _line([number, files])


def decode_jobs(line: bytes) -> tuple[int, list[FileJob]]:
    number, files = json.loads(line)
    return number, [
        FileJob(
            local.encode("latin-1"),
            inode,
            source.encode("latin-1"),
            Version(*version),
            tuple(Extent(start, stop) for start, stop in extents),
        )
        for local, inode, source, version, extents in files
    ]


def encode_outcomes(number: int, outcomes: Sequence[FileDone]) -> bytes:
    files = [(*_error_to_wire(done.error), done.data_bytes, done.seed_bytes, done.spared_bytes) for done in outcomes]
    return _line([number, files])


def decode_outcomes(line: bytes) -> tuple[int, list[FileDone]]:
    number, outcomes = json.loads(line)
    return number, [FileDone(_error_from_wire(kind, code, text), *counts) for kind, code, text, *counts in outcomes]


def _error_to_wire(error: Exception | None) -> tuple[str, int, str]:
    if error is None:
        return "", 0, ""
    if isinstance(error, OSError):
        return "OSError", error.errno or 0, error.strerror or str(error)
    return type(error).__name__, 0, str(error)


def _error_from_wire(kind: str, code: int, text: str) -> Exception | None:
    if not kind:
        return None
    if kind == "OSError":
        return OSError(code, text)  # of the subclass that belongs to the errno
    return _ERRORS[kind](text)
