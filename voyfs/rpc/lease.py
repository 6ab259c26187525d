"""Whether a file is open for writing anywhere, asked of the kernel by a lease that is given back at once."""

import ctypes
import fcntl
import signal

# Holding the interpreter lock: between the two calls nobody can open the file for writing, and no other thread of ours
# is to make that longer than some microseconds.
_fcntl = ctypes.PyDLL(None).fcntl
_fcntl.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int)


def is_still(fd: int) -> bool:
    """Whether nobody can write into the file of `fd`, which is open for reading only.

    That is, has it open for writing, or mapped so. False where it cannot be told. Who opens it for writing at this very
    moment waits for us; with O_NONBLOCK it gets EWOULDBLOCK.
    """
    _fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # who waits for a lease has a signal sent; this one does nothing
    if _fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK) != 0:
        return False
    return bool(_fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK) == 0)
