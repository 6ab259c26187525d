"""CRIU's door: who would touch tasks waits at it, who only asks does not; an agent that is gone keeps nobody."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.core.errors import RuntimeFailed
from migrator.door import Door

DUMP, CHECK, PRE_DUMP, VERSION = (bytes([8, kind, 0x12, 0]) for kind in (1, 3, 4, 10))  # of images/rpc.proto
AGENT = """
import subprocess, sys
from pathlib import Path
from migrator.door import Door
door = Door(Path(sys.argv[1]))
with subprocess.Popen(["criu", "dump"], env=door.environment) as process:
    door.wait(process, 30)
    print("waits", flush=True)
"""


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """Before a CRIU that only says what it is called with, and whether a broken pipe would end it."""
    place = tmp_path / "real"
    place.mkdir()
    (place / "criu").write_text(
        f'#!/bin/sh\necho "$@" >{tmp_path}/called\ngrep SigIgn /proc/$$/status >{tmp_path}/ignored\n'
    )
    (place / "criu").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    directory = tmp_path / "door"
    directory.mkdir()
    made = Door(directory)
    yield made
    made.close()


def call(door: Door, request: bytes) -> subprocess.Popen[bytes]:
    """As runtimes do: a socket, and the request in it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.send(request)
        words = ["criu", "swrk", str(theirs.fileno())]
        return subprocess.Popen(words, env={**os.environ, **door.environment}, pass_fds=[theirs.fileno()])


@pytest.mark.parametrize("request_", [CHECK, VERSION])
def test_questions_pass(door: Door, tmp_path: Path, request_: bytes) -> None:
    with call(door, request_) as process:
        assert not door.wait(process, 30), "nobody waits"
        assert process.wait() == 0
    assert (tmp_path / "called").read_text().startswith("swrk ")
    mask = int((tmp_path / "ignored").read_text().split()[1], 16)
    assert not mask >> (signal.SIGPIPE - 1) & 1


@pytest.mark.parametrize("request_", [DUMP, PRE_DUMP, b"\x10\x03", b"\x08"])
def test_all_else_waits_until_it_is_open(door: Door, tmp_path: Path, request_: bytes) -> None:
    with call(door, request_) as process:
        assert door.wait(process, 30)
        assert not (tmp_path / "called").exists()
        door.open()
        assert process.wait(30) == 0
    assert (tmp_path / "called").read_text().startswith("swrk ")
    with call(door, DUMP) as process:
        assert process.wait(30) == 0, "open for whoever comes later"


def test_words_of_a_command_line_count_as_well(door: Door, tmp_path: Path) -> None:
    environment = {**os.environ, **door.environment}
    subprocess.run(["criu", "--version"], env=environment, check=True)
    with subprocess.Popen(["criu", "dump", "-t", "1"], env=environment) as process:
        assert door.wait(process, 30)
        assert (tmp_path / "called").read_text() == "--version\n"
        door.open()
    assert (tmp_path / "called").read_text() == "dump -t 1\n"


def test_who_does_not_come_is_not_waited_for_without_end(door: Door) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        with pytest.raises(RuntimeFailed):
            door.wait(process, 0.01)
        process.kill()


def test_an_agent_that_is_killed_leaves_nobody_waiting(door: Door, tmp_path: Path) -> None:
    """The one that waits ends, and CRIU is not called."""
    place = tmp_path / "other"
    place.mkdir()
    words = [sys.executable, "-c", AGENT, str(place)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        assert agent.stderr is not None
        assert agent.stdout.readline() == b"waits\n"
        agent.kill()
        assert b"closed" in agent.stderr.read(), "the end of all that had it"
    assert not (tmp_path / "called").exists()
    environment = {**os.environ, "PATH": f"{place}/programs:{os.environ['PATH']}"}
    late = subprocess.run(["criu", "dump"], env=environment, capture_output=True, check=False)
    assert late.returncode == 1
    assert not (tmp_path / "called").exists()
