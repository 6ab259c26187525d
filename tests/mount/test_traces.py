"""What a start read is recorded, and brought first for the next one: on real mounts, with a real program."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import MakePair
from tests.mount.test_bad_input import clean, refused
from tests.mount.test_seed import large, total
from tests.support.programs import SECONDS, exported, mounted, run, served, until
from voyfs import traces
from voyfs.core.errors import TraceError
from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK, MIB, TRACE_BYTES, TRACE_RANGES
from voyfs.traces import Recorder, read_trace

HEADER = '{"voyfs-trace": 1}\n'


def program(source: Path) -> None:
    """A root with a shell and what it runs, and much that it never reads."""
    for name in ("bash", "sort", "sha256sum"):
        binary = shutil.which(name)
        assert binary is not None
        linked = subprocess.run(["ldd", binary], capture_output=True, text=True, check=True).stdout.split()
        for path in {binary, *(word for word in linked if word.startswith("/"))}:
            where = source / path.lstrip("/")
            where.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, where)
            where.chmod(0o755)
    (source / "data").write_text("\n".join(str(number * 7919 % 100_000) for number in range(100_000)))
    for number in range(8):
        (source / f"unused{number}").write_bytes(os.urandom(MIB))


def start(root: Path) -> str:
    """What the program says. It reads the data's beginning and its end."""
    shell = shutil.which("bash")
    command = ["chroot", str(root), str(shell), "-c", "sort -n /data | sha256sum"]
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_recorded_start_speeds_up_the_next(tmp_path: Path) -> None:
    program(tmp_path / "source")
    trace = tmp_path / "trace"
    expected = start(tmp_path / "source")
    with served(tmp_path / "source") as server:
        where = (server.address, tmp_path / "mount")
        with mounted(*where, tmp_path / "first", "--warm", "--record", trace) as made:
            assert start(made.path) == expected
            cold = made.status()
            made.unmount()
        assert cold["demand_fetches"] >= 5
        ranges = read_trace(str(trace))
        assert {path for path, _ in ranges if path.startswith(b"unused")} == set()
        assert (b"data", 0) in {(path, extent.start) for path, extent in ranges}
        with mounted(*where, tmp_path / "second", "--warm", "--replay", trace) as made:
            until(lambda: not made.status()["first_ranges"])
            before = made.status()
            assert before["bytes"]["present"] == sum(extent.length for _, extent in ranges)
            assert before["demand_bytes"] == 0
            assert start(made.path) == expected
            after = made.status()
            assert after["demand_fetches"] == before["demand_fetches"] == 0
            assert after["bytes"]["present"] == before["bytes"]["present"]
            made.unmount()


def test_what_a_trace_names_is_brought_before_all_else(tmp_path: Path) -> None:
    large(tmp_path / "source")
    trace = tmp_path / "trace"
    wanted = [("d/f7", 0, CHUNK), ("d/f2", 3 * CHUNK, 4 * CHUNK), ("d/f7", 5 * CHUNK, 6 * CHUNK)]
    trace.write_text(HEADER + "".join(json.dumps(line) + "\n" for line in wanted))
    # a byte a second: one job, then nothing for weeks
    with exported(tmp_path, "--replay", trace, "--bandwidth", "1") as made:
        until(lambda: made.mount.status()["bytes"]["present"])
        assert made.mount.status()["bytes"]["present"] == 3 * CHUNK
        made.mount.kill_daemon()  # the next one finds what is here
        made.mount.settled()
        for name, start, stop in wanted:
            file = os.open(made.path / name, os.O_RDONLY | os.O_DIRECT)
            try:
                data = os.pread(file, stop - start, start)
            finally:
                os.close(file)
            assert data == (made.source / name).read_bytes()[start:stop]
        assert made.mount.status()["demand_fetches"] == 0
        assert run("bandwidth", made.path, "0").returncode == 0
        assert made.mount.hydrate()["first_ranges"] == 0
        assert made.mount.ask("verify")["report"]["difference_count"] == 0


