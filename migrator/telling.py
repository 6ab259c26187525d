"""Tells how far something is while it lasts: images on their way, and what the target fetches before the freeze.

A figure that cannot be had is not told, and nothing here fails a migration or holds it up. It must not know the order
of one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from migrator.core import limits
from migrator.core.phases import Phase
from migrator.core.plan import ImagePiece, Progress
from migrator.ports import Peer
from migrator.recorder import Counter, Recorder


def progress(recorder: Recorder, phase: Phase, found: Progress) -> None:
    """Tell it, unless nothing is known, or nothing is to come."""
    if found.bytes_total:
        recorder.tell("progress", phase=phase, **found.to_json())


def images(
    pieces: Iterator[ImagePiece], counter: Counter, recorder: Recorder, phase: Phase, expected: int
) -> Iterator[ImagePiece]:
    """Count images on their way, and tell how far they are: seldom, for it happens in the freeze.

    EXPECTED: how many bytes they may be.
    """
    began = told = recorder.now()
    for piece in pieces:
        counter.bytes += len(piece.data)
        now = recorder.now()
        if now - told >= limits.TELL_SECONDS:
            told, rate = now, counter.bytes / (now - began)
            left = max(expected - counter.bytes, 0) / rate if rate else None
            facts = {"bytes_present": counter.bytes, "bytes_total": max(expected, counter.bytes)}
            recorder.tell("progress", phase=phase, **facts, rate=rate, eta=left)
        yield piece


@contextmanager
def preparation(recorder: Recorder, peer: Peer, migration: str) -> Iterator[None]:
    """While the target prepares, ask it now and then how far that is, beside the call that waits for its end."""
    over, telling = threading.Event(), threading.Lock()

    def ask() -> None:
        # An earlier version does not know the question, and a peer that fails at it may fail at anything.
        with suppress(Exception):
            while not over.wait(limits.HOW_FAR_SECONDS):
                found = peer.how_far(migration)
                with telling:
                    if found is not None and not over.is_set():
                        progress(recorder, Phase.PREPARE, found)

    with suppress(RuntimeError):  # no thread can be had
        threading.Thread(target=ask, name=f"how-far-{migration}", daemon=True).start()
    try:
        yield
    finally:
        with telling:  # an answer that is under way is not waited for, and comes too late to be told
            over.set()
