"""The network's adapter on real hosts: what it reads is what it builds, the cut cuts, and held frames arrive."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Host, Lab
from migrator.core.identity import Address, Identity

ROOT = Path(__file__).resolve().parents[2]

EXAMINE = """
import json, subprocess, sys
from pathlib import Path
from migrator.core.argv import RuntimeCommand
from migrator.network import VethNetwork
from migrator.runc import OciRuntime
identity = VethNetwork().examine(OciRuntime(RuntimeCommand(), Path("/run")).inspect("box"))
print(json.dumps(identity.to_json()))
"""

# Builds the network of argv[1], listens in it, and does what it is told, a line each.
BUILD = """
import itertools, json, select, socket, sys
from migrator.core.identity import Identity
from migrator.netlink import Namespace
from migrator.network import VethNetwork

identity = Identity.from_json(json.loads(sys.argv[1]))
network = VethNetwork()
link = network.build(identity)
inside = Namespace(identity.namespace)
listener = inside.call(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "")
listener.bind(("0.0.0.0", 9))
listener.settimeout(30)

def heard():
    return listener.recv(100).decode() if select.select([listener], [], [], 0)[0] else ""

for word in itertools.chain(["ready"], map(str.strip, sys.stdin)):
    match word:
        case "attract": link.attract()
        case "open": link.open()
        case "hear": print(listener.recv(100).decode(), flush=True); continue
        case "heard": print(heard(), flush=True); continue
        case "cut": network.source(identity).cut()
        case "mend": network.source(identity).mend()
        case "close": link.close()
        case "remove": inside.close(); listener.close(); network.remove(identity); network.remove(identity)
    print(word, flush=True)
