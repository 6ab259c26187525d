"""The memory that calls are read into: a kill while one is copied there must not fail its caller."""

import subprocess
import sys

PROGRAM = """
import ctypes, mmap
from voyfs.handshake import MAX_WRITE
from voyfs.takeover import keep_buffers_resident
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
size = MAX_WRITE + mmap.PAGESIZE  # of libfuse's buffer
missing = 0
with open("/proc/self/pagemap", "rb") as pages:
    for _ in range(9):  # the tasks that read at the same time while no call waits
        buffer = libc.malloc(size)
        for page in range(buffer // mmap.PAGESIZE, (buffer + size) // mmap.PAGESIZE):
            pages.seek(8 * page)
            missing += not pages.read(8)[7] & 0x80  # bit 63: present
print(missing)
"""


def _missing(before: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(before=before)], check=True, capture_output=True, text=True, timeout=60
    )
    return int(done.stdout)


def test_buffers_are_resident_before_they_are_read_into() -> None:
    assert _missing("") > 0, "else this test could not fail"
    assert _missing("keep_buffers_resident()") == 0
