"""What the client believes, how often it asks again, and for how long it waits."""

import math
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
import trio
import trio.testing
from google.protobuf.message import Message

from tests.rpc.support import Part, Relay, answering, entry_at, fetched, in_trio, joined, part, serving, whole
from voyfs.core.entry import Version
from voyfs.core.errors import (
    InsecureError,
    ListenError,
    SourceChanged,
    SourceCorrupt,
    SourceMalformed,
    SourceRefused,
    SourceUnreachable,
    SourceUnreadable,
)
from voyfs.core.extents import Extent
from voyfs.core.limits import (
    FETCH_BYTES,
    MESSAGE_BYTES,
    STAT_PATHS,
    TARGET_BYTES,
    XATTR_NAME_BYTES,
    XATTR_VALUE_BYTES,
)
from voyfs.core.offers import Offer, digest_of
from voyfs.rpc import assembly
from voyfs.rpc.address import parse_address
from voyfs.rpc.client import GrpcSource
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.loss import Patience, SourceLoss, lasting_error

SOON = SourceLoss(0.0)
VERSION = Version(1, 100, 0, 0)
WHOLE = [Extent(0, 100)]


def entry(**changes: object) -> pb.Entry:
    """A sound entry, but for `changes`."""
    sound = pb.Entry(name=b"name", mode=stat.S_IFREG | 0o644, nlink=1, version=pb.Version(inode=5, size=100))
    for name, value in changes.items():
        if name in ("size", "inode"):
            setattr(sound.version, name, value)
        elif name == "xattrs":
            sound.xattrs.extend(value)  # type: ignore[arg-type]
        else:
            setattr(sound, name, value)
    return sound


def says(*replies: Message) -> Callable[[bytes], Sequence[bytes]]:
    """Always these replies."""
    return lambda _: [reply.SerializeToString() for reply in replies]


def limits() -> pb.Limits:
    return pb.Limits(fetch_bytes=FETCH_BYTES, message_bytes=MESSAGE_BYTES, stat_paths=STAT_PATHS)


ROOT = entry(name=b"", mode=stat.S_IFDIR | 0o755, nlink=2)


# What no honest source says

BAD_ENTRIES = {
    "slash": {"name": b"a/b"},
    "parent": {"name": b".."},
    "itself": {"name": b"."},
    "empty": {"name": b""},
    "nul": {"name": b"a\0b"},
    "long": {"name": b"n" * 256},
    "type": {"mode": 0o644},
    "types": {"mode": 0o170644},
    "bits": {"mode": stat.S_IFREG | 0o644 | 1 << 20},
    "size": {"size": 2**63},
    "inode": {"inode": 0},
    "links": {"nlink": 0},
    "owner": {"uid": 2**32 - 1},
    "group": {"gid": 2**32 - 1},
    "blocks": {"blocks": 2**60},
    "major": {"mode": stat.S_IFBLK | 0o600, "rdev": os.makedev(1 << 12, 0)},
    "minor": {"mode": stat.S_IFCHR | 0o600, "rdev": os.makedev(0, 1 << 20)},
    "device": {"rdev": 5},
    "link to nothing": {"mode": stat.S_IFLNK | 0o777},
    "long target": {"mode": stat.S_IFLNK | 0o777, "target": b"t" * (TARGET_BYTES + 1)},
    "nul in target": {"mode": stat.S_IFLNK | 0o777, "target": b"a\0b"},
    "target of a file": {"target": b"a"},
    "xattr name": {"xattrs": [pb.Xattr(name=b"u." + b"n" * XATTR_NAME_BYTES)]},
    "xattr nul": {"xattrs": [pb.Xattr(name=b"user.a\0b")]},
    "xattr no name": {"xattrs": [pb.Xattr(value=b"v")]},
    "xattr value": {"xattrs": [pb.Xattr(name=b"user.a", value=bytes(XATTR_VALUE_BYTES + 1))]},
    "xattr twice": {"xattrs": [pb.Xattr(name=b"user.a"), pb.Xattr(name=b"user.a")]},
    "xattrs": {"xattrs": [pb.Xattr(name=b"user.%d" % n, value=bytes(65536)) for n in range(5)]},
}


