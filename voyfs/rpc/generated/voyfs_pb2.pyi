from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    CHANGED: _ClassVar[Reason]
    MISSING: _ClassVar[Reason]
    REFUSED: _ClassVar[Reason]
    UNREADABLE: _ClassVar[Reason]
REASON_UNSPECIFIED: Reason
CHANGED: Reason
MISSING: Reason
REFUSED: Reason
UNREADABLE: Reason

class Version(_message.Message):
    __slots__ = ("inode", "size", "mtime_ns", "ctime_ns")
    INODE_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    CTIME_NS_FIELD_NUMBER: _ClassVar[int]
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    def __init__(self, inode: _Optional[int] = ..., size: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., ctime_ns: _Optional[int] = ...) -> None: ...

class Xattr(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    value: bytes
    def __init__(self, name: _Optional[bytes] = ..., value: _Optional[bytes] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("name", "mode", "uid", "gid", "rdev", "nlink", "blocks", "atime_ns", "device", "version", "target", "xattrs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    RDEV_FIELD_NUMBER: _ClassVar[int]
    NLINK_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    ATIME_NS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    XATTRS_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    blocks: int
    atime_ns: int
    device: int
    version: Version
    target: bytes
    xattrs: _containers.RepeatedCompositeFieldContainer[Xattr]
    def __init__(self, name: _Optional[bytes] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., rdev: _Optional[int] = ..., nlink: _Optional[int] = ..., blocks: _Optional[int] = ..., atime_ns: _Optional[int] = ..., device: _Optional[int] = ..., version: _Optional[_Union[Version, _Mapping]] = ..., target: _Optional[bytes] = ..., xattrs: _Optional[_Iterable[_Union[Xattr, _Mapping]]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("fetch_bytes", "message_bytes", "stat_paths")
    FETCH_BYTES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    STAT_PATHS_FIELD_NUMBER: _ClassVar[int]
    fetch_bytes: int
    message_bytes: int
    stat_paths: int
    def __init__(self, fetch_bytes: _Optional[int] = ..., message_bytes: _Optional[int] = ..., stat_paths: _Optional[int] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AttachReply(_message.Message):
    __slots__ = ("export_id", "root", "limits")
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    export_id: bytes
    root: Entry
    limits: Limits
    def __init__(self, export_id: _Optional[bytes] = ..., root: _Optional[_Union[Entry, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("path", "inode", "export_id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    inode: int
    export_id: bytes
    def __init__(self, path: _Optional[bytes] = ..., inode: _Optional[int] = ..., export_id: _Optional[bytes] = ...) -> None: ...

class WalkRequest(_message.Message):
    __slots__ = ("path", "inode", "export_id")
    PATH_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    inode: int
    export_id: bytes
    def __init__(self, path: _Optional[bytes] = ..., inode: _Optional[int] = ..., export_id: _Optional[bytes] = ...) -> None: ...

class Listing(_message.Message):
    __slots__ = ("path", "entries", "last", "failure", "inode")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    last: bool
    failure: Failure
    inode: int
    def __init__(self, path: _Optional[bytes] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., last: _Optional[bool] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., inode: _Optional[int] = ...) -> None: ...

class Extent(_message.Message):
    __slots__ = ("offset", "length")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    offset: int
    length: int
    def __init__(self, offset: _Optional[int] = ..., length: _Optional[int] = ...) -> None: ...

class Offer(_message.Message):
    __slots__ = ("offset", "length", "digest")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    offset: int
    length: int
    digest: bytes
    def __init__(self, offset: _Optional[int] = ..., length: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class FileRanges(_message.Message):
    __slots__ = ("path", "version", "extents", "offers")
    PATH_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EXTENTS_FIELD_NUMBER: _ClassVar[int]
    OFFERS_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    version: Version
    extents: _containers.RepeatedCompositeFieldContainer[Extent]
    offers: _containers.RepeatedCompositeFieldContainer[Offer]
    def __init__(self, path: _Optional[bytes] = ..., version: _Optional[_Union[Version, _Mapping]] = ..., extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., offers: _Optional[_Iterable[_Union[Offer, _Mapping]]] = ...) -> None: ...

class FetchRequest(_message.Message):
    __slots__ = ("id", "files", "packed")
    ID_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    id: int
    files: _containers.RepeatedCompositeFieldContainer[FileRanges]
    packed: bool
    def __init__(self, id: _Optional[int] = ..., files: _Optional[_Iterable[_Union[FileRanges, _Mapping]]] = ..., packed: _Optional[bool] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("file", "offset", "length", "hole", "xxh3", "offer", "packed")
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    HOLE_FIELD_NUMBER: _ClassVar[int]
    XXH3_FIELD_NUMBER: _ClassVar[int]
    OFFER_FIELD_NUMBER: _ClassVar[int]
    PACKED_FIELD_NUMBER: _ClassVar[int]
    file: int
    offset: int
    length: int
    hole: bool
    xxh3: int
    offer: int
    packed: int
    def __init__(self, file: _Optional[int] = ..., offset: _Optional[int] = ..., length: _Optional[int] = ..., hole: _Optional[bool] = ..., xxh3: _Optional[int] = ..., offer: _Optional[int] = ..., packed: _Optional[int] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("file", "reason", "detail")
    FILE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    file: int
    reason: Reason
    detail: str
    def __init__(self, file: _Optional[int] = ..., reason: _Optional[_Union[Reason, str]] = ..., detail: _Optional[str] = ...) -> None: ...

class FetchReply(_message.Message):
    __slots__ = ("data", "id", "pieces", "failures", "last")
    DATA_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    PIECES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    id: int
    pieces: _containers.RepeatedCompositeFieldContainer[Piece]
    failures: _containers.RepeatedCompositeFieldContainer[Failure]
    last: bool
    def __init__(self, data: _Optional[bytes] = ..., id: _Optional[int] = ..., pieces: _Optional[_Iterable[_Union[Piece, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[Failure, _Mapping]]] = ..., last: _Optional[bool] = ...) -> None: ...

class DigestRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    def __init__(self, path: _Optional[bytes] = ...) -> None: ...

class DigestReply(_message.Message):
    __slots__ = ("path", "entry", "content", "failure")
    PATH_FIELD_NUMBER: _ClassVar[int]
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    entry: Entry
    content: bytes
    failure: Failure
    def __init__(self, path: _Optional[bytes] = ..., entry: _Optional[_Union[Entry, _Mapping]] = ..., content: _Optional[bytes] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class StatRequest(_message.Message):
    __slots__ = ("paths",)
    PATHS_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, paths: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Stated(_message.Message):
    __slots__ = ("entry", "failure")
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    entry: Entry
    failure: Failure
    def __init__(self, entry: _Optional[_Union[Entry, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class StatReply(_message.Message):
    __slots__ = ("stated",)
    STATED_FIELD_NUMBER: _ClassVar[int]
    stated: _containers.RepeatedCompositeFieldContainer[Stated]
    def __init__(self, stated: _Optional[_Iterable[_Union[Stated, _Mapping]]] = ...) -> None: ...

class WorkingSetRequest(_message.Message):
    __slots__ = ("path", "export_id", "still")
    PATH_FIELD_NUMBER: _ClassVar[int]
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    STILL_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    export_id: bytes
    still: bool
    def __init__(self, path: _Optional[bytes] = ..., export_id: _Optional[bytes] = ..., still: _Optional[bool] = ...) -> None: ...

class WorkingSetReply(_message.Message):
    __slots__ = ("files", "cached")
    FILES_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    files: _containers.RepeatedCompositeFieldContainer[FileRanges]
    cached: bool
    def __init__(self, files: _Optional[_Iterable[_Union[FileRanges, _Mapping]]] = ..., cached: _Optional[bool] = ...) -> None: ...

class ChangesRequest(_message.Message):
    __slots__ = ("mark", "export_id")
    MARK_FIELD_NUMBER: _ClassVar[int]
    EXPORT_ID_FIELD_NUMBER: _ClassVar[int]
    mark: bytes
    export_id: bytes
    def __init__(self, mark: _Optional[bytes] = ..., export_id: _Optional[bytes] = ...) -> None: ...

class Touched(_message.Message):
    __slots__ = ("path", "names")
    PATH_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    path: bytes
    names: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, path: _Optional[bytes] = ..., names: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ChangesReply(_message.Message):
    __slots__ = ("mark", "touched", "inodes", "unknown", "last")
    MARK_FIELD_NUMBER: _ClassVar[int]
    TOUCHED_FIELD_NUMBER: _ClassVar[int]
    INODES_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    mark: bytes
    touched: _containers.RepeatedCompositeFieldContainer[Touched]
    inodes: _containers.RepeatedScalarFieldContainer[int]
    unknown: str
    last: bool
    def __init__(self, mark: _Optional[bytes] = ..., touched: _Optional[_Iterable[_Union[Touched, _Mapping]]] = ..., inodes: _Optional[_Iterable[int]] = ..., unknown: _Optional[str] = ..., last: _Optional[bool] = ...) -> None: ...

class ReleaseRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReleaseReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
