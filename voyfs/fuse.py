"""The thin layer between pyfuse3 and `vfs`: translates values, and errors to errno.

pyfuse3 is the project's given way to the kernel: nothing here goes round its handlers.

A file handle is the node number, and a position in a directory is a hash of the name, so that
any later daemon understands what the kernel holds from an earlier one.
"""

import errno
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from voyfs.callers import CALLER
from voyfs.core.errors import SourceChanged, VoyfsError
from voyfs.logs import get_logger
from voyfs.store.content import Attributes
from voyfs.takeover import MARKER, StandIn
from voyfs.vfs import Owner, Vfs, in_thread

log = get_logger(__name__)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# Only this mount's own calls change what the kernel caches; where the daemon itself changes
# something (`refresh`) it says so. So caches need not end; a day is for ever here.
CACHE_SECONDS = 86_400

O_TRUNC = 0o1000


def _errno(error: VoyfsError) -> int:
    return errno.ESTALE if isinstance(error, SourceChanged) else errno.EIO


def _translated(
    method: Callable[Parameters, Coroutine[Any, Any, Result]],
) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
    """The one place where errors become errno."""

    @functools.wraps(method)
    async def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        operations: Any = args[0]
        operations.vfs.called()
        if isinstance(args[-1], RequestContext):
            CALLER.set(args[-1].pid)
        try:
            return await method(*args, **kwargs)
        except FUSEError:
            raise
        except OSError as error:
            raise FUSEError(error.errno or errno.EIO) from error
        except VoyfsError as error:
            log.warning("call fails", call=method.__name__, why=str(error))
            raise FUSEError(_errno(error)) from error
        except Exception as error:
            log.exception("call fails unexpectedly", call=method.__name__)
            raise FUSEError(errno.EIO) from error

    return call


def _entry(shown: Attributes) -> EntryAttributes:
    entry = EntryAttributes()
    entry.st_ino = shown.ino
    entry.generation = 0
    entry.entry_timeout = entry.attr_timeout = CACHE_SECONDS
    entry.st_mode = shown.mode
    entry.st_nlink = shown.nlink
    entry.st_uid = shown.uid
    entry.st_gid = shown.gid
    entry.st_rdev = shown.rdev
    entry.st_size = shown.size
    entry.st_blksize = 4096
    entry.st_blocks = shown.blocks
    entry.st_atime_ns = shown.atime_ns
    entry.st_mtime_ns = shown.mtime_ns
    entry.st_ctime_ns = shown.ctime_ns
    return entry


def _nothing() -> EntryAttributes:
    """A name that does not exist, to be remembered as such."""
    entry = EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = CACHE_SECONDS
    return entry


def _owner(ctx: RequestContext) -> Owner:
    return Owner(ctx.uid, ctx.gid, ctx.umask)


async def forget(names: Sequence[tuple[int, bytes]], nodes: Sequence[int]) -> None:
    """Makes the kernel ask again for `names`, (directory, name), and what it knows of `nodes`."""

    def tell() -> None:
        for directory, name in names:
            _unless_unknown(functools.partial(pyfuse3.invalidate_entry, directory, name))
        for node in nodes:
            _unless_unknown(functools.partial(pyfuse3.invalidate_inode, node))

    await in_thread(tell)  # it waits for calls under way, which the loop's own thread answers


def _unless_unknown(tell: Callable[[], None]) -> None:
    try:
        tell()
    except OSError as error:
        if error.errno != errno.ENOENT:  # the kernel does not know it: all the better
            raise


