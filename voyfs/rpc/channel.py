"""gRPC channels to a source, tuned to notice a cut link soon and a mended one at once."""

import grpc

from voyfs.core.limits import MESSAGE_BYTES
from voyfs.rpc.address import Address, require_secure
from voyfs.rpc.tls import TlsFiles

# A dead link shows itself when a ping stays unanswered. The timeout covers what may queue
# before the ping: the bulk lane's 8 MiB take 7 s at 10 Mbit/s, a demand lane holds far less.
_PING_MS = 2_000
_DEMAND_SILENCE_MS = 4_000
_BULK_SILENCE_MS = 15_000

# Of attempts to connect. One gets 2 s: lost SYNs are not worth waiting for when the link is
# back, and a TLS handshake takes 3 round trips.
_RECONNECT_FIRST_MS = 100
_RECONNECT_LAST_MS = 1_000
_CONNECT_MS = 2_000


def open_channel(address: Address, tls: TlsFiles | None, server_name: str | None, *, bulk: bool) -> grpc.Channel:
    """A channel with a connection of its own; it connects when first used.

    `server_name` is what the source's certificate must bear, by default the address's host.
    Raises InsecureError.
    """
    require_secure(address, tls)
    silence = _BULK_SILENCE_MS if bulk else _DEMAND_SILENCE_MS
    options: list[tuple[str, str | int]] = [
        ("grpc.use_local_subchannel_pool", 1),  # else equal channels share one connection
        ("grpc.max_receive_message_length", MESSAGE_BYTES),
        ("grpc.max_send_message_length", MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", _PING_MS),
        ("grpc.keepalive_timeout_ms", silence),
        ("grpc.http2.ping_timeout_ms", silence),  # 60 s unless set, and it counts for keepalive
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", _RECONNECT_FIRST_MS),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _RECONNECT_LAST_MS),
        ("grpc.enable_http_proxy", 0),  # nothing reads the environment but the command lines
    ]
    if tls is None:
        return grpc.insecure_channel(address.target, options)
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    return grpc.secure_channel(address.target, tls.channel_credentials(), options)