def test_what_a_trace_names_and_is_not_there_is_passed_over(tmp_path: Path) -> None:
    large(tmp_path / "source")
    (tmp_path / "source" / "link").symlink_to("d")
    trace = tmp_path / "trace"
    wanted = [
        ("gone", 0, 5),
        ("gone/deep/er", 0, 5),
        ("d", 0, 5),
        ("d/f0/below", 0, 5),
        ("link/f0", 0, 5),
        ("link", 0, 5),
        ("d/f1", 1 << 40, 1 << 63),
        ("d/f2", 0, 1 << 63),
        ("d/f2", 0, 1 << 63),
        ("d/f3", CHUNK - 1, CHUNK + 1),
    ]
    trace.write_text(HEADER + "".join(json.dumps(line) + "\n" for line in wanted))
    with exported(tmp_path, "--warm", "--replay", trace) as made:
        until(lambda: not made.mount.status()["first_ranges"])
        status = made.mount.status()
        assert status["bytes"]["present"] == MIB - 2 + 2 * CHUNK
        assert (status["demand_fetches"], status["problem_count"]) == (0, 0)
        assert made.mount.hydrate()["bytes"]["present"] == total(made.source)


def test_a_trace_goes_on_with_the_next_daemon_and_names_each_chunk_once(pair: MakePair, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    made = pair("--warm", "--record", trace, prepare=large)

    def read(number: int, offset: int, size: int) -> None:
        file = os.open(made.path / "d" / f"f{number}", os.O_RDONLY | os.O_DIRECT)  # no readahead, no page cache
        try:
            assert len(os.pread(file, size, offset)) == size
        finally:
            os.close(file)

    read(3, 2 * CHUNK + 512, 4096)
    read(1, CHUNK - 4096, 8192)
    expected = [(b"d/f3", Extent(2 * CHUNK, 3 * CHUNK)), (b"d/f1", Extent(0, 2 * CHUNK))]
    until(lambda: read_trace(str(trace)) == expected)
    made.mount.kill_daemon()
    made.mount.settled()
    with trace.open("ab") as file:
        file.write(b'["d/f3", 12')  # as of a daemon that was killed meanwhile
    assert read_trace(str(trace)) == expected
    made.mount.kill_daemon()
    made.mount.settled()
    made.mount.hydrate()
    read(3, 2 * CHUNK, 4096)
    read(3, 0, 4 * CHUNK)  # local by now, which does not matter
    (made.path / "own").write_bytes(b"of nobody's")
    assert (made.path / "own").read_bytes()
    made.mount.unmount()
    more = [(b"d/f3", Extent(0, 2 * CHUNK)), (b"d/f3", Extent(3 * CHUNK, 4 * CHUNK))]
    assert read_trace(str(trace)) == expected + more
    with mounted(made.server.address, made.path, made.mount.store, "--record", trace) as again:
        read(0, 0, 4096)
        again.unmount()
    assert read_trace(str(trace)) == [(b"d/f0", Extent(0, CHUNK))]  # of this mount


def test_a_trace_that_is_lost_ends_recording_and_nothing_else(pair: MakePair, tmp_path: Path) -> None:
    (tmp_path / "traces").mkdir()
    trace = tmp_path / "traces" / "trace"
    made = pair("--warm", "--record", trace, prepare=large)
    shutil.rmtree(tmp_path / "traces")
    made.mount.kill_daemon()
    made.mount.settled()
    assert (made.path / "d" / "f0").read_bytes() == (made.source / "d" / "f0").read_bytes()
    assert "recording ends" in made.mount.log.read_text()


def test_a_recorder_ends_when_its_trace_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "TRACE_RANGES", 5)
    path = str(tmp_path / "trace")
    recorder = Recorder(path, 10, anew=True)
    recorder.needed(b"a", Extent(5, 25), 22)
    recorder.needed(b"b", Extent(0, 1 << 62), 1 << 62)
    recorder.needed(b"c", Extent(0, 1), 1)
    recorder.close()
    assert read_trace(path) == [(b"a", Extent(0, 22))]
    monkeypatch.setattr(traces, "TRACE_RANGES", TRACE_RANGES)
    monkeypatch.setattr(traces, "TRACE_BYTES", os.path.getsize(path) + 2 * len('["d", 0, 1]\n') - 1)
    recorder = Recorder(path, 10, anew=False)
    for name in (b"d", b"e", b"f"):
        recorder.needed(name, Extent(0, 1), 1)
    recorder.close()
    assert read_trace(path) == [(b"a", Extent(0, 22)), (b"d", Extent(0, 1))]


