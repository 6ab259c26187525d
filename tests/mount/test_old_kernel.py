"""A kernel that cannot send unanswered calls again (before Linux 6.9): who mounts is told so."""

import ctypes
import os

from voyfs.takeover import StandIn

_MONOTONIC = 1


def test_a_first_daemon_asks_already() -> None:
    refusing = ctypes.CDLL(None).timerfd_create(_MONOTONIC, 0)  # writing to it is EINVAL, as to an old /dev/fuse
    accepting = os.open("/dev/null", os.O_RDWR)
    try:
        for descriptor, resends in ((refusing, False), (accepting, True)):
            stand_in = StandIn(descriptor, taking_over=False)
            assert stand_in.initialised() == []
            assert stand_in.resends is resends
            os.close(int(stand_in.mountpoint.rpartition("/")[2]))
    finally:
        os.close(refusing)
        os.close(accepting)
