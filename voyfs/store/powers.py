"""What this process may do to backing entries: root all, another user little.

An unprivileged store keeps what it can: everything in it belongs to the user who mounts, who can always read and
write it (a mode that forbids this would lock out the daemon itself), and there are no devices and no attributes but
`user.*`. The source's own values stay in the records.
"""

import os
import stat

# Of the owner, by type: what the daemon needs to do its work.
_OWNER_FILE, _OWNER_DIRECTORY = 0o600, 0o700

_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


class Powers:
    def __init__(self, *, privileged: bool) -> None:
        self.privileged = privileged

    @classmethod
    def own(cls) -> "Powers":
        """Those of this process."""
        return cls(privileged=os.geteuid() == 0)

    def mode(self, mode: int) -> int:
        """The mode, with its type as given, that an entry gets when `mode` is asked for."""
        if self.privileged or stat.S_ISLNK(mode):
            return mode
        return mode | (_OWNER_DIRECTORY if stat.S_ISDIR(mode) else _OWNER_FILE)

    def umask(self, umask: int) -> int:
        return umask if self.privileged else umask & ~0o700

    def keeps(self, xattr: bytes) -> bool:
        """Whether entries can have this extended attribute."""
        return self.privileged or xattr.startswith(b"user.")

    def makes(self, mode: int) -> bool:
        """Whether entries of this type can be made."""
        return self.privileged or stat.S_IFMT(mode) not in _DEVICES