@pytest.mark.parametrize("changes", BAD_ENTRIES.values(), ids=BAD_ENTRIES)
@in_trio
async def test_an_impossible_entry_is_malformed_wherever_it_comes(
    changes: dict[str, object],
) -> None:
    bad = entry(**changes)
    listing = pb.Listing(inode=1, entries=[bad], last=True)
    unnamed = pb.Entry.FromString(bad.SerializeToString())
    if unnamed.name == b"name":
        unnamed.name = b""
    methods = {
        "List": says(listing),
        "Walk": says(listing),
        "Stat": says(pb.StatReply(stated=[pb.Stated(entry=unnamed)])),
        "Attach": says(pb.AttachReply(export_id=bytes(16), root=unnamed, limits=limits())),
        "Digest": says(pb.DigestReply(path=b"x", entry=bad, content=bytes(16))),
    }
    with answering(methods) as address:
        async with GrpcSource(address, loss=SOON) as source:
            with pytest.raises(SourceMalformed):
                await source.list_directory(b"", 0)
            async with source.walk(b"") as listings:
                with pytest.raises(SourceMalformed):
                    await anext(listings)
            if "name" not in changes or changes["name"]:
                with pytest.raises(SourceMalformed):
                    await source.stat([b"x"])
                with pytest.raises(SourceMalformed):
                    await source.attach()
                async with source.digest(b"") as digests:
                    with pytest.raises(SourceMalformed):
                        await anext(digests)
            assert source.reachable


