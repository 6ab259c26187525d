"""Mutual TLS: who is let in, who is not, and what is said about it."""

import datetime
import ssl
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.rpc.support import in_trio, serving
from voyfs.certs import make_ca, make_host
from voyfs.core.errors import InsecureError, SourceRefused, SourceUnreachable
from voyfs.rpc.client import GrpcSource
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.generated.voyfs_pb2_grpc import ExportStub
from voyfs.rpc.loss import SourceLoss
from voyfs.rpc.tls import TlsFiles

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


class Authority:
    """A CA with certificates of a server at 127.0.0.1 and of a client."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        make_ca(directory)
        self.server = make_host(directory, ["127.0.0.1", "::1", "source.example"])
        self.client = make_host(directory, ["target.example"])


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("theirs"))


async def attach(address: str, tls: TlsFiles | None, server_name: str | None = None) -> None:
    """With all the patience there is: what is refused must not be waited for."""
    async with GrpcSource(address, tls=tls, server_name=server_name) as source:
        assert len((await source.attach()).export_id) == 16


@pytest.mark.parametrize("name", [None, "source.example"])
@in_trio
async def test_both_ends_of_one_ca_come_together(export: Path, ours: Authority, name: str | None) -> None:
    with serving(export, tls=ours.server) as server:
        await attach(str(server.address), ours.client, name)


@in_trio
async def test_ipv6_addresses_are_names_too(export: Path, ours: Authority) -> None:
    with serving(export, listen="[::1]:0", tls=ours.server) as server:
        await attach(str(server.address), ours.client)


@in_trio
async def test_who_does_not_fit_is_refused_and_told_why(export: Path, ours: Authority, theirs: Authority) -> None:
    strangers_with_our_ca = TlsFiles(theirs.client.cert, theirs.client.key, ours.client.ca)
    with serving(export, tls=ours.server) as server:
        address = str(server.address)
        cases: list[tuple[TlsFiles | None, str | None, str]] = [
            (ours.client, "other.example", "certificate is not accepted.*mismatch"),
            (theirs.client, None, "certificate is not accepted"),
            (strangers_with_our_ca, None, "does not accept our certificate"),
            (None, None, "asks for TLS"),
        ]
        for tls, name, why in cases:
            with pytest.raises(SourceRefused, match=why) as caught:
                await attach(address, tls, name)
            assert "\n" not in str(caught.value)
        await attach(address, ours.client)


@in_trio
async def test_an_expired_certificate_is_refused_on_either_side(export: Path, ours: Authority, tmp_path: Path) -> None:
    for file in ("ca.pem", "ca.key"):
        (tmp_path / file).write_bytes((ours.directory / file).read_bytes())
    old = make_host(tmp_path, ["127.0.0.1"], days=1, now=LONG_AGO)
    with serving(export, tls=old) as server, pytest.raises(SourceRefused, match="expired"):
        await attach(str(server.address), ours.client)
    with (
        serving(export, tls=ours.server) as server,
        pytest.raises(SourceRefused, match=r"does not accept our certificate.*expired"),
    ):
        await attach(str(server.address), old)


@in_trio
async def test_a_server_of_plain_text_is_refused(export: Path, ours: Authority) -> None:
    with serving(export) as server, pytest.raises(SourceRefused, match="does not speak TLS"):
        await attach(str(server.address), ours.client)


@in_trio
async def test_an_absent_server_is_not_taken_for_a_refusal(export: Path, ours: Authority) -> None:
    with serving(export, tls=ours.server) as server:
        address = str(server.address)
    for tls in (None, ours.client):
        async with GrpcSource(address, tls=tls, loss=SourceLoss(0)) as source:
            with pytest.raises(SourceUnreachable):
                await source.attach()


def test_a_client_without_a_certificate_gets_nothing(export: Path, ours: Authority) -> None:
    """One that does not play by our client's rules: it trusts the server, and shows nothing."""
    with serving(export, tls=ours.server) as server:
        credentials = grpc.ssl_channel_credentials(ours.client.ca.read_bytes())
        with grpc.secure_channel(str(server.address), credentials) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                ExportStub(channel).Attach(pb.AttachRequest(), timeout=30)
            failed: Any = caught.value
            assert failed.code() is grpc.StatusCode.UNAVAILABLE


