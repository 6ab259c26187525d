"""What the background may take, and what a mount tells of itself: on real mounts."""

import ctypes
import os
import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.mount.conftest import MakePair
from tests.mount.test_bad_input import clean, refused
from tests.support.programs import mounted, run, served, until
from voyfs.core.limits import BULK_JOB_BYTES, MIB

FILES = 12  # of a MiB each: more than jobs under way hold


def large(source: Path) -> None:
    source.mkdir()
    for number in range(FILES):
        (source / f"f{number}").write_bytes(os.urandom(MIB))


def test_the_limit_holds_back_the_background_only_and_can_be_lifted(pair: MakePair) -> None:
    made = pair("--bandwidth", "1", prepare=large)  # a byte a second: one job, then nothing for weeks
    until(lambda: made.mount.status()["bytes"]["present"])
    assert made.mount.status()["bytes"]["present"] <= BULK_JOB_BYTES
    for number in range(FILES):
        name = f"f{number}"
        assert (made.path / name).read_bytes() == (made.source / name).read_bytes()
    status = made.mount.status()
    assert status["demand_bytes"] >= (FILES - 2) * MIB
    assert status["bandwidth"] == 1
    done = run("bandwidth", made.path, "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert made.mount.hydrate()["phase"] == "hydrated"


def test_a_lifted_limit_wakes_what_waits(pair: MakePair) -> None:
    made = pair("--bandwidth", "1", prepare=large)
    until(lambda: made.mount.status()["bytes"]["present"])
    assert run("bandwidth", made.path, "4G").returncode == 0
    assert made.mount.hydrate()["bytes"]["present"] == FILES * MIB
    assert made.mount.status()["demand_fetches"] == 0


def test_the_limit_set_while_mounted_outlives_the_daemon(pair: MakePair) -> None:
    made = pair("--warm", "--bandwidth", "1G", prepare=large)
    assert run("bandwidth", made.path, "3M").returncode == 0
    made.mount.kill_daemon()
    assert made.mount.settled()["bandwidth"] == 3 * MIB
    made.mount.unmount()  # and a new mount has its own
    with mounted(made.server.address, made.path, made.mount.store, "--warm") as mount:
        assert mount.status()["bandwidth"] == 0


def test_a_rate_that_is_none(tmp_path: Path) -> None:
    for arguments in (("bandwidth", tmp_path, "fast"), ("mount", "h:1", tmp_path, "--store", "s", "--bandwidth", "-")):
        done = run(*arguments)
        assert done.returncode == 2
        assert "50M" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_background_is_of_the_idle_class(pair: MakePair) -> None:
    made = pair("--bandwidth", "1", prepare=large)
    number = {"x86_64": 252, "aarch64": 31, "riscv64": 31}[os.uname().machine]  # ioprio_get
    bulk = made.mount.bulk()
    until(lambda: made.mount.status()["bytes"]["present"])
    assert ctypes.CDLL(None).syscall(number, 1, bulk) >> 13 == 3  # of a process; IOPRIO_CLASS_IDLE


def scrape(address: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = reply.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_metrics_tell_what_came_from_where_and_go_on_with_the_next_daemon(pair: MakePair) -> None:
    address = free_address()
    made = pair("--warm", "--metrics", address, prepare=large)
    assert (made.path / "f0").read_bytes() == (made.source / "f0").read_bytes()
    (made.path / "own").write_bytes(b"12345")
    figures = scrape(address)
    assert figures['voyfs_bytes_total{origin="demand"}'] == MIB
    assert figures['voyfs_bytes_total{origin="background"}'] == 0
    assert figures['voyfs_bytes_total{origin="write"}'] == 5
    assert figures["voyfs_demand_fetches_total"] >= 1
    misses = figures['voyfs_reads_total{result="miss"}']
    assert misses >= 1
    assert figures['voyfs_demand_wait_seconds_bucket{le="+Inf"}'] == misses
    assert figures["voyfs_demand_wait_seconds_sum"] > 0
    assert 0 <= figures["voyfs_hit_ratio"] < 1
    assert figures['voyfs_queue_depth{lane="demand"}'] == 0
    assert figures['voyfs_known_bytes{state="absent"}'] == (FILES - 1) * MIB
    made.mount.kill_daemon()
    assert scrape(address)['voyfs_known_bytes{state="absent"}'] == (FILES - 1) * MIB
    made.mount.hydrate()
    figures = scrape(address)
    assert figures['voyfs_bytes_total{origin="background"}'] == (FILES - 1) * MIB
    assert figures["voyfs_hydrated"] == 1
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://{address}/other", timeout=60)


def test_an_address_for_metrics_that_cannot_be_had(tmp_path: Path) -> None:
    large(tmp_path / "source")
    point, store = tmp_path / "mount", tmp_path / "store"
    point.mkdir()
    with served(tmp_path / "source") as server:
        arguments = ("mount", server.address, point, "--store", store, "--metrics")
        for address, word in (("nonsense", "HOST:PORT"), ("192.0.2.1:9100", "loopback"), (server.address, "in use")):
            for daemon in ((), ("--daemon",)):
                refused(17, "--metrics", word, arguments=(*arguments, address, *daemon))
                clean(store, point)
