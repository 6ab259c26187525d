"""What the container changes is noted as its own before it is changed.

A daemon may be killed right after the change, and nobody send the call again: noted afterwards, `verify` would take
what was never answered for a difference.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from voyfs.store.record import Record
from voyfs.store.records import Records


@contextmanager
def owned(records: Records, record: Record | None, flag: int) -> Iterator[None]:
    """FLAG (WRITTEN, ATTRIBUTES, NAMES) is noted before the block changes the entry, and taken back if that fails."""
    if record is None or record.flags & flag:
        yield
        return
    record.flags |= flag
    try:
        records.touched(record)
        yield
    except BaseException:
        record.flags &= ~flag
        records.touched(record)
        raise
