"""The calls that a file system must not carry out twice."""

from enum import IntEnum


class Change(IntEnum):
    """Calls that must not be carried out twice."""

    CREATE = 1
    MKDIR = 2
    MKNOD = 3
    SYMLINK = 4
    LINK = 5
    UNLINK = 6
    RMDIR = 7
    RENAME = 8
    REMOVE_XATTR = 9  # of the node itself, as are the next
    CREATE_XATTR = 10
