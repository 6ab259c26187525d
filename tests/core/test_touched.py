"""The set of what changed."""

from voyfs.core.limits import TOUCHED_NAMES
from voyfs.core.touched import Changes


def test_each_name_counts_once_and_the_set_has_a_bound() -> None:
    changes = Changes()
    for _ in range(2):
        changes.touch(b"d", b"")
        for number in range(TOUCHED_NAMES - 2):
            changes.touch(b"d", b"%d" % number)
    changes.change(7)
    assert not changes.full
    assert len(changes.names[b"d"]) == TOUCHED_NAMES - 2
    changes.change(7)
    assert not changes.full
    changes.touch(b"e", b"")
    assert changes.full