@in_trio
async def test_the_sound_entry_of_these_tests_is_believed() -> None:
    with answering({"List": says(pb.Listing(inode=1, entries=[entry()], last=True))}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            (found,) = (await source.list_directory(b"", 0)).entries
            assert (found.name, found.size) == (b"name", 100)


BAD_LISTINGS = {
    "twice": [pb.Listing(inode=1, entries=[entry(), entry()], last=True)],
    "twice over pages": [
        pb.Listing(inode=1, entries=[entry()]),
        pb.Listing(inode=1, entries=[entry()], last=True),
    ],
    "unfinished": [pb.Listing(inode=1, entries=[entry()])],
    "nothing": [],
    "an empty page": [pb.Listing(inode=1), pb.Listing(inode=1, last=True)],
    "another path": [pb.Listing(path=b"other", inode=1, last=True)],
    "another path later": [
        pb.Listing(inode=1, entries=[entry()]),
        pb.Listing(path=b"b", inode=1, last=True),
    ],
    "another inode later": [
        pb.Listing(inode=1, entries=[entry()]),
        pb.Listing(inode=2, last=True),
    ],
    "no inode": [pb.Listing(last=True)],
    "an escape": [pb.Listing(path=b"../x", inode=1, last=True)],
}


@pytest.mark.parametrize("pages", BAD_LISTINGS.values(), ids=BAD_LISTINGS)
@in_trio
async def test_an_impossible_listing_is_malformed(pages: list[pb.Listing]) -> None:
    with answering({"List": says(*pages), "Walk": says(*pages)}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            with pytest.raises(SourceMalformed):
                await source.list_directory(b"", 0)
            if pages and pages[0].path != b"other":
                async with source.walk(b"") as listings:
                    with pytest.raises(SourceMalformed):
                        _ = [listing async for listing in listings]


@in_trio
async def test_a_listing_of_another_directory_is_malformed() -> None:
    page = pb.Listing(path=b"dir", inode=8, last=True)
    with answering({"List": says(page), "Walk": says(page)}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            assert (await source.list_directory(b"dir", 8)).inode == 8
            with pytest.raises(SourceMalformed):
                await source.list_directory(b"dir", 9)
            async with source.walk(b"di") as listings:
                with pytest.raises(SourceMalformed):
                    await anext(listings)


@pytest.mark.parametrize("bound", ["DIRECTORY_ENTRIES", "DIRECTORY_BYTES"])
@in_trio
async def test_an_endless_directory_is_malformed(bound: str) -> None:
    def endless(_: bytes) -> Iterator[bytes]:
        for number in range(1_000_000_000):
            page = pb.Listing(inode=1, entries=[entry(name=b"%d" % number)])
            yield page.SerializeToString()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, bound, 500)
        with answering({"List": endless, "Walk": endless}) as address:  # type: ignore[dict-item]
            async with GrpcSource(address, loss=SOON) as source:
                with pytest.raises(SourceMalformed, match="no end"):
                    await source.list_directory(b"", 0)
                async with source.walk(b"") as listings:
                    with pytest.raises(SourceMalformed, match="no end"):
                        await anext(listings)


DATA = bytes(range(100))
BAD_PIECES: dict[str, list[Part]] = {
    "nothing": [],
    "short": [part(0, DATA[:99])],
    "long": [part(0, DATA + b"x")],
    "late": [part(1, DATA[1:])],
    "gap": [part(0, DATA[:50]), part(51, DATA[51:])],
    "overlap": [part(0, DATA[:50]), part(49, DATA[49:])],
    "reordered": [part(50, DATA[50:]), part(0, DATA[:50])],
    "duplicated": [part(0, DATA[:50]), part(0, DATA[:50]), part(50, DATA[50:])],
    "more": [part(0, DATA), part(100, b"more")],
    "another file": [part(0, DATA, file=1)],
    "length": [part(0, DATA, length=200)],
    "no length": [part(0, b""), part(0, DATA)],
    "data in a hole": [part(0, DATA, hole=True)],
    "data of no piece": [part(0, DATA), (pb.Piece(), b"x")],
    "a long hole": [(pb.Piece(offset=0, length=2**63, hole=True), b"")],
}


@pytest.mark.parametrize("pieces", BAD_PIECES.values(), ids=BAD_PIECES)
@in_trio
async def test_pieces_that_were_not_asked_for_are_malformed(pieces: list[Part]) -> None:
    with answering({"Fetch": says(fetched(*pieces))}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            with pytest.raises(SourceMalformed):
                await source.fetch(b"file", VERSION, WHOLE)


OFFERS = [Offer(0, DATA[:50], digest_of(DATA[:50])), Offer(50, DATA[49:99], digest_of(DATA[49:99]))]


def taken(number: int, of: bytes, offset: int = 0, data: bytes = b"") -> Part:
    """The piece that takes the offer `number` (from 1 on) for bytes `of` the source, and brings `data` all the same."""
    sound, _ = part(offset, of, offer=number)
    return sound, data


BAD_TAKINGS: dict[str, Part] = {
    "not offered": taken(3, DATA[:50]),
    "far from offered": taken(2**32 - 1, DATA[:50]),
    "offered elsewhere": taken(2, DATA[49:99]),
    "too short": taken(1, DATA[:49]),
    "too long": taken(1, DATA[:51]),
    "with data": taken(1, DATA[:50], data=DATA[:50]),
}


@pytest.mark.parametrize("wrong", BAD_TAKINGS.values(), ids=BAD_TAKINGS)
@in_trio
async def test_what_was_not_offered_cannot_be_taken(wrong: Part) -> None:
    with answering({"Fetch": says(fetched(wrong, part(50, DATA[50:])))}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            with pytest.raises((SourceMalformed, SourceCorrupt) if wrong[1] else SourceMalformed):
                await source.fetch(b"file", VERSION, WHOLE, OFFERS)


@in_trio
async def test_an_offer_taken_for_other_bytes_is_corrupt() -> None:
    """What is offered for its second half is not what the source says it read."""
    with answering({"Fetch": says(fetched(taken(1, DATA[:50]), taken(2, DATA[50:], 50)))}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            with pytest.raises(SourceCorrupt):
                await source.fetch(b"file", VERSION, WHOLE, OFFERS)


@pytest.mark.parametrize("broken", [1, 3, math.inf])
@in_trio
async def test_damaged_data_is_fetched_again_and_never_returned(broken: float) -> None:
    asked = 0

    def fetch(_: bytes) -> Sequence[bytes]:
        nonlocal asked
        asked += 1
        second, data = part(50, DATA[50:])
        if asked <= broken:
            data = DATA[50:99] + b"!"
        return [fetched(part(0, DATA[:50]), (second, data)).SerializeToString()]

    with answering({"Fetch": fetch}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            if broken == math.inf:
                with pytest.raises(SourceCorrupt):
                    await source.fetch(b"file", VERSION, WHOLE)
                assert asked == 4
            else:
                assert joined(await source.fetch(b"file", VERSION, WHOLE)) == DATA
                assert asked == broken + 1


@in_trio
async def test_failures_are_what_the_source_says_they_are() -> None:
    expected = {
        pb.CHANGED: SourceChanged,
        pb.MISSING: SourceChanged,
        pb.REFUSED: SourceChanged,
        pb.UNREADABLE: SourceUnreadable,
        pb.REASON_UNSPECIFIED: SourceMalformed,
    }
    for reason, error in expected.items():
        failure = pb.Failure(reason=reason, detail="why\n" * 1000)
        methods = {
            "Fetch": says(pb.FetchReply(failures=[failure], last=True)),
            "List": says(pb.Listing(failure=failure, last=True)),
        }
        with answering(methods) as address:
            async with GrpcSource(address, loss=SOON) as source:
                with pytest.raises(error) as caught:
                    await source.fetch(b"file", VERSION, WHOLE)
                assert "\n" not in str(caught.value)
                assert len(str(caught.value)) < 500
                with pytest.raises(error):
                    await source.list_directory(b"", 0)
                assert source.reachable


@in_trio
async def test_other_impossible_answers_are_malformed() -> None:
    attach = pb.AttachReply(export_id=bytes(16), root=ROOT, limits=limits())
    for name, value in (("export_id", b"short"), ("root", entry(name=b""))):
        wrong = pb.AttachReply.FromString(attach.SerializeToString())
        wrong.ClearField(name)
        wrong.MergeFrom(pb.AttachReply(**{name: value}))  # type: ignore[arg-type]
        with answering({"Attach": says(wrong)}) as address:
            async with GrpcSource(address, loss=SOON) as source:
                with pytest.raises(SourceMalformed):
                    await source.attach()
    stated = pb.Stated(entry=entry(name=b""))
    for reply in (pb.StatReply(), pb.StatReply(stated=[stated] * 3)):
        with answering({"Stat": says(reply)}) as address:
            async with GrpcSource(address, loss=SOON) as source:
                with pytest.raises(SourceMalformed):
                    await source.stat([b"a", b"b"])
    with answering({"Fetch": lambda _: [b"\xff\xff"]}) as address:
        async with GrpcSource(address, loss=SourceLoss()) as source:
            with pytest.raises(SourceMalformed):
                await source.fetch(b"file", VERSION, WHOLE)
    with answering({"Fetch": lambda _: [bytes(MESSAGE_BYTES + 1)]}) as address:
        async with GrpcSource(address, loss=SourceLoss()) as source:
            with pytest.raises(SourceMalformed):
                await source.fetch(b"file", VERSION, WHOLE)


@in_trio
async def test_a_partial_stat_is_asked_on() -> None:
    one = pb.StatReply(stated=[pb.Stated(entry=entry(name=b""))])
    asked: list[int] = []

    def stat_one(request: bytes) -> Sequence[bytes]:
        asked.append(len(pb.StatRequest.FromString(request).paths))
        return [one.SerializeToString()]

    with answering({"Stat": stat_one}) as address:
        async with GrpcSource(address, loss=SOON) as source:
            assert len(await source.stat([b"a", b"b", b"c"])) == 3
    assert asked == [3, 2, 1]


@in_trio
async def test_what_is_no_voyfs_server_or_of_lower_limits_is_refused() -> None:
    with answering({}) as address:
        async with GrpcSource(address) as source:
            with pytest.raises(SourceRefused, match="not a voyfs server"):
                await source.attach()
            assert not source.reachable
    low = pb.AttachReply(export_id=bytes(16), root=ROOT, limits=pb.Limits(fetch_bytes=5))
    with answering({"Attach": says(low)}) as address:
        async with GrpcSource(address) as source:
            with pytest.raises(SourceRefused, match="limits"):
                await source.attach()


# Addresses


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "::1:80", "host:65536", "h:-1", "h:٣"])
def test_what_is_no_address_is_said_so(text: str) -> None:
    with pytest.raises(ListenError):
        parse_address(text)


def test_addresses_and_where_they_lead() -> None:
    assert str(parse_address("[::1]:80")) == "[::1]:80"
    for text in ("127.0.0.1:1", "[::1]:1", "127.9.9.9:1", "localhost:1"):
        assert parse_address(text).on_loopback
    for text in ("0.0.0.0:1", "[::]:1", "192.0.2.1:1", "no.such.host.invalid:1"):
        assert not parse_address(text).on_loopback


@in_trio
async def test_plain_text_never_leaves_the_machine() -> None:
    with pytest.raises(InsecureError, match="TLS is needed"):
        GrpcSource("192.0.2.1:7400")


# A source that comes and goes


@in_trio
async def test_nobody_there_is_unreachable_after_the_time_of_the_policy(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        address = str(server.address)
    for wait in (0.0, 0.5):
        async with GrpcSource(address, loss=SourceLoss(wait)) as source:
            begun = time.monotonic()
            with pytest.raises(SourceUnreachable):
                await source.attach()
            assert time.monotonic() - begun >= wait
            assert not source.reachable
            for call in (
                lambda source=source: source.fetch(b"f", VERSION, WHOLE),
                lambda source=source: source.list_directory(b"", 0),
                lambda source=source: source.stat([b""]),
                lambda source=source: source.release(),
            ):
                with pytest.raises(SourceUnreachable):
                    await call()  # type: ignore[no-untyped-call]
            for stream in (source.walk, source.digest):
                async with stream(b"") as items:
                    with pytest.raises(SourceUnreachable):
                        await anext(items)


@in_trio
async def test_a_server_killed_and_restarted_is_not_noticed_by_readers(export: Path) -> None:
    (export / "big").write_bytes(os.urandom(FETCH_BYTES))
    content = (export / "big").read_bytes()
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        address = str(running.enter_context(serving(export)).address)
        async with GrpcSource(address) as source:
            version = (await entry_at(source, b"big")).version
            done: Counter[str] = Counter()

            async def read(number: int) -> None:
                while done["restarts"] < 3:
                    start = number * 100_000
                    extent = Extent(start, start + 100_000)
                    pieces = await source.fetch(b"big", version, [extent])
                    assert joined(pieces) == content[start : start + 100_000]
                    done["reads"] += 1

            async def walk() -> None:
                while done["restarts"] < 3:
                    async with source.walk(b"") as listings:
                        seen = {listing.path async for listing in listings}
                    assert seen == {b"", b"dir"}
                    listing = await source.list_directory(b"dir", 0)
                    assert len(listing.entries) == 20
                    done["walks"] += 1

            async def restart() -> None:
                nonlocal running
                for _ in range(3):
                    reads = done["reads"] + 20
                    while done["reads"] < reads:
                        await source.stat([b"file"])
                    await trio.to_thread.run_sync(running.close)
                    running = stack.enter_context(ExitStack())
                    running.enter_context(serving(export, listen=address))
                    await source.attach()
                    done["restarts"] += 1

            async with trio.open_nursery() as nursery:
                for number in range(8):
                    nursery.start_soon(read, number)
                nursery.start_soon(walk)
                nursery.start_soon(restart)
            assert done["walks"] > 0


@in_trio
async def test_a_cut_link_is_noticed_and_a_mended_one_used(export: Path) -> None:
    with serving(export) as server:
        relay = Relay((server.address.host, server.address.port))
        try:
            async with GrpcSource(relay.address) as source:
                assert await whole(source, b"file") == (export / "file").read_bytes()
                while relay.knocks.acquire(blocking=False):
                    pass
                relay.cut()
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def read() -> None:
                        assert await whole(source, b"file") == (export / "file").read_bytes()

                    # The dead connection is given up for a new one, which is as silent.
                    await trio.to_thread.run_sync(relay.knocks.acquire, abandon_on_cancel=True)
                    assert not source.reachable
                    relay.mend()
                assert source.reachable
        finally:
            relay.close()


@in_trio
async def test_a_silent_link_ends_with_the_policys_time(export: Path) -> None:
    with serving(export) as server:
        relay = Relay((server.address.host, server.address.port))
        try:
            async with GrpcSource(relay.address, loss=SourceLoss(0.1)) as source:
                await source.attach()
                relay.cut()
                begun = time.monotonic()
                with pytest.raises(SourceUnreachable):
                    await source.stat([b"file"])
                assert time.monotonic() - begun < 10
        finally:
            relay.close()


@in_trio
async def test_a_waiting_call_is_cancelled_at_once(export: Path) -> None:
    with serving(export) as server:
        address = str(server.address)
    async with GrpcSource(address) as source:
        calls: list[Callable[[], object]] = [
            lambda: source.fetch(b"f", VERSION, WHOLE),
            lambda: source.list_directory(b"", 0),
            source.attach,
        ]
        for call in calls:
            with trio.move_on_after(0.2) as scope:
                await call()  # type: ignore[misc]
            assert scope.cancelled_caught


@in_trio
async def test_closing_ends_what_waits() -> None:
    async with trio.open_nursery() as nursery:
        source = GrpcSource("127.0.0.1:1")
        ended: list[str] = []

        async def wait(name: str, call: Callable[[], object]) -> None:
            try:
                await call()  # type: ignore[misc]
            except SourceUnreachable:
                ended.append(name)

        nursery.start_soon(wait, "fetch", lambda: source.fetch(b"f", VERSION, WHOLE))
        nursery.start_soon(wait, "list", lambda: source.list_directory(b"", 0))
        await trio.testing.wait_all_tasks_blocked()
        await source.close()
    assert sorted(ended) == ["fetch", "list"]
    with pytest.raises(SourceUnreachable):
        await source.attach()


# Which failures pass


def test_statuses_and_what_they_mean() -> None:
    code = grpc.StatusCode
    passing = [
        (code.UNAVAILABLE, "Socket closed"),
        (code.DEADLINE_EXCEEDED, ""),
        (code.CANCELLED, "by peer"),
        (code.ABORTED, ""),
        (code.RESOURCE_EXHAUSTED, "too many streams at once"),
        (code.INTERNAL, "Received RST_STREAM with error code 2"),
        (code.UNKNOWN, "Stream removed"),
    ]
    for status, details in passing:
        assert lasting_error(status, details) is None
    lasting = [
        (code.RESOURCE_EXHAUSTED, "Received message larger than max (5 vs. 4)", SourceMalformed),
        (code.INTERNAL, "Exception deserializing response!", SourceMalformed),
        (code.UNKNOWN, "Exception calling application: oh", SourceUnreadable),
        (code.INTERNAL, "the export's root: Input/output error", SourceUnreadable),
        (code.UNAUTHENTICATED, "", SourceRefused),
        (code.PERMISSION_DENIED, "", SourceRefused),
        (code.UNIMPLEMENTED, "", SourceRefused),
        (code.INVALID_ARGUMENT, "more than 5", SourceRefused),
    ]
    for status, details, error in lasting:
        assert isinstance(lasting_error(status, details), error)


def test_patience_ends_with_the_policy_and_slow_links_get_more_time() -> None:
    async def main() -> None:
        unavailable = grpc.StatusCode.UNAVAILABLE
        patience = Patience(SourceLoss(10), 30)
        begun = trio.current_time()

        async def persist() -> None:
            while True:
                await patience.pause(unavailable, "gone")

        with pytest.raises(SourceUnreachable, match="gone"):
            await persist()
        assert trio.current_time() - begun == pytest.approx(10)
        patience.renew()
        await patience.pause(unavailable, "gone")
        for_ever = Patience(SourceLoss(), 30)
        assert for_ever.attempt_seconds() == 30
        for _ in range(100):
            await for_ever.pause(grpc.StatusCode.DEADLINE_EXCEEDED, "slow")
        assert for_ever.attempt_seconds() > 1000

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
