"""What the commands have in common: options that several take, and showing what the agent tells.

It must not know which commands there are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from migrator import local, show
from migrator.core import limits
from migrator.core.address import parse_address
from migrator.core.duration import parse_duration
from migrator.core.errors import CheckFailed, GroupGivenUp, MigratorError, Remaining, by_kind, describe
from migrator.core.hook import Mode
from migrator.core.memory import Memory
from migrator.core.volumes import CHOICES
from voyfs.core.bandwidth import parse_rate

Socket = Annotated[Path, typer.Option("--socket", help="The local agent's socket.")]
Json = Annotated[bool, typer.Option("--json", help="For machines: one JSON object a line, the result last.")]
Verify = Annotated[bool, typer.Option(help="Compare digests of the whole disk before leaving the source.")]
RemoveSource = Annotated[
    bool, typer.Option("--remove-source", help="Delete the container's root directory on this host at the end.")
]
MemoryMode = Annotated[
    Memory, typer.Option(help="When memory moves: during the freeze, before, after, or as predicted.")
]
Compress = Annotated[
    bool, typer.Option("--compress", help="Compress images (zstd): for links slower than some 100 MB/s.")
]
Volumes = Annotated[
    list[str] | None,
    typer.Option(
        "--volume",
        metavar=f"PATH={'|'.join(CHOICES)}",
        help="What becomes of the bind mount at PATH, if not what 'migrator check' shows. Repeatable.",
    ),
]

NetworkMode = Annotated[
    Mode,
    typer.Option(
        help="veth: the pair on a bridge moves, connections go on. none: nothing but lo there. host: the host's, here "
        "and there. hooks: programs of yours move it."
    ),
]


def require_address(target: str, hint: str = "TARGET") -> None:
    """Raises what typer shows, unless TARGET is one that an agent can be reached at."""
    try:
        parse_address(target)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def rate(text: str, hint: str) -> int:
    """Bytes a second; raises what typer shows."""
    try:
        return parse_rate(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def seed_choices(given: list[str] | None) -> list[str]:
    """The directories of --seed."""
    found = list(dict.fromkeys(given or []))
    if len(found) > limits.SEEDS:
        raise typer.BadParameter(f"{len(found)} are more than {limits.SEEDS}", param_hint="--seed")
    for seed in found:
        if not seed.startswith("/"):
            raise typer.BadParameter(f"'{seed}' is no absolute path", param_hint="--seed")
    return found


def duration(text: str, hint: str) -> float:
    """Seconds; raises what typer shows for what is no length of time."""
    try:
        return parse_duration(text, limits.WINDOW_SECONDS)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from None


def volume_choices(given: list[str] | None) -> dict[str, str]:
    """PATH=KIND of --volume, by path."""
    found = {}
    for text in given or []:
        path, _, kind = text.rpartition("=")
        if not path.startswith("/") or kind not in CHOICES:
            raise typer.BadParameter(f"'{text}' is no PATH={'|'.join(CHOICES)}", param_hint="--volume")
        found[path] = kind
    return found


def check(socket: Path, as_json: bool, container: str, target: str, options: Mapping[str, Any]) -> None:
    """Show what a migration would find; raises CheckFailed if it could not be made."""
    *_, reply = local.call(socket, "check", container=container, target=target, options=options)
    found = reply["survey"]
    if as_json:
        print_json(found)
    else:
        show.print_survey(Console(), found)
    failed = [row for row in found["checks"] if row["state"] == "fails"]
    if failed:
        raise CheckFailed(f"container {container} cannot be moved: {failed[0]['problem']}", remedy=failed[0]["remedy"])


def follow(socket: Path, as_json: bool, op: str, **arguments: Any) -> None:
    """Show a migration to its end; raises its error."""
    end: Mapping[str, Any] = {}
    migration = ""
    console = Console()
    try:
        if as_json:
            for event in (reply["event"] for reply in local.call(socket, op, **arguments) if "event" in reply):
                migration, end = event["migration"], event
                print_json(event)
        else:
            with show.Screen(console) as screen:
                for event in (reply["event"] for reply in local.call(socket, op, **arguments) if "event" in reply):
                    migration, end = event["migration"], event
                    screen.show(event)
    except KeyboardInterrupt:
        if migration:
            print(f"\nmigrator: the migration goes on; see 'migrator status {migration}'", file=sys.stderr)
        sys.exit(130)
    except MigratorError as error:
        if as_json:
            print_json({"event": "error", **describe(error)})
        raise
    if end.get("event") == "error":
        raise by_kind(end["kind"], end["error"], remedy=end["remedy"], log=end["log"])
    if not as_json:
        show.print_result(console, end["result"])


def drain(socket: Path, as_json: bool, **arguments: Any) -> None:
    """Show a drain to its end; raises Remaining if anything has not moved."""
    stopped = "containers on their way go on, see 'migrator list'; the others stay: run this again"
    ends = _follow_several(socket, as_json, "drain", stopped, **arguments)
    if left := [end["container"] for end in ends if end["outcome"] != "moved"]:
        raise Remaining(
            f"{len(left)} of {len(ends)} containers have not moved as asked: {', '.join(left)}",
            remedy="do what the report says of each, and run this again",
        )


def move_together(socket: Path, as_json: bool, **arguments: Any) -> None:
    """Show the migrations of a group to their end; raises the error of the one that failed, if one did."""
    ends = _follow_several(socket, as_json, "migrate", "the migrations go on; see 'migrator list'", **arguments)
    failed = [end for end in ends if end["outcome"] != "moved"]
    for end in sorted(failed, key=lambda end: bool(end["kind"] == GroupGivenUp.__name__)):  # the cause first
        raise by_kind(end["kind"], f"{end['container']}: {end['error']}", remedy=end["remedy"], log=end["log"])


def _follow_several(
    socket: Path, as_json: bool, op: str, stopped: str, **arguments: Any
) -> Sequence[Mapping[str, Any]]:
    """Show the migrations of several containers; the ends of all. STOPPED is said if the command is interrupted."""
    event: Mapping[str, Any] = {}
    console = Console()
    try:
        for event in (reply["event"] for reply in local.call(socket, op, **arguments) if "event" in reply):
            if as_json:
                print_json(event)
            elif line := show.line_of_several(event):
                console.print(line, soft_wrap=True, highlight=False, markup=False)
    except KeyboardInterrupt:
        print(f"\nmigrator: {stopped}", file=sys.stderr)
        sys.exit(130)
    except MigratorError as error:
        if as_json:
            print_json({"event": "error", **describe(error)})
        raise
    ends: Sequence[Mapping[str, Any]] = event["containers"]  # the last one has them
    if not as_json:
        show.print_ends(console, ends)
    return ends


def print_json(value: Any) -> None:
    """One line, at once."""
    print(json.dumps(value), flush=True)
