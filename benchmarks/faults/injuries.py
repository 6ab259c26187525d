"""What can be broken on a host or between two, and how it is mended. None of it is cured by the harness but what an
operator's machines cure by themselves: a service that is started again, a link that comes back, space that is freed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks.faults.points import SOURCE, TARGET, Point
from benchmarks.lab.hosts import Host

if TYPE_CHECKING:
    from benchmarks.faults.scene import Scene

_TABLE: Final = "faults"
_BALLAST: Final = "ballast"


@dataclass(frozen=True, slots=True)
class Injury:
    """BREAK happens while the migration stands at a point; MEND when the migration has noticed, or has ended."""

    name: str
    what: str
    hurt: Callable[[Scene], None]
    mend: Callable[[Scene], None] = lambda scene: None
    applies: Callable[[Point], bool] = lambda point: True
    lasts: bool = False  # until it is mended; else it is over at once
    restarts: bool = False  # an agent, by what watches over services
    starves: bool = False  # the container itself finds its disk full, and says so to its clients


def kill(host: Host, pattern: str) -> None:
    """kill -9 of the host's processes whose command line has PATTERN (none is fine)."""
    host.run(["pkill", "-9", "-f", pattern], check=False)


def _cut(way: str) -> Callable[[Scene], None]:
    """Frames between the two hosts' own addresses are dropped; the container's clients see nothing of it."""

    def cut(scene: Scene) -> None:
        host, other = scene.source.host, scene.target.host
        chains = {
            "out": f"chain out {{ type filter hook output priority 0; ip daddr {other.address} drop; }}",
            "back": f"chain back {{ type filter hook input priority 0; ip saddr {other.address} drop; }}",
        }
        rules = "\n".join(text for name, text in chains.items() if way in (name, "both"))
        host.run(["nft", "-f", "-"], input=f"table inet {_TABLE} {{\n{rules}\n}}\n")

    return cut


def _mend_link(scene: Scene) -> None:
    for side in (scene.source, scene.target):
        side.host.run(["nft", "delete", "table", "inet", _TABLE], check=False)


def _fill(side: str) -> Callable[[Scene], None]:
    def fill(scene: Scene) -> None:
        for place in scene.disks(side):
            scene.side(side).host.run(["sh", "-c", f"cat /dev/zero >{place}/.{_BALLAST}"], check=False)

    return fill


def _free(side: str) -> Callable[[Scene], None]:
    def free(scene: Scene) -> None:
        for place in scene.disks(side):
            scene.side(side).host.run(["rm", "-f", f"{place}/.{_BALLAST}"])

    return free


def _kill(side: str, pattern: str) -> Callable[[Scene], None]:
    def hurt(scene: Scene) -> None:
        kill(scene.side(side).host, pattern)

    return hurt


def _kill_tool(pattern: str) -> Callable[[Scene], None]:
    def hurt(scene: Scene) -> None:
        kill(scene.stopped.host, pattern)

    return hurt


def _agents(*sides: str) -> Callable[[Scene], None]:
    def hurt(scene: Scene) -> None:
        for side in sides:
            scene.side(side).kill()

    return hurt


def _start_agents(scene: Scene) -> None:
    for side in (scene.source, scene.target):
        if not side.alive:
            side.start()


def _lose_an_image(scene: Scene) -> None:
    scene.target.host.run(["sh", "-c", "rm -f /run/migrator/restore-*/images/core-*.img"])


def _stand(point: Point) -> bool:
    """From here on there is a mount on the target."""
    return point.phase != "prepare" or point.name in ("bundle", "prefetch")


def _served(point: Point) -> bool:
    return point.name != "export"


INJURIES: Final = (
    Injury("source agent", "kill -9, started again", _agents(SOURCE), _start_agents, restarts=True),
    Injury("target agent", "kill -9, started again", _agents(TARGET), _start_agents, restarts=True),
    Injury("both agents", "kill -9 at once, started again", _agents(SOURCE, TARGET), _start_agents, restarts=True),
    Injury("link out", "nothing gets from source to target", _cut("out"), _mend_link, lasts=True),
    Injury("link back", "nothing gets from target to source", _cut("back"), _mend_link, lasts=True),
    Injury("link", "nothing gets through", _cut("both"), _mend_link, lasts=True),
    Injury("source full", "no space for its journal", _fill(SOURCE), _free(SOURCE), lasts=True),
    Injury(
        "target full", "no space for journal and containers", _fill(TARGET), _free(TARGET), lasts=True, starves=True
    ),
    Injury("voyfs server", "kill -9", _kill(SOURCE, "voyfs.cli [s]erve"), applies=_served),
    Injury("voyfs daemon", "kill -9", _kill(TARGET, "[v]oyfs.daemon"), applies=_stand),
    Injury("supervisor", "kill -9", _kill(TARGET, "voyfs.cli [m]ount"), applies=_stand),
    Injury("bulk process", "kill -9", _kill(TARGET, "[v]oyfs.bulk"), applies=_stand),
    Injury("runtime", "kill -9", _kill_tool("[r]unc.* (checkpoint|restore) "), applies=lambda point: point.tool),
    Injury("criu", "kill -9", _kill_tool("[c]riu swrk"), applies=lambda point: point.tool),
    Injury("restore", "fails: an image is lost", _lose_an_image, applies=lambda point: point.name == "restore"),
)
