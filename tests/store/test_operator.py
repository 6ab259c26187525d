"""What is asked of a running mount, where a fake of what it is asked through tells more than a mount could."""

import errno
from types import SimpleNamespace
from typing import Any

import pytest

from voyfs.hydrator import Progress
from voyfs.operator import Operator


def test_hydration_that_could_not_begin_begins_when_asked_again() -> None:
    """A full disk does not take even that it has begun."""
    begun: list[Any] = []
    full = True

    def begin() -> None:
        if full:
            raise OSError(errno.ENOSPC, "no space")
        begun.append("written down")

    totals = SimpleNamespace(bytes=0, absent_bytes=0)
    store: Any = SimpleNamespace(records=SimpleNamespace(totals=totals), detached=False, begin_hydration=begin)
    hydrator: Any = SimpleNamespace(progress=Progress())
    background: Any = SimpleNamespace(run="the background")
    nursery: Any = SimpleNamespace(start_soon=begun.append)
    others: Any = None
    operator = Operator(others, store, others, hydrator, background, others, nursery, others, others, others)

    with pytest.raises(OSError, match="no space"):
        operator.hydrate()
    assert begun == []
    full = False
    operator.hydrate()
    operator.hydrate()
    assert begun == ["written down", "the background", operator.warming.unwatch]
