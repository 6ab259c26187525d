"""Which entries of an exported tree change, kept from when a client asks for it until it has been told.

The kernel tells of the whole file system; what lies below the root is kept. Whatever is not certain ends in
`Untold`: too many changes, a file system that cannot, a mount below the root, of which nothing is told.
Nobody pays while no client has asked.
"""

import errno
import math
import os
import secrets
import select
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from voyfs.core.touched import Changes, Event, Touched
from voyfs.rpc import fanotify

# Stores through a shared mapping are not told of. Here the first one after a file was opened moves its times at least;
# on others (tmpfs, overlays of it, network file systems) content could change under the same version.
KINDS = frozenset((b"ext2", b"ext3", b"ext4", b"xfs", b"btrfs", b"f2fs"))

ASKERS = 64
ASKER_SECONDS = 3600.0  # a client that has not asked again by then is gone
_MARK_BYTES = 16
_NAP_SECONDS = 0.02  # the kernel merges events of the same name meanwhile
_KNOWN_DIRECTORIES = 65536


class Untold(Exception):
    """What has changed is not known; the message says why."""


class Tracker:
    """Of one tree; safe to use from several threads."""

    def __init__(self, root: int) -> None:
        """ROOT: an O_PATH descriptor of the tree's root, which outlives this."""
        self._root = root
        self._lock = threading.Lock()
        self._askers: dict[bytes, float] = {}  # by mark: when it was given
        self._watch: _Watch | None = None
        self._ending: list[threading.Thread] = []

    def begin(self) -> bytes:
        """A mark, for `end`: from now on what changes is kept. Raises Untold."""
        with self._lock:
            self._expire()
            if len(self._askers) >= ASKERS:
                raise Untold("too many clients have asked already")
            if self._watch is None or self._watch.lost:
                self._stop()
                self._askers.clear()  # they are told that it is not known
                self._watch = _Watch(self._root, self._lock)
            self._watch.until = time.monotonic() + ASKER_SECONDS
            mark = secrets.token_bytes(_MARK_BYTES)
            self._askers[mark] = time.monotonic()
            return mark

    def end(self, mark: bytes) -> tuple[list[Touched], list[int]]:
        """What may have changed since `mark` was given: names by directory, and inodes. Raises Untold."""
        with self._lock:
            known = self._askers.pop(mark, None) is not None
            try:
                if not known or self._watch is None:
                    raise Untold("the source was started again, or has been asked before")
                return self._watch.changes()
            finally:
                self._expire()

    def close(self) -> None:
        """Returns when nothing is watched any more."""
        with self._lock:
            self._askers.clear()
            self._stop()
        for thread in self._ending:  # which needs the lock to end
            thread.join()

    def _expire(self) -> None:
        now = time.monotonic()
        self._askers = {mark: since for mark, since in self._askers.items() if now - since < ASKER_SECONDS}
        if not self._askers:
            self._stop()

    def _stop(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._ending = [thread for thread in (*self._ending, self._watch.thread) if thread.is_alive()]
            self._watch = None


class _Watch:
    """The kernel's events from when it is made; a thread takes them, so that the kernel drops none."""

    def __init__(self, root: int, lock: threading.Lock) -> None:
        """All but the thread's waiting happens with `lock` held. Raises Untold."""
        self._lock = lock
        self._changes = Changes()
        self._inside: dict[bytes, bool] = {}  # by handle: whether a directory lies below the root
        self.lost = ""  # why it is not known what has changed
        try:
            # What handles are opened with has to be open itself, unlike a descriptor with O_PATH.
            self._root = os.open(b"/proc/self/fd/%d/." % root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                kind = _kind(self._root)
                if kind not in KINDS:
                    raise Untold(f"changes on {os.fsdecode(kind)} are not told of in full")
                os.close(fanotify.open_handle(self._root, fanotify.handle_of(self._root)))
                self._group = fanotify.watch(self._root)
            except BaseException:
                os.close(self._root)
                raise
        except OSError as error:
            raise Untold(f"changes cannot be watched: {error.strerror}") from error
        self._over = os.eventfd(0, os.EFD_CLOEXEC)
        self._ended = False
        self.until = math.inf  # when nobody is going to ask any more
        self.thread = threading.Thread(target=self._run, name="changes", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        if not self._ended:
            os.eventfd_write(self._over, 1)

    def changes(self) -> tuple[list[Touched], list[int]]:
        """Raises Untold."""
        self._take()
        if self.lost:
            raise Untold(self.lost)
        try:
            _kind(self._root)
            top = _place(self._root)
            touched = []
            for handle, names in self._changes.names.items():
                path = self._path(handle, top)
                if path is not None:
                    touched.append(Touched(path, tuple(sorted(names))))
        except OSError as error:
            raise Untold(f"a changed directory cannot be found: {error.strerror}") from error
        return sorted(touched, key=lambda each: each.path), sorted(self._changes.inodes)

    def _run(self) -> None:
        try:
            while self._wait(None, self._group):
                self._wait(_NAP_SECONDS)
                with self._lock:
                    self._take()
                    if self.lost or time.monotonic() > self.until:
                        self.lost = self.lost or "the client has not asked for long"
                        return
        finally:
            with self._lock:
                self._ended = True
                self.lost = self.lost or "it is over"
                for descriptor in (self._group, self._over, self._root):
                    os.close(descriptor)

    def _wait(self, seconds: float | None, *others: int) -> bool:
        """Waits for one of these descriptors, or for so long; False when it is over."""
        poll = select.poll()
        for descriptor in (self._over, *others):
            poll.register(descriptor, select.POLLIN)
        ready = poll.poll(None if seconds is None else seconds * 1000)
        return self._over not in [descriptor for descriptor, _ in ready]

    def _take(self) -> None:
        """Takes note of all that has happened until now."""
        if self.lost:
            return
        try:
            # All at once: an event may have been merged with one that comes after the move of a directory.
            events = list(fanotify.read(self._group))
            if any(event.moves for event in events) or len(self._inside) > _KNOWN_DIRECTORIES:
                self._inside.clear()
            top = _place(self._root)
            for event in events:
                self._note(event, top)
        except OSError as error:
            self.lost = f"a change cannot be followed: {error.strerror}"
        if self._changes.full and not self.lost:
            self.lost = "too much has changed"
        if self.lost:
            self._changes = Changes()
            self._inside.clear()

    def _note(self, event: Event, top: bytes) -> None:
        if event.lost:
            self.lost = "more has happened on its file system than the kernel keeps"
        elif event.directory is not None and self._is_inside(event.directory, top):
            self._changes.touch(event.directory, event.name)
        elif event.child is not None:
            # Of an entry elsewhere, or of no place: it may have another name below the root.
            status = self._status(event.child)
            elsewhere = event.directory is None or (status is not None and status.st_nlink > 1)
            if status is not None and stat.S_ISREG(status.st_mode) and elsewhere:
                self._changes.change(status.st_ino)

    def _is_inside(self, handle: bytes, top: bytes) -> bool:
        inside = self._inside.get(handle)
        if inside is None:
            inside = self._inside[handle] = self._path(handle, top) is not None
        return inside

    def _path(self, handle: bytes, top: bytes) -> bytes | None:
        """Where the directory is below the root, itself at `top`; None if it is not, or no more. Raises OSError."""
        with self._opened(handle) as descriptor:
            if descriptor is None or os.fstat(descriptor).st_nlink == 0:
                return None
            place = _place(descriptor)
        if place == top:
            return b""
        above = top.rstrip(b"/") + b"/"
        return place[len(above) :] if place.startswith(above) else None

    def _status(self, handle: bytes) -> os.stat_result | None:
        """None if it is no more. Raises OSError."""
        with self._opened(handle) as descriptor:
            return None if descriptor is None else os.fstat(descriptor)

    @contextmanager
    def _opened(self, handle: bytes) -> Iterator[int | None]:
        """A descriptor of what has this handle; None if it is no more. Raises OSError."""
        try:
            descriptor = fanotify.open_handle(self._root, handle)
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            yield None
            return
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _place(descriptor: int) -> bytes:
    return os.readlink(b"/proc/self/fd/%d" % descriptor)


def _kind(root: int) -> bytes:
    """The kind of the file system of `root`. Raises Untold where something is mounted below it, OSError."""
    below = _place(root).rstrip(b"/") + b"/"
    with open(f"/proc/self/fdinfo/{root}") as lines:
        own = next(line.split()[1] for line in lines if line.startswith("mnt_id:")).encode()
    kind = b"this file system"
    with open("/proc/self/mountinfo", "rb") as mounts:
        for line in mounts:
            number, _, _, _, point, *_ = line.split()
            if number == own:
                kind = line.partition(b" - ")[2].split()[0]
            elif point.decode("unicode_escape").encode("latin-1").startswith(below):
                raise Untold("something is mounted below the export")
    return kind