class Operations(pyfuse3.Operations):
    """pyfuse3's handlers over a Vfs."""

    supports_dot_lookup = True
    enable_acl = True

    def __init__(self, vfs: Vfs, stand_in: StandIn) -> None:
        super().__init__()
        self.vfs = vfs
        self._stand_in = stand_in
        self.initialised = trio.Event()

    def init(self) -> None:
        for change, inode, name in self._stand_in.initialised():
            self.vfs.sent_again(change, inode, name)
        self.initialised.set()

    # -- names ------------------------------------------------------------------------------

    @_translated
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        try:
            return _entry(await self.vfs.lookup(parent_inode, name))
        except FileNotFoundError:
            return _nothing()

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            if inode == MARKER:
                self._stand_in.replace()
            else:
                self.vfs.forget(inode, count)

    @_translated
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        shown = await self.vfs.create(parent_inode, name, mode, _owner(ctx))
        return FileInfo(fh=shown.ino, keep_cache=True), _entry(shown)

    @_translated
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        return _entry(await self.vfs.mkdir(parent_inode, name, mode, _owner(ctx)))

    @_translated
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext) -> EntryAttributes:
        return _entry(await self.vfs.mknod(parent_inode, name, mode, rdev, _owner(ctx)))

    @_translated
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext) -> EntryAttributes:
        return _entry(await self.vfs.symlink(parent_inode, name, target, _owner(ctx)))

    @_translated
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext) -> EntryAttributes:
        return _entry(await self.vfs.link(inode, new_parent_inode, new_name))

    @_translated
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self.vfs.unlink(parent_inode, name)

    @_translated
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        await self.vfs.rmdir(parent_inode, name)

    @_translated
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        await self.vfs.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags)

    @_translated
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        return self.vfs.readlink(inode)

    # -- listing ----------------------------------------------------------------------------

    @_translated
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        await self.vfs.opendir(inode)
        return inode

    @_translated
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        for cookie, name, shown in await self.vfs.readdir(fh, start_id):
            taken = pyfuse3.readdir_reply(token, name, _entry(shown), cookie)
            if name in (b".", b".."):
                counts = False  # the kernel takes no reference to these
            else:
                counts = taken
            if counts:
                self.vfs.listed(shown.ino)
            if not taken:
                self.vfs.passed(shown.ino)
                return

    @_translated
    async def releasedir(self, fh: int) -> None:
        self.vfs.releasedir(fh)

    @_translated
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self.vfs.fsyncdir(fh)

    # -- bytes ------------------------------------------------------------------------------

    @_translated
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        await self.vfs.open(inode, truncate=bool(flags & O_TRUNC))
        return FileInfo(fh=inode, keep_cache=True)

    @_translated
    async def read(self, fh: int, off: int, size: int) -> memoryview | bytes:  # type: ignore[override] # a copy less
        return await self.vfs.read(fh, off, size)

    @_translated
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        return await self.vfs.write(fh, off, buf)

    async def flush(self, fh: int) -> None:
        # Nothing waits for a close here, and the kernel asks no more once it was told so.
        raise FUSEError(errno.ENOSYS)

    async def release(self, fh: int) -> None:
        """The handle is the node, and the kernel's references keep that."""

    @_translated
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self.vfs.fsync(fh)

    # -- attributes -------------------------------------------------------------------------

    @_translated
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return _entry(self.vfs.getattr(inode))

    @_translated
    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        shown = await self.vfs.setattr(
            inode,
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        return _entry(shown)

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        if self.vfs.lacks_xattr(inode, name):  # what the kernel asks before every write
            raise FUSEError(errno.ENODATA)
        return await self._getxattr(inode, name)

    @_translated
    async def _getxattr(self, inode: int, name: bytes) -> bytes:
        return self.vfs.getxattr(inode, name)

    @_translated
    async def listxattr(self, inode: int, ctx: RequestContext) -> Sequence[bytes]:
        return self.vfs.listxattr(inode)

    @_translated
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self.vfs.setxattr(inode, name, value)

    @_translated
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self.vfs.removexattr(inode, name)

    @_translated
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        local = self.vfs.statvfs()
        data = StatvfsData()
        for field in (
            *("f_bsize", "f_frsize", "f_blocks", "f_bfree", "f_bavail"),
            *("f_files", "f_ffree", "f_favail", "f_namemax"),
        ):
            setattr(data, field, getattr(local, field))
        return data
