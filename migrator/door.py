"""Keeps CRIU from beginning: a runtime starts while its container runs, and waits at the door until all is at rest.

What a runtime does before CRIU's work begins (starting, reading its state, asking CRIU for its version) takes some
20 ms, which are none of the freeze's this way. What its PATH has first is made here, and called `criu` too: it lets
through whatever leaves tasks alone, and stops the rest until the door is open. It must not know of containers.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from migrator.core.errors import RuntimeFailed
from migrator.tools import first_of, named_pipe

_CALLER: Final = "waiting"  # pipes: who stands at the door says so in the first; the second can be read once it is open
_OPEN: Final = "open"
# A request begins with its type (images/rpc.proto of CRIU: field 1 of criu_req). These only ask: CHECK, FEATURE_CHECK
# and VERSION.
_TYPE: Final = 0x08
_QUESTIONS: Final = (3, 9, 10)


class Door:
    """The agent's end. Who waits at it when that closes, or the agent dies, gives up."""

    def __init__(self, directory: Path) -> None:
        """Its files go into DIRECTORY."""
        programs = directory / "programs"
        programs.mkdir()
        stand_in = programs / "criu"
        words = f"{sys.executable} -P -m {__name__} {directory} {shutil.which('criu') or 'criu'}"
        stand_in.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        stand_in.chmod(0o755)
        self.environment = {"PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}"}
        self._caller, self._open = (named_pipe(directory / name) for name in (_CALLER, _OPEN))

    def wait(self, process: subprocess.Popen[bytes], seconds: float) -> bool:
        """Whether somebody waits at it, before PROCESS, who is to, ends. Raises RuntimeFailed after SECONDS."""
        came = first_of(self._caller, process, seconds)
        if came is None:
            raise RuntimeFailed("the runtime does not come to CRIU")
        return came

    def open(self) -> None:
        """Who waits goes on, and whoever comes later does not wait."""
        os.write(self._open, b"\n")

    def close(self) -> None:
        """The end of it."""
        for descriptor in (self._caller, self._open):
            os.close(descriptor)


def only_asks(words: Sequence[str]) -> bool:
    """Whether CRIU, called with these WORDS, leaves tasks alone. What is not understood does not."""
    if words[:1] != ["swrk"]:
        return not {"--version", "check"}.isdisjoint(words)
    with socket.socket(fileno=os.dup(int(words[1]))) as requests:
        head = requests.recv(2, socket.MSG_PEEK)  # the caller sends it after it has started us
    return len(head) == 2 and head[0] == _TYPE and head[1] in _QUESTIONS


def main() -> None:
    """Arguments: the door's directory, CRIU, and what to call it with. Ends as CRIU, or with status 1."""
    directory, criu, words = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if not only_asks(words):
        try:
            opened = os.open(directory / _OPEN, os.O_RDONLY | os.O_NONBLOCK)
            caller = os.open(directory / _CALLER, os.O_WRONLY | os.O_NONBLOCK)  # after it: fails without an agent
            os.write(caller, b"\n")
        except OSError as error:
            sys.exit(f"nobody opens CRIU's door: {error.strerror}")
        poll = select.poll()
        poll.register(opened, select.POLLIN)
        if not poll.poll()[0][1] & select.POLLIN:
            sys.exit("CRIU's door was closed")
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):  # by this interpreter
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(criu, [criu, *words])


if __name__ == "__main__":
    main()
