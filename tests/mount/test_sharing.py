"""Mounts that share a file: one budget for all, and what anybody waits for goes before the background of all."""

import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes.source import FaultySource, MemorySource
from tests.mount.test_background import FILES, large
from tests.support.programs import Pair, bounded, exported, run, until
from voyfs.core.errors import StoreError
from voyfs.core.limits import BULK_JOB_BYTES, CHUNK, MIB
from voyfs.hydrator import GIVE_WAY_SECONDS, Hydrator
from voyfs.pacing import Pacer
from voyfs.sharing import Share
from voyfs.store.store import Store
from voyfs.store.tree import ROOT
from voyfs.vfs import Vfs


@contextmanager
def shares(path: Path, count: int, clock: Callable[[], float] = lambda: 0.0) -> Iterator[list[Share]]:
    made = [Share(path, clock) for _ in range(count)]
    try:
        yield made
    finally:
        for share in made:
            share.close()


def test_each_hears_of_the_others_and_not_of_itself(tmp_path: Path) -> None:
    with shares(tmp_path / "f", 3) as (a, b, c):
        a.wait(True)
        assert [each.others_wait for each in (a, b, c)] == [False, True, True]
        b.wait(True)
        assert [each.others_wait for each in (a, b, c)] == [True, True, True]
        a.wait(False)
        a.wait(False)
        assert [each.others_wait for each in (a, b, c)] == [True, False, True]
        b.wait(False)
        assert not any(each.others_wait for each in (a, b, c))


def test_who_is_killed_while_somebody_waits_holds_up_nobody(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from voyfs.sharing import Share\n"
    code += "Share(Path(sys.argv[1])).wait(True); print(flush=True); sys.stdin.read()"
    with (
        shares(tmp_path / "f", 1) as (share,),
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "f")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other,
    ):
        assert other.stdout is not None
        other.stdout.readline()
        assert share.others_wait
        other.kill()
        other.wait()
        assert not share.others_wait


@given(st.integers(1, 1 << 40), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 1 << 22)), max_size=50))
def test_together_they_pass_no_more_than_the_rate_and_one_piece(
    tmp_path_factory: pytest.TempPathFactory, rate: int, pieces: list[tuple[int, int]]
) -> None:
    now, passed = 1000.0, 0
    with shares(tmp_path_factory.mktemp("share") / "f", 3, lambda: now) as those:
        those[0].rate = rate
        for number, size in pieces:
            now += those[number].delay()
            assert passed <= rate * (now - 1000) * (1 + 1e-6) + 1 + (1 << 22)
            those[number].spend(size)
            passed += size


def test_a_rate_that_another_sets_holds_at_once_and_holes_are_given_back(tmp_path: Path) -> None:
    with shares(tmp_path / "f", 2) as (a, b):
        assert a.delay() == 0
        b.rate = 10
        a.spend(100)
        assert b.delay() == 10
        a.spend(-50)
        assert b.delay() == 5
        a.rate = 0
        assert b.delay() == 0


def test_what_is_spent_while_another_has_the_budget_is_spent_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shares(tmp_path / "f", 2) as (a, b):
        a.rate = 10
        with monkeypatch.context() as patched:
            patched.setattr(a, "_lock", lambda *_: False)
            assert a.delay() > 0
            a.spend(100)
        assert b.delay() == 0
        assert a.delay() == 10
        assert b.delay() == 10


@pytest.mark.parametrize(
    "content", [b"", b"\xff" * 8, b"\0" * 7, struct.pack("<Qdd", 10, float("nan"), 0), struct.pack("<Qdd", 10, 5, 1e9)]
)
def test_a_file_that_makes_no_sense_or_is_of_another_boot_holds_nobody_up_for_ever(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "f").write_bytes(content)
    with shares(tmp_path / "f", 1, lambda: 100.0) as (share,):
        assert share.delay() <= 0.5


def test_a_file_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="none/f"):
        Share(tmp_path / "none/f")


# -- in one process, with time that passes at once ---------------------------------------------


def on_a_clock_of_its_own(test: Callable[[Path], object]) -> Callable[[Path], None]:
    def run_it(tmp_path: Path) -> None:
        trio.run(test, tmp_path, clock=trio.testing.MockClock(autojump_threshold=0.01))  # type: ignore[arg-type]

    return run_it