def test_any_name_comes_back_as_it_was(tmp_path: Path) -> None:
    path = str(tmp_path / "trace")
    names = [b"\xff\n\"'\\", "\u2028é\ud7ff".encode(), b"a b/c\td", b"\xed\xb2\x80"]
    recorder = Recorder(path, CHUNK, anew=True)
    for name in names:
        recorder.needed(name, Extent(0, 1), 1)
        recorder.needed(name, Extent(0, 0), 0)
    recorder.close()
    assert read_trace(path) == [(name, Extent(0, 1)) for name in names]


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is none"),
    "other": (b"#!/bin/sh\n", "is none"),
    "version": (b'{"voyfs-trace": 2}\n', "another version"),
    "no line": (b'{"voyfs-trace": 1}', "another version"),
    "blank": (HEADER.encode() + b"\n", "line 2"),
    "up": (HEADER.encode() + b'["ok", 0, 1]\n["a/../b", 0, 1]\n', "line 3"),
    "root": (HEADER.encode() + b'["", 0, 1]\n', "line 2"),
    "absolute": (HEADER.encode() + b'["/etc/passwd", 0, 1]\n', "line 2"),
    "not normal": (HEADER.encode() + b'["a//b", 0, 1]\n', "line 2"),
    "dot": (HEADER.encode() + b'["./a", 0, 1]\n', "line 2"),
    "nul": (HEADER.encode() + b'["a\\u0000b", 0, 1]\n', "line 2"),
    "long name": (HEADER.encode() + b'["' + b"n" * 256 + b'", 0, 1]\n', "line 2"),
    "surrogate": (HEADER.encode() + b'["\\ud800", 0, 1]\n', "line 2"),
    "negative": (HEADER.encode() + b'["a", -1, 1]\n', "line 2"),
    "nothing": (HEADER.encode() + b'["a", 1, 1]\n', "line 2"),
    "huge": (HEADER.encode() + b'["a", 0, 9223372036854775809]\n', "line 2"),
    "digits": (HEADER.encode() + b'["a", 0, ' + b"9" * 5000 + b"]\n", "line 2"),
    "float": (HEADER.encode() + b'["a", 0, 1.5]\n', "line 2"),
    "bool": (HEADER.encode() + b'["a", false, true]\n', "line 2"),
    "number": (HEADER.encode() + b"[1, 0, 1]\n", "line 2"),
    "few": (HEADER.encode() + b'["a", 0]\n', "line 2"),
    "object": (HEADER.encode() + b'{"a": 0}\n', "line 2"),
    "deep": (HEADER.encode() + b"[" * 100_000 + b"\n", "line 2"),
    "binary": (HEADER.encode() + b"\xff\x00\n", "line 2"),
    "many": (HEADER.encode() + b'["a", 0, 1]\n' * (TRACE_RANGES + 1), f"more than {TRACE_RANGES}"),
    "large": (HEADER.encode() + b" " * TRACE_BYTES, "larger"),
}


@pytest.mark.parametrize(("content", "word"), BAD.values(), ids=BAD)
def test_a_damaged_or_hostile_trace_is_refused(tmp_path: Path, content: bytes, word: str) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(content)
    with pytest.raises(TraceError, match=word) as caught:
        read_trace(str(trace))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_what_cannot_be_replayed_or_recorded(tmp_path: Path) -> None:
    large(tmp_path / "source")
    point, store, trace = tmp_path / "mount", tmp_path / "store", tmp_path / "trace"
    point.mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / "bad").write_text(HEADER + '["../../etc/passwd", 0, 1]\n')
    trace.write_text(HEADER)
    with served(tmp_path / "source") as server:
        arguments = ("mount", server.address, point, "--store", store)
        for daemon in ((), ("--daemon",)):
            for options, word in (
                (("--replay", tmp_path / "missing"), "No such file"),
                (("--replay", tmp_path / "source"), "not a regular file"),
                (("--replay", tmp_path / "fifo"), "not a regular file"),
                (("--replay", tmp_path / "bad"), "line 2"),
                (("--record", tmp_path / "no" / "trace"), "can be made there"),
                (("--record", tmp_path / "source"), "Is a directory"),
                (("--record", tmp_path / "fifo"), "something else"),
                (("--record", tmp_path / "mine"), "something else"),
                (("--record", point / "trace"), "mount point"),
                (("--record", trace, "--replay", trace), "at once"),
            ):
                refused(19, str(options[1]), word, arguments=(*arguments, *options, *daemon))
                clean(store, point)
    assert (tmp_path / "mine").read_text() == "years of work"
    assert trace.read_text() == HEADER
