"""Whether a caller still waits for its answer, whatever it calls itself."""

import ctypes
import subprocess
import threading
from collections.abc import Iterator
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from voyfs.callers import CALLER, LOOK_SECONDS, while_wanted

_PR_SET_NAME, _PR_GET_NAME = 15, 16
_WAITED = 3 * LOOK_SECONDS

# A name is cut to 15 bytes, in the middle of a character if need be, and may hold all but newlines.
NAMES = ["резервная-копия".encode()[:15], b"\xff\xfe", b"x\rSigPnd:\t100", b"\x0bShdPnd:", b"SigPnd:\x1cx y"]


@pytest.fixture(params=NAMES)
def named(request: pytest.FixtureRequest) -> Iterator[None]:
    """This thread has a name that is hard to read."""
    libc = ctypes.CDLL(None)
    before = ctypes.create_string_buffer(16)
    libc.prctl(_PR_GET_NAME, before)
    libc.prctl(_PR_SET_NAME, request.param)
    yield
    libc.prctl(_PR_SET_NAME, before)


def _waiting(caller: int) -> None:
    async def wait() -> None:
        CALLER.set(caller)
        await while_wanted(partial(trio.sleep, _WAITED))

    trio.run(wait, clock=MockClock(autojump_threshold=0))


@pytest.mark.usefixtures("named")
def test_whoever_lives_is_waited_for() -> None:
    _waiting(threading.get_native_id())


def test_whoever_was_killed_is_not() -> None:
    with subprocess.Popen(["sleep", "infinity"]) as process:
        process.kill()
        with pytest.raises(InterruptedError):
            _waiting(process.pid)