def test_files_that_are_of_no_use_are_named(ours: Authority, theirs: Authority, tmp_path: Path) -> None:
    good = ours.server
    good.check()
    text = tmp_path / "text"
    text.write_text("no certificate")
    hollow = tmp_path / "hollow"
    hollow.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    missing = tmp_path / "missing"
    cases = [
        (TlsFiles(missing, good.key, good.ca), f"cannot read {missing}: No such file"),
        (TlsFiles(good.cert, missing, good.ca), f"cannot read {missing}: No such file"),
        (TlsFiles(good.cert, good.key, missing), f"cannot read {missing}: No such file"),
        (TlsFiles(good.cert, good.key, tmp_path), "Is a directory"),
        (TlsFiles(text, good.key, good.ca), f"cannot use {text}: it is not a PEM file"),
        (TlsFiles(good.cert, text, good.ca), f"cannot use {text}: it is not a PEM file"),
        (TlsFiles(good.cert, good.key, text), f"cannot use {text}: it is not a PEM file"),
        (TlsFiles(good.cert, good.key, hollow), f"cannot use {hollow}"),
        (TlsFiles(hollow, good.key, good.ca), f"cannot use {hollow}"),
        (TlsFiles(good.cert, theirs.server.key, good.ca), "do not belong together"),
    ]
    for files, message in cases:
        actions: list[Callable[[], object]] = [
            files.check,
            files.server_credentials,
            files.channel_credentials,
            lambda files=files: GrpcSource("127.0.0.1:1", tls=files),  # type: ignore[misc]
        ]
        for action in actions:
            with pytest.raises(InsecureError) as caught:
                action()
            assert message in str(caught.value)


# Making certificates


def test_keys_are_for_the_owner_only_and_nothing_is_overwritten(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "certs"
    make_ca(directory)
    host = make_host(directory, ["host.example", "10.1.2.3"])
    for key in (directory / "ca.key", host.key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    before = {path: path.read_bytes() for path in directory.iterdir()}
    assert len(before) == 4
    with pytest.raises(InsecureError, match="exists already"):
        make_ca(directory)
    with pytest.raises(InsecureError, match="exists already"):
        make_host(directory, ["host.example"])
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


@contextmanager
def _refused(message: str) -> Iterator[None]:
    with pytest.raises(InsecureError, match=message):
        yield


def test_what_cannot_be_made_is_said(tmp_path: Path, ours: Authority) -> None:
    with _refused("no CA in"):
        make_host(tmp_path, ["host"])
    for names in ([], [""], ["a/b"], ["../x"], ["ca"], ["-x"], ["a b"], ["ü.example"]):
        with _refused("not host names"):
            make_host(ours.directory, names)
    (tmp_path / "file").write_text("")
    with _refused("file exists already"):
        make_ca(tmp_path / "file")
    with _refused("cannot write"):
        make_ca(tmp_path / "file" / "below")
    (tmp_path / "ca.pem").write_text("x")
    (tmp_path / "ca.key").write_text("x")
    with _refused("cannot be used"):
        make_host(tmp_path, ["host"])


def test_other_tls_stacks_accept_the_certificates_strictly(ours: Authority) -> None:
    context = ssl.create_default_context(cafile=ours.server.ca)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(ours.client.cert, ours.client.key)
    serving_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ours.server.ca)
    serving_context.verify_flags |= ssl.VERIFY_X509_STRICT
    serving_context.verify_mode = ssl.CERT_REQUIRED
    serving_context.load_cert_chain(ours.server.cert, ours.server.key)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(to_client, to_server, server_hostname="source.example")
    server = serving_context.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for end in (client, server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
    client.do_handshake()
    server.do_handshake()
