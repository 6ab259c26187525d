"""What an ordinary container has, all at once, moved for real: with each runtime."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import bundle
from benchmarks.lab.container import Container
from benchmarks.lab.hosts import Lab
from migrator.inspector import CAP_SYS_RESOURCE, has_capability
from tests.migrator.agents import STATE, Agent, agents_on, events, runtime_program, use_runtime

_HERE = Path(__file__).resolve().parent
SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 99}],
}
CAPABILITY = ["CAP_NET_BIND_SERVICE"]
MEMORY, PIDS = 256 << 20, 50


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """everything.c, for a root without libraries of this machine."""
    made = tmp_path_factory.mktemp("everything") / "everything"
    words = ["gcc", "-O1", "-static", "-pthread", "-o", str(made), str(_HERE / "everything.c")]
    subprocess.run(words, check=True, timeout=60)
    return made


# CRIU dumps other users' processes only with it; a check tells so where it is missing.
USER = 1000 if has_capability(CAP_SYS_RESOURCE) else 0


def configure(config: dict[str, Any]) -> None:
    process = config["process"]
    process["user"] = {"uid": USER, "gid": USER, "additionalGids": [5, 6]}
    process["env"] = ["PATH=/bin:/usr/bin", "GREETING=good day", f"EXPECTED_USER={USER}"]
    process["cwd"] = "/srv"
    process["noNewPrivileges"] = True
    process["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted", "ambient"), CAPABILITY)
    process["capabilities"]["inheritable"] = CAPABILITY
    config["hooks"] = {"poststop": [{"path": "/bin/true"}]}
    config["linux"]["seccomp"] = SECCOMP
    config["linux"]["resources"] = {"memory": {"limit": MEMORY}, "pids": {"limit": PIDS}}


@dataclass
class Subject:
    """The container, and where it is now."""

    container: Container
    agent: Agent

    def verify(self, root: Path) -> None:
        """Have the container look whether all is as it was; ROOT: its files, seen from here."""
        report = root / "srv/report"
        before = report.read_text().splitlines()
        self.agent.host.run([self.container.runtime, "kill", "all", "USR1"])
        script = f"until [ $(wc -l <{report}) -gt {len(before)} ]; do sleep 0.02; done"
        subprocess.run(["timeout", "30", "sh", "-c", script], check=True)
        assert report.read_text().splitlines()[len(before) :] == ["ok"]

    def limits(self) -> tuple[int, int]:
        """Memory and number of processes that its cgroups allow."""
        state = json.loads(self.agent.host.run([self.container.runtime, "state", "all"]).stdout)
        script = f"""
            value() {{
                group=$(sed -n "s/^[0-9]*:$1://p" /proc/{state["pid"]}/cgroup)
                if [ -n "$group" ]; then cat "/sys/fs/cgroup/$1$group/$2"
                else cat "/sys/fs/cgroup$(sed -n s/^0::/p /proc/{state["pid"]}/cgroup)/$3"; fi
            }}
            value memory memory.limit_in_bytes memory.max; value pids pids.max pids.max
            """
        memory, pids = self.agent.host.run(["sh"], input=script).stdout.split()
        return int(memory), int(pids)


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_all_of_it_moves(lab: Lab, program: Path, name: str) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    runtime = runtime_program(name)
    use_runtime(runtime, a, b)
    container = replace(bundle.make(a.host, "all", ["/everything"], data_mib=0), runtime=runtime)
    root = a.host.path_of(container.rootfs)
    (root / "everything").write_bytes(program.read_bytes())
    (root / "everything").chmod(0o755)
    (root / "srv/home").mkdir()
    for path in (root / "srv", root / "srv/home"):
        path.chmod(0o777)
    bundle.edit_config(container, configure)
    container.start()
    a.host.run(["sh", "-c", f"until grep -q ready {container.rootfs}/srv/report 2>/dev/null; do sleep 0.02; done"])
    subject = Subject(container, a)
    subject.verify(root)
    assert subject.limits() == (MEMORY, PIDS)

    done = a.migrate("all", b)
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    assert events(done)[-1]["result"]["outcome"] == "moved"
    a.host.kill()
    subject.agent = b
    moved = b.host.path_of(STATE / "containers/all/store/data")
    subject.verify(moved)
    subject.verify(moved)
    assert subject.limits() == (MEMORY, PIDS)
