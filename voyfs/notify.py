"""What the supervisor says to a service manager, and what that keeps for it (sd_notify(3), sd_listen_fds(3)).

A manager with a descriptor store (systemd) keeps the FUSE descriptor while no supervisor runs: the mount and whoever
uses it wait, and the next supervisor goes on with it. Without a manager all of this does nothing.
"""

import os
import socket
from collections.abc import Mapping

# The descriptor's name in the store.
NAME = "voyfs"

_FIRST = 3  # SD_LISTEN_FDS_START


class Manager:
    """The service manager that started this process, if one did; `environment` is what it left there."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket = environment.get("NOTIFY_SOCKET", "")
        self._environment = environment

    def kept(self) -> int | None:
        """The descriptor that the store kept from an earlier supervisor."""
        environment = self._environment
        if environment.get("LISTEN_PID") != str(os.getpid()):
            return None
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        for number in range(int(environment.get("LISTEN_FDS", "0"))):
            os.set_inheritable(_FIRST + number, False)
        return _FIRST + names.index(NAME) if NAME in names else None

    def keep(self, descriptor: int) -> None:
        """Has it kept from now on, whatever becomes of this process, until the mount is gone."""
        self._say(f"FDSTORE=1\nFDNAME={NAME}", descriptor)

    def ready(self) -> None:
        self._say("READY=1")

    def forget(self) -> None:
        """What is kept is of no use any more."""
        self._say(f"STOPPING=1\nFDSTOREREMOVE=1\nFDNAME={NAME}")

    def _say(self, text: str, *descriptors: int) -> None:
        if not self._socket:
            return
        address = "\0" + self._socket[1:] if self._socket.startswith("@") else self._socket
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            try:
                manager.connect(address)
                socket.send_fds(manager, [text.encode()], descriptors)
            except OSError:
                pass  # a manager that is gone is no reason to end a mount
