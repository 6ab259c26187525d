"""Tests of the wire."""

import voyfs.rpc  # noqa: F401  # before grpc, as in the programs: it quietens gRPC's own log
