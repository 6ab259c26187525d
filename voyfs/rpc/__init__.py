"""The wire: a `BlockSource` over gRPC, and the block server behind it.

The only rooms of voyfs that know gRPC and protobuf. They know nothing of stores, mounts or
FUSE; what they promise is `voyfs.ports.BlockSource`.
"""

import os

# gRPC's core writes lines of its own to stderr for every refused handshake and cut connection.
# All of that reaches us as errors and is told to the user once, in our words. It reads the
# variable when it is first loaded, hence here, above every import of grpc.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
