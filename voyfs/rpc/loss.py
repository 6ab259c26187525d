"""What to do when the source does not answer: which failures pass, and how long to try.

Knows statuses and clocks; nothing of what is asked for.
"""

import math
import random
from dataclasses import dataclass

import grpc
import trio

from voyfs.core.errors import (
    SourceError,
    SourceMalformed,
    SourceRefused,
    SourceUnreachable,
    SourceUnreadable,
)

# Shorter than any of these, a wait would fail calls that are merely on their way.
_ANSWER_SECONDS = 3.0

_FIRST_PAUSE = 0.05
_LAST_PAUSE = 1.0

_TRANSIENT = frozenset(
    (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
    )
)
_REFUSALS = frozenset((grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED))

# What this end's gRPC says of an answer that it could not take.
_UNFIT = ("larger than max", "deserializing", "parsing", "compress")
# A stream that was torn, as opposed to a handler of the server that failed.
_TORN = ("RST_STREAM", "Stream removed", "GOAWAY", "Connection reset", "Broken pipe", "Socket")


@dataclass(frozen=True, slots=True)
class SourceLoss:
    """How long calls wait for a source that is away: `wait` in seconds, None for ever."""

    wait: float | None = None


def lasting_error(code: grpc.StatusCode | None, details: str | None) -> SourceError | None:
    """The error that a failed call means for good; None where trying again may help."""
    text = " ".join((details or "").split())[:300] or "no reason given"
    if any(sign in text for sign in _UNFIT):
        return SourceMalformed(f"the source's answer is not fit to be read: {text}")
    if code in _TRANSIENT or code == grpc.StatusCode.RESOURCE_EXHAUSTED:
        return None
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        if any(sign in text for sign in _TORN):
            return None
        return SourceUnreadable(f"the source failed: {text}")
    if code in _REFUSALS:
        return SourceRefused(f"the source refuses us: {text}")
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return SourceRefused("what answers there is not a voyfs server, or one of another version")
    name = code.name if code is not None else "no status"
    return SourceRefused(f"the source refuses the request ({name}): {text}")


class Patience:
    """One call's tries: how long each may take, and the pauses between them."""

    def __init__(self, loss: SourceLoss, attempt_seconds: float) -> None:
        self._attempt_seconds = attempt_seconds
        self._wait = math.inf if loss.wait is None else loss.wait
        self.renew()

    def renew(self) -> None:
        """The source has answered: waiting starts anew."""
        self._start = trio.current_time()
        self._pause = _FIRST_PAUSE

    def attempt_seconds(self) -> float:
        """How long the next attempt may take; never less than a link needs to answer."""
        left = self._start + max(self._wait, _ANSWER_SECONDS) - trio.current_time()
        return max(min(self._attempt_seconds, left), 0.1)

    async def pause(self, code: grpc.StatusCode | None, details: str | None) -> None:
        """After a passing failure: waits, jittered. Raises SourceUnreachable when time is over."""
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            # On a slow link the answer may just be large.
            self._attempt_seconds *= 2
        pause = random.uniform(self._pause / 2, self._pause)
        self._pause = min(self._pause * 2, _LAST_PAUSE)
        left = self._start + self._wait - trio.current_time()
        if left <= 0:
            text = " ".join((details or "").split())[:200] or "no answer"
            raise SourceUnreachable(f"the source does not answer: {text}")
        await trio.sleep(min(pause, left))