class Mounted:
    """A store and its source in memory, which has a file `f`."""

    def __init__(self, path: Path, share: Share) -> None:
        source = MemorySource()
        source.add_file(b"f", bytes(range(256)) * (CHUNK // 256))
        self.source = FaultySource(source)
        self.store = Store(path, "this boot", taking_over=False)
        self.hydrator = Hydrator(self.store, self.source, share=share)
        self.vfs = Vfs(self.store, self.hydrator)

    async def read(self) -> None:
        await self.vfs.read((await self.vfs.lookup(ROOT, b"f")).ino, 0, CHUNK)


async def gives_way(hydrator: Hydrator) -> float:
    """How long."""
    since = trio.current_time()
    await hydrator.give_way()
    return trio.current_time() - since


@on_a_clock_of_its_own
async def test_the_background_gives_way_to_another_mounts_reader(tmp_path: Path) -> None:
    with shares(tmp_path / "share", 2) as (one, other):
        a, b = Mounted(tmp_path / "a", one), Mounted(tmp_path / "b", other)
        assert await gives_way(b.hydrator) == 0
        await a.hydrator.attach()
        go_on = a.source.hold("fetch")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.read)
            await see(lambda: a.source.waiting["fetch"])
            assert await gives_way(b.hydrator) == pytest.approx(GIVE_WAY_SECONDS), "and not for ever"
            nursery.start_soon(_later, GIVE_WAY_SECONDS / 4, go_on)
            assert GIVE_WAY_SECONDS / 4 <= await gives_way(b.hydrator) < GIVE_WAY_SECONDS / 2, "as long as it waits"
        assert await gives_way(b.hydrator) == 0
        a.store.close()
        b.store.close()


async def see(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        await trio.sleep(0.001)
    raise AssertionError("it does not happen")


async def _later(seconds: float, event: trio.Event) -> None:
    await trio.sleep(seconds)
    event.set()


@on_a_clock_of_its_own
async def test_who_waits_for_a_source_that_is_away_holds_up_nobody(tmp_path: Path) -> None:
    with shares(tmp_path / "share", 2) as (one, other):
        a, b = Mounted(tmp_path / "a", one), Mounted(tmp_path / "b", other)
        await a.hydrator.attach()
        go_on = a.source.hold("fetch")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.hydrator.keep_telling)
            nursery.start_soon(a.read)
            await see(lambda: a.source.waiting["fetch"])
            assert other.others_wait
            a.source.cut()
            await see(lambda: not other.others_wait)
            assert await gives_way(b.hydrator) == 0
            a.source.mend()
            await see(lambda: other.others_wait)
            go_on.set()
            await see(lambda: not other.others_wait)
            nursery.cancel_scope.cancel()
        a.store.close()
        b.store.close()


@on_a_clock_of_its_own
async def test_who_waits_for_the_budget_hears_of_another_rate(tmp_path: Path) -> None:
    with shares(tmp_path / "share", 2, trio.current_time) as (one, other):
        other.rate = 1
        pacer = Pacer(0, one)
        await pacer.wait()
        pacer.spend(10**9)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pacer.wait)
            await trio.sleep(30)
            assert nursery.child_tasks, "a byte a second"
            other.rate = 1 << 40


# -- real mounts ------------------------------------------------------------------------------


@contextmanager
def pairs(base: Path, *options: str | Path) -> Iterator[list[Pair]]:
    with ExitStack() as stack:
        made = []
        for name in ("one", "two"):
            (base / name).mkdir()
            large(base / name / "source")
            made.append(stack.enter_context(exported(base / name, "--share", base / "share", *options)))
        yield made


def test_a_reader_is_seen_by_the_other_mount_as_long_as_it_waits(tmp_path: Path) -> None:
    with pairs(tmp_path, "--warm") as (one, _), shares(tmp_path / "share", 1) as (share,):
        assert os.listdir(one.path)
        assert not share.others_wait
        assert one.server.process is not None
        one.server.process.send_signal(signal.SIGSTOP)
        got: list[bytes] = []
        reader = threading.Thread(target=lambda: got.append((one.path / "f0").read_bytes()), daemon=True)
        reader.start()
        until(lambda: share.others_wait)
        one.server.process.send_signal(signal.SIGCONT)
        bounded(reader.join)
        until(lambda: not share.others_wait)
        assert got == [(one.source / "f0").read_bytes()]


def test_two_mounts_keep_to_one_budget_that_does_not_hold_back_readers(tmp_path: Path) -> None:
    done = run("share", tmp_path / "share", "1")  # a byte a second: one job, then nothing for weeks
    assert (done.returncode, done.stderr) == (0, "")
    with pairs(tmp_path, "--warm") as (one, two):
        one.mount.ask("hydrate")
        until(lambda: one.mount.status()["bytes"]["present"])
        two.mount.ask("hydrate")
        for number in range(FILES):
            assert (two.path / f"f{number}").read_bytes() == (two.source / f"f{number}").read_bytes()
        assert two.mount.status()["demand_bytes"] == FILES * MIB, "nothing of it by the background"
        assert one.mount.status()["bytes"]["present"] <= BULK_JOB_BYTES
        assert one.mount.status()["share"] == str(tmp_path / "share")
        assert run("share", tmp_path / "share", "0").returncode == 0
        assert one.mount.hydrate()["bytes"]["present"] == FILES * MIB


def test_the_budget_outlives_a_daemon(tmp_path: Path) -> None:
    assert run("share", tmp_path / "share", "1").returncode == 0
    with pairs(tmp_path, "--warm") as (one, two):
        one.mount.ask("hydrate")
        until(lambda: one.mount.status()["bytes"]["present"])
        two.mount.kill_daemon()
        two.mount.settled()
        two.mount.ask("hydrate")
        assert (two.path / "f0").read_bytes() == (two.source / "f0").read_bytes()
        assert two.mount.status()["fetched_bytes"] == two.mount.status()["demand_bytes"]


def test_what_cannot_be_shared(tmp_path: Path) -> None:
    for words in (("share", tmp_path / "s", "fast"), ("share", tmp_path / "s", "9" * 12 + "T")):
        done = run(*words)
        assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    done = run("share", tmp_path / "none/s", "1M")
    assert done.returncode not in (0, 1, 2)
    assert "none/s" in done.stderr
    (tmp_path / "source").mkdir()
    with pytest.raises(AssertionError), exported(tmp_path, "--share", tmp_path / "none/s"):
        pass
