"""Replies made and read by hand are protobuf's own, and damage is told."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rpc.support import fetched, part
from voyfs.core.errors import SourceMalformed
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.reply import contents, decode, encode

parts = st.lists(st.binary(min_size=1, max_size=300), max_size=5)


@given(parts, st.integers(0, 2**64 - 1))
def test_what_is_encoded_is_the_message_and_is_decoded_again(data: list[bytes], number: int) -> None:
    whole = fetched(*(part(0, each) for each in data), id=number)
    bare = pb.FetchReply(id=number, pieces=whole.pieces, last=True)
    message = encode(bare, data)
    assert message == whole.SerializeToString()
    reply, view = decode(message)
    assert reply == bare
    assert [bytes(each) for _, each in contents(reply, view)] == data


def test_lengths_of_every_size() -> None:
    for bits in range(22):
        for length in (2**bits - 1, 2**bits):
            message = encode(pb.FetchReply(id=1), [bytes(length)])
            assert message == pb.FetchReply(data=bytes(length), id=1).SerializeToString()
            assert decode(message)[1] == bytes(length)


@given(parts.filter(bool), st.data())
def test_a_reply_cut_off_within_its_data_is_malformed(data: list[bytes], choose: st.DataObject) -> None:
    message = encode(pb.FetchReply(id=1), data)
    cut = choose.draw(st.integers(1, len(message) - 3))
    with pytest.raises(SourceMalformed):
        decode(message[:cut])


@pytest.mark.parametrize(
    "message",
    [
        b"\x0a",
        b"\x0a\x80",
        b"\x0a" + b"\x80" * 5 + b"\x01",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\xff" * 9,
        pb.FetchReply(data=b"once").SerializeToString() + pb.FetchReply(data=b"more").SerializeToString(),
        pb.FetchReply(id=1).SerializeToString() + pb.FetchReply(data=b"late").SerializeToString(),
    ],
)
def test_what_is_no_reply_is_malformed(message: bytes) -> None:
    with pytest.raises(SourceMalformed):
        decode(message)
