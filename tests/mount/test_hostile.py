"""A server that lies, under a real mount: its lies are errors, and nothing appears outside the store."""

import os
import stat
from pathlib import Path

import pytest

from tests.rpc.support import answering
from tests.support.programs import bounded, mounted
from voyfs.rpc.generated import voyfs_pb2 as pb

ATTACHED = pb.AttachReply(
    export_id=b"e" * 16,
    root=pb.Entry(mode=stat.S_IFDIR | 0o755, nlink=2, device=1, version=pb.Version(inode=1, size=4096)),
    limits=pb.Limits(fetch_bytes=2 << 20, message_bytes=4 << 20, stat_paths=1024),
).SerializeToString()


def entry(name: bytes, mode: int = stat.S_IFREG | 0o644, size: int = 5, inode: int = 7, **more: object) -> pb.Entry:
    version = pb.Version(inode=inode, size=size)
    return pb.Entry(name=name, mode=mode, nlink=1, device=1, version=version, **more)  # type: ignore[arg-type]


LIES: dict[str, list[pb.Entry]] = {
    "a name that leads up": [entry(b"..")],
    "a name that is this": [entry(b".")],
    "a path for a name": [entry(b"../../outside")],
    "an absolute name": [entry(b"/etc/outside")],
    "a name with NUL": [entry(b"a\0b")],
    "no name": [entry(b"")],
    "a name too long": [entry(b"n" * 256)],
    "a name twice": [entry(b"twice"), entry(b"twice", inode=8)],
    "an impossible size": [entry(b"f", size=2**63)],
    "an impossible type": [entry(b"f", mode=0o644)],
    "a target of a file": [entry(b"f", target=b"/etc/passwd")],
    "a link without target": [entry(b"l", mode=stat.S_IFLNK | 0o777)],
    "a link too long": [entry(b"l", mode=stat.S_IFLNK | 0o777, target=b"t" * 5000)],
}


def _page(path: bytes, inode: int, entries: list[pb.Entry], *, last: bool = True) -> bytes:
    return pb.Listing(path=path, inode=inode, entries=entries, last=last).SerializeToString()


def test_lying_listings_are_errors_and_leave_nothing(tmp_path: Path) -> None:
    """One directory for each lie; in two more the same names come again and again, or no end comes."""
    endless = [entry(b"%d" % number, inode=number + 1000) for number in range(4000)]
    lies = [*LIES.values(), endless, endless]

    def pages(request: bytes) -> list[bytes]:
        asked = pb.ListRequest.FromString(request)
        if not asked.path:
            names = [entry(b"%d" % n, stat.S_IFDIR | 0o755, 4096, n + 10) for n in range(len(lies))]
            return [_page(b"", 1, names)]
        number = int(asked.path)
        if lies[number] is endless:
            return [_page(asked.path, asked.inode, endless, last=False)] * (1 if number == len(lies) - 1 else 3)
        return [_page(asked.path, asked.inode, lies[number])]

    methods = {"Attach": lambda _: [ATTACHED], "List": pages}
    with (
        answering(methods) as address,
        mounted(address, tmp_path / "mount", tmp_path / "store", "--warm", "--on-source-loss", "eio") as mount,
    ):
        for number, what in enumerate([*LIES, "again and again", "without an end"]):
            with pytest.raises(OSError, match="Input/output error"):
                bounded(lambda number=number: os.listdir(mount.path / f"{number}"))  # type: ignore[misc]
            assert not os.listdir(mount.store / "data" / f"{number}"), what
        around = [Path("/etc"), tmp_path.parent, tmp_path, mount.store, mount.store / "data"]
        assert not [path for path in around if (path / "outside").exists()]
        assert mount.log.read_text().count("the source") >= len(lies)
        assert mount.status()["source"]["reachable"]  # it lives, and so does the daemon


def test_content_with_a_wrong_digest_is_never_shown(tmp_path: Path) -> None:
    def lie(request: bytes) -> list[bytes]:
        asked = pb.FetchRequest.FromString(request)
        piece = pb.Piece(file=0, offset=0, length=5, xxh3=1)
        return [pb.FetchReply(data=b"wrong", id=asked.id, pieces=[piece], last=True).SerializeToString()]

    pages = [_page(b"", 1, [entry(b"f")])]
    methods = {
        "Attach": lambda _: [ATTACHED],
        "List": lambda _: pages,
        "Walk": lambda _: pages,
        "Fetch": lie,
        "Stream": lie,
    }
    with (
        answering(methods) as address,
        mounted(address, tmp_path / "mount", tmp_path / "store", "--warm") as mount,
    ):
        with pytest.raises(OSError, match="Input/output error"):
            bounded((mount.path / "f").read_bytes)
        assert (mount.store / "data" / "f").read_bytes() == bytes(5)  # a placeholder yet
        (mount.path / "f").write_bytes(b"right")
        assert (mount.path / "f").read_bytes() == b"right"