"""


class Built:
    """The program above, on a host."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert self._answer() == "ready"

    def tell(self, word: str) -> str:
        assert self._process.stdin is not None
        print(word, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")


@contextmanager
def built(host: Host, identity: Identity) -> Iterator[Built]:
    process = host.popen(
        [sys.executable, "-c", BUILD, json.dumps(identity.to_json())],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield Built(process)
    finally:
        process.kill()
        process.communicate()


def send(host: Host, address: str, text: str) -> None:
    """One datagram, which nobody repeats."""
    script = "import socket, sys; socket.socket(2, 2).sendto(sys.argv[2].encode(), (sys.argv[1], 9))"
    host.run([sys.executable, "-c", script, address, text])


def state(host: Host, identity: Identity) -> list[str]:
    """The pair and its routes as `ip` shows them, without what must differ."""
    name = Path(identity.namespace).name
    shown = [
        json.loads(host.run(["ip", "-n", name, "-j", *query]).stdout)
        for query in (["addr", "show", identity.name], ["route"], ["link", "show", "lo"])
    ]
    for entry in shown[0]:
        for address in entry["addr_info"]:
            address.pop("tentative", None)  # as long as the kernel looks whether somebody has it as well
    kept = ("ifname", "mtu", "address", "addr_info", "dst", "gateway", "dev", "flags", "metric")
    return [
        json.dumps({key: entry[key] for key in kept if key in entry}, sort_keys=True)
        for entries in shown
        for entry in entries
    ]


def test_what_is_read_is_what_is_built_and_frames_in_between_are_held(lab: Lab) -> None:
    a, b, c = (lab.host(name) for name in "abc")
    container = bundle.make(a, "box", ["/bin/sleep", "1000000"], data_mib=0)
    a.run(
        [
            "ip",
            "-n",
            "box",
            "route",
            "add",
            "10.99.0.0/16",
            "via",
            "10.77.0.253",
            "dev",
            "eth0",
            "metric",
            "7",
            "onlink",
        ]
    )
    a.run(["ip", "-n", "box", "addr", "add", "10.78.0.1/32", "dev", "eth0"])
    container.start()
    done = a.run([sys.executable, "-c", EXAMINE], env={"PYTHONPATH": str(ROOT)})
    identity = Identity.from_json(json.loads(done.stdout))
    address = container.network.address
    assert (identity.mac, identity.port, identity.bridge) == (container.network.mac, container.network.port, "br0")
    c.ip(f"neigh add {address} lladdr {identity.mac} dev br0 nud permanent")
    before = state(a, identity)

    with built(b, identity) as target:
        send(c, address, "to the source")  # and not to what was only built
        container.network.cut(a)
        target.tell("attract")
        for text in ("held", "as well"):
            send(c, address, text)
        assert target.tell("heard") == ""
        target.tell("open")
        assert [target.tell("hear"), target.tell("hear")] == ["held", "as well"]
        send(c, address, "direct")
        assert target.tell("hear") == "direct"
        target.tell("close")
        assert b.run(["ip", "netns", "exec", "box", "nft", "list", "tables"]).stdout == ""
        assert state(b, identity) == before

        target.tell("cut")
        send(c, address, "lost")
        target.tell("mend")
        send(c, address, "after")
        assert target.tell("hear") == "after"

        target.tell("remove")
        left = b.run(["sh", "-c", "ls /run/netns; ip -br link"]).stdout
        assert "box" not in left
    container.delete()


def test_what_is_there_already_is_refused_and_stays(lab: Lab) -> None:
    host = lab.host("a")
    host.run(["ip", "netns", "add", "theirs"])
    host.ip("link add theirs type bridge")
    identity = Identity(
        "/run/netns/ours", "eth0", "02:00:00:00:00:01", 1500, (), (), "ours", "02:00:00:00:00:02", "br0"
    )
    build = """
import json, sys
from migrator.core.errors import NetworkFailed
from migrator.core.identity import Identity
from migrator.network import VethNetwork
try:
    VethNetwork().build(Identity.from_json(json.loads(sys.argv[1])))
except NetworkFailed as error:
    print(error)
"""
    for taken in (replace(identity, namespace="/run/netns/theirs"), replace(identity, port="theirs")):
        done = host.run([sys.executable, "-c", build, json.dumps(taken.to_json())], env={"PYTHONPATH": str(ROOT)})
        assert "exists" in done.stdout
        left = host.run(["sh", "-c", "ls /run/netns; ip -br link"]).stdout
        assert left.split().count("theirs") == 2
        assert "ours" not in left


def test_an_address_of_another_container_on_the_same_bridge_is_found(lab: Lab) -> None:
    host = lab.host("a")
    host.run(["ip", "link", "add", "br1", "type", "bridge"])
    for name, bridge, address in (("one", "br0", "10.9.0.1"), ("two", "br1", "10.9.0.2")):
        host.run(["ip", "netns", "add", name])
        words = f"link add v-{name} master {bridge} type veth peer name eth0 netns {name}"
        host.run(["ip", *words.split()])
        host.run(["ip", "-n", name, "addr", "add", f"{address}/24", "dev", "eth0"])
    addresses = tuple(Address(f"10.9.0.{number}", 24) for number in (1, 2, 3))
    identity = Identity(
        "/run/netns/x", "eth0", "02:00:00:00:00:01", 1500, addresses, (), "v-x", "02:00:00:00:00:02", "br0"
    )
    ask = """
import json, sys
from migrator.core.identity import Identity
from migrator.network import VethNetwork
print(json.dumps(VethNetwork().addresses_taken(Identity.from_json(json.loads(sys.argv[1])))))
"""
    done = host.run([sys.executable, "-c", ask, json.dumps(identity.to_json())], env={"PYTHONPATH": str(ROOT)})
    assert json.loads(done.stdout) == ["10.9.0.1"]


# Builds as many networks at once as argv[2] says, like that of argv[1].
BUILD_MANY = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from migrator.core.identity import Identity
from migrator.network import VethNetwork

one, network = Identity.from_json(json.loads(sys.argv[1])), VethNetwork()
many = [replace(one, namespace=f"/run/netns/box{n}", port=f"v-box{n}") for n in range(int(sys.argv[2]))]
with ThreadPoolExecutor(len(many)) as pool:
    links = list(pool.map(network.build, many))
for link, identity in zip(links, many):
    link.close()
    network.remove(identity)
"""


def test_networks_of_several_containers_are_built_at_once(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    box = bundle.loop(a, "box")
    box.start()
    done = a.run([sys.executable, "-c", EXAMINE], cwd=str(ROOT))
    for _ in range(3):
        b.run([sys.executable, "-c", BUILD_MANY, done.stdout, "8"], cwd=str(ROOT))
    assert "v-box" not in b.run(["ip", "-br", "link"]).stdout
