"""A tree with everything that a container's root holds, the same for the same seed."""

import os
import random
import socket
import stat
import struct
from pathlib import Path

# 2001-09-09, with nanoseconds that show a truncated one
LONG_AGO = 1_000_000_000_123_456_789

# cap_net_raw=ep, as ping has it (revision 2 of vfs_cap_data)
CAPABILITY = struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """A POSIX ACL as the kernel's xattrs hold it: (tag, permissions, id) each."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
NOBODY = 0xFFFFFFFF

ACCESS_ACL = acl((USER_OBJ, 6, NOBODY), (USER, 6, 1234), (GROUP_OBJ, 4, NOBODY), (MASK, 6, NOBODY), (OTHER, 0, NOBODY))
DEFAULT_ACL = acl((USER_OBJ, 7, NOBODY), (USER, 7, 1234), (GROUP_OBJ, 5, NOBODY), (MASK, 7, NOBODY), (OTHER, 0, NOBODY))

# Around the sizes of pages, chunks (128 KiB) and bulk jobs (2 MiB).
SIZES = (0, 1, 100, 4095, 4096, 4097, 131_071, 131_072, 131_073, 262_144, 300_001, 2_097_152, 5_000_000)


def make_tree(root: Path, seed: int = 0) -> None:
    """Makes the tree at `root`, which must not exist. Needs root."""
    choose = random.Random(seed)
    root.mkdir(mode=0o755)
    directories = [root]
    for name in ("etc", "bin", "var", "home", "tmp"):
        directories.append(root / name)
    directories += [root / "var" / "lib", root / "var" / "lib" / "deep"]
    for depth in range(12):
        directories.append(directories[-1] / f"d{depth}")
    for directory in directories[1:]:
        directory.mkdir()
    files = []
    for number, size in enumerate(SIZES):
        path = choose.choice(directories) / f"f{number}"
        path.write_bytes(choose.randbytes(size))
        files.append(path)
    for number in range(3):
        path = choose.choice(directories) / f"sparse{number}"
        with path.open("wb") as file:
            for _ in range(4):
                file.seek(choose.randrange(0, 3_000_000) & ~4095)
                file.write(choose.randbytes(choose.choice((10, 4096, 140_000))))
            file.truncate(choose.choice((3_200_000, 4_000_001)))
        files.append(path)
    for number in range(4):
        os.link(choose.choice(files), choose.choice(directories) / f"link{number}")
    (root / "bin" / "relative").symlink_to("../etc")
    (root / "bin" / "dangling").symlink_to("nowhere/at/all")
    (root / "etc" / "absolute").symlink_to("/etc/hostname")
    os.mkfifo(root / "tmp" / "fifo", 0o620)
    os.mknod(root / "tmp" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "tmp" / "disk", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(root / "tmp")  # its path is too long for an address
        try:
            listener.bind("socket")
        finally:
            os.chdir("/")
    for name in ("setuid", "capable"):
        (root / "bin" / name).write_bytes(choose.randbytes(200_000))
    os.chmod(root / "bin" / "setuid", 0o4755)
    os.setxattr(root / "bin" / "capable", "security.capability", CAPABILITY)
    for number, path in enumerate((*files[:6], directories[1])):
        os.setxattr(path, "user.text", b"value %d" % number)
        os.setxattr(path, "trusted.empty", b"")
    os.setxattr(files[6], "system.posix_acl_access", ACCESS_ACL)
    owned = directories[4]
    os.chown(owned, 1234, 1234)
    # made before the directory has its default ACL: nothing of it is inherited
    (owned / "plain").write_bytes(b"has no ACL")
    (owned / "inner").mkdir(mode=0o750)
    os.setxattr(owned, "system.posix_acl_default", DEFAULT_ACL)
    os.chmod(root / "tmp", 0o1777)
    os.chown(directories[3], 5, 6)
    os.chmod(directories[3], 0o2775)
    os.chown(files[3], 1234, 4321)
    os.chmod(files[4], 0o400)
    age(root)
    os.utime(files[1], ns=(-5_000_000_001, -1_500_000_001))
    os.utime(files[2], ns=(3_000_000_000_000_000_007, 5_000_000_000_000_000_009))


def age(root: Path) -> None:
    """Gives everything below `root` times of long ago, each its own."""
    everything = sorted(root.rglob("*"), key=lambda path: -len(path.parts))
    for number, path in enumerate([*everything, root]):
        os.utime(path, ns=(LONG_AGO + 7 * number, LONG_AGO + 1000 * number), follow_symlinks=False)
