"""The bulk lane: a process of its own that fetches straight into backing files.

Receiving, checking and writing bulk data takes an interpreter's whole attention, so it does not
happen in the one that answers the kernel. `lane` is the owner's end (trio), `__main__`
and `landing` are the process; `frames` is what they say to each other.

The process decides nothing: what is fetched, and what counts as present, is the owner's.
"""

from voyfs.bulk.lane import BulkProcess

__all__ = ["BulkProcess"]
