"""Whether whoever made a call still waits for its answer.

The kernel lets a process that was killed go only when its call is answered. A call that waits for
the source may wait for ever, so while it does, its caller is looked at from time to time. (Reads
through the page cache need none of this: their callers wait for the page, and can be killed. For
other reads, and for writes, the library does not tell who calls: docs/SEMANTICS.md.)
"""

import errno
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from pathlib import Path

import trio

# The thread that made the call being served, as /proc numbers it; 0 where the kernel did not say.
CALLER: ContextVar[int] = ContextVar("caller", default=0)

LOOK_SECONDS = 1.0

_SIGKILL_BIT = 1 << 8


async def while_wanted(wait: Callable[[], Awaitable[None]]) -> None:
    """Awaits `wait()`; raises InterruptedError once the caller was killed meanwhile."""
    caller = CALLER.get()
    failure: Exception | None = None
    done = False

    async def run() -> None:
        nonlocal failure, done
        try:
            await wait()
        except Exception as error:
            failure = error  # passed on as it is, not as a group
        done = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(LOOK_SECONDS)
        while not (caller and _is_killed(caller)):  # noqa: ASYNC110 - nobody announces a kill
            await trio.sleep(LOOK_SECONDS)
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not done:
        raise InterruptedError(errno.EINTR, "the caller was killed")


def _is_killed(thread: int) -> bool:
    try:
        status = Path(f"/proc/{thread}/status").read_bytes()  # a process's name may hold any bytes but newlines
    except OSError:
        return True
    pending = [line.split()[1] for line in status.split(b"\n") if line.startswith((b"SigPnd:", b"ShdPnd:"))]
    return any(int(mask, 16) & _SIGKILL_BIT for mask in pending)
