"""A FetchReply as bytes, made and read without copying what it carries.

protobuf copies the bytes of a field into memory of its own, and again for each who asks for them, and file data is
nearly all that crosses the wire. So `data` is the first field of the message, put there and taken from there by hand;
what follows is protobuf's. Pure.
"""

from collections.abc import Iterator, Sequence

from google.protobuf.message import DecodeError

from voyfs.core.errors import SourceMalformed
from voyfs.rpc.generated import voyfs_pb2 as pb

# The methods whose replies these are; the generated stubs would read them.
FETCH = "/voyfs.v1.Export/Fetch"
STREAM = "/voyfs.v1.Export/Stream"

_DATA = 0x0A  # how field 1 begins, if it has a length; then the length, seven bits a byte
_LENGTH_BYTES = 5


def encode(reply: pb.FetchReply, data: Sequence[bytes | memoryview]) -> bytes:
    """The message `reply` with what all of `data` hold as its `data`."""
    rest = reply.SerializeToString()
    length = sum(map(len, data))
    if not length:
        return rest
    head = bytearray((_DATA,))
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return b"".join((head, *data, rest))


def decode(message: bytes) -> tuple[pb.FetchReply, memoryview]:
    """The message without its data, and the data, a view of `message`. Raises SourceMalformed."""
    start = stop = 0
    if message[:1] == bytes((_DATA,)):
        length = 0
        for start in range(1, 1 + _LENGTH_BYTES):
            byte = message[start] if start < len(message) else 0x80
            length |= (byte & 0x7F) << 7 * (start - 1)
            if byte < 0x80:
                break
        else:
            raise SourceMalformed("the source sent data of no length")
        start += 1
        stop = start + length
        if stop > len(message):
            raise SourceMalformed("the source sent less data than it says")
    view = memoryview(message)
    try:
        reply = pb.FetchReply.FromString(bytes(view[stop:]))
    except DecodeError as error:
        raise SourceMalformed(f"the source sent no message: {error}") from error
    if reply.data:
        raise SourceMalformed("the source sent data out of place")
    return reply, view[start:stop]


def contents(reply: pb.FetchReply, data: memoryview) -> Iterator[tuple[pb.Piece, memoryview]]:
    """The pieces of a reply, each with its part of `data`: none of it for a hole, or for what was offered.

    Raises SourceMalformed at the end where data is left over; a last piece may have too little.
    """
    at = 0
    for piece in reply.pieces:
        stop = at if piece.hole or piece.offer else min(at + (piece.packed or piece.length), len(data))
        yield piece, data[at:stop]
        at = stop
    if at != len(data):
        raise SourceMalformed("the source sent more data than pieces")
