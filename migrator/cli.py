"""The `migrator` command: parses, asks the agent, turns errors into lines and exit statuses.

Nothing but this module and `asking` reads the command line, and nothing but they and `show` writes for people.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from migrator import asking, local, show
from migrator.asking import (
    Compress,
    Json,
    MemoryMode,
    NetworkMode,
    RemoveSource,
    Socket,
    Verify,
    Volumes,
)
from migrator.core import limits, picture
from migrator.core.address import DEFAULT_PORT
from migrator.core.argv import RuntimeCommand, Tls
from migrator.core.draining import PRIORITY, First
from migrator.core.errors import STATUS_TABLE, Insecure, MigrationUnknown, MigratorError
from migrator.core.hook import Mode
from migrator.core.memory import Memory
from migrator.core.phases import Phase
from migrator.core.timeline import human_bytes

STATE = Path("/var/lib/migrator")
SOCKET = Path("/run/migrator/agent.sock")

app = typer.Typer(
    help="Moves a running OCI container to another host; its disk follows.",
    epilog="Exit statuses: " + "; ".join(f"{status} {meaning}" for status, meaning in STATUS_TABLE) + ".",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def agent(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where other agents reach this one.")] = (
        f"127.0.0.1:{DEFAULT_PORT}"
    ),
    state: Annotated[Path, typer.Option(help="Containers that came here, journals; on a real disk.")] = STATE,
    socket: Socket = SOCKET,
    cert: Annotated[Path | None, typer.Option(help="PEM file with this host's certificate.")] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file with its private key.")] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM file with the CA that signed all agents' certificates.")] = None,
    runtime: Annotated[str, typer.Option(help="The OCI runtime to use.")] = "runc",
    runtime_root: Annotated[Path | None, typer.Option(help="Directory of its state, if not its default.")] = None,
    hooks: Annotated[
        Path | None, typer.Option(help="Directory of programs to run at the turns of a migration; see OPERATIONS.md.")
    ] = None,
    voyfs: Annotated[str | None, typer.Option(help="The voyfs program, if not the one installed with this.")] = None,
    bandwidth: Annotated[
        str,
        typer.Option(
            metavar="RATE", help="What the disks of all containers that come here take a second (50M, 1G; 0: no limit)."
        ),
    ] = "0",
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Serve figures for Prometheus there, on loopback.")
    ] = "",
) -> None:
    """Runs on each host: drives migrations from it, and holds those to it."""
    from migrator.agent import Settings, run

    if any((cert, key, ca)) and not all((cert, key, ca)):
        raise Insecure("TLS needs all of --cert, --key and --ca", remedy="give the missing ones")
    material = Tls(cert.absolute(), key.absolute(), ca.absolute()) if cert and key and ca else None
    program = (voyfs,) if voyfs else (sys.executable, "-m", "voyfs.cli")
    command = RuntimeCommand(runtime, runtime_root.absolute() if runtime_root else None)
    places = (state.absolute(), socket.absolute())
    rate = asking.rate(bandwidth, "--bandwidth")
    run(Settings(listen, *places, material, command, program, metrics, hooks and hooks.absolute(), rate))


@app.command()
def bandwidth(
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Bytes a second: 50M, 1G; 0 for no limit.")],
    socket: Socket = SOCKET,
) -> None:
    """Limits what the disks of all containers that come to this host take together, until the agent starts again."""
    bytes_a_second = asking.rate(rate, "RATE")
    for _ in local.call(socket, "bandwidth", rate=bytes_a_second):
        pass
    limit = f"at most {human_bytes(bytes_a_second)}/s together" if bytes_a_second else "all they can"
    print(f"disks that come to this host take {limit}")


@app.command()
def migrate(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[CONTAINER] TARGET[:PORT]",
            help="Name (ID) of a running container of this host, unless --group names several; the agent of the host "
            "that it goes to.",
        ),
    ],
    group: Annotated[
        str,
        typer.Option(
            metavar="CONTAINER,CONTAINER...",
            help="Move these together: they are frozen at one instant, and all of them move or none.",
        ),
    ] = "",
    verify: Verify = True,
    remove_source: RemoveSource = False,
    volume: Volumes = None,
    network: NetworkMode = Mode.VETH,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only look, as 'migrator check' does.")] = False,
    memory: MemoryMode = Memory.AUTO,
    compress: Compress = False,
    seed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="A directory of the target: what the root has in common with it does not cross. Repeatable. What the "
            "container has left there before is one anyway.",
        ),
    ] = None,
    warm: Annotated[
        bool, typer.Option("--warm", help="Before the freeze, bring names and what is in use: for a minute at most.")
    ] = False,
    failback_window: Annotated[
        str,
        typer.Option(
            "--failback-window",
            metavar="SECONDS|DURATION",
            help="Keep the source's copy for so long after the commit (90, 15m, 12h, 2d), for 'migrator rollback'.",
        ),
    ] = "0",
    as_json: Json = False,
    socket: Socket = SOCKET,
) -> None:
    """Moves a container, or several together; goes on in the agent if this command is interrupted."""
    containers = group.split(",") if group else words[:1]
    if len(words) != (1 if group else 2):
        raise typer.BadParameter("are CONTAINER and TARGET, or TARGET with --group", param_hint="arguments")
    target = words[-1]
    asking.require_address(target)
    volumes = asking.volume_choices(volume)
    if dry_run:
        looked = {"volumes": volumes, "network": network, "memory": str(memory)}
        for container in containers:
            asking.check(socket, as_json, container, target, looked)
        return
    options = {
        "verify": verify,
        "remove_source": remove_source,
        "volumes": volumes,
        "network": network,
        "memory": str(memory),
        "compress": compress,
        "seeds": asking.seed_choices(seed),
        "warm": warm,
        "failback_window": asking.duration(failback_window, "--failback-window"),
    }
    if group:
        asking.move_together(socket, as_json, group=containers, target=target, options=options)
    else:
        asking.follow(socket, as_json, "migrate", container=containers[0], target=target, options=options)


@app.command()
def drain(
    to: Annotated[
        str, typer.Option("--to", metavar="TARGET[,TARGET...]", help="Agents of the hosts that take the containers.")
    ],
    parallel: Annotated[
        int, typer.Option(min=1, max=limits.DRAIN_PARALLEL, help="How many move at once.")
    ] = limits.DRAIN_DEFAULT,
    order: Annotated[
        First,
        typer.Option(
            help=f"Who goes first: urgent, those of the highest annotation {PRIORITY} (0 without it); smallest, those "
            "of the least memory."
        ),
    ] = First.URGENT,
    verify: Verify = True,
    remove_source: RemoveSource = False,
    network: NetworkMode = Mode.VETH,
    memory: MemoryMode = Memory.AUTO,
    compress: Compress = False,
    as_json: Json = False,
    socket: Socket = SOCKET,
) -> None:
    """Empties this host: every running container moves to one of the targets. May be run again at any time.

    Goes on after a failure. Interrupted, it begins no further container; those on their way go on in the agent.
    """
    targets = to.split(",")
    for target in targets:
        asking.require_address(target, "--to")
    options = {
        "verify": verify,
        "remove_source": remove_source,
        "network": network,
        "memory": str(memory),
        "compress": compress,
    }
    asking.drain(socket, as_json, targets=targets, options=options, first=order, parallel=parallel)


@app.command()
def check(
    container: Annotated[str, typer.Argument(help="Name (ID) of a running container of this host.")],
    target: Annotated[str, typer.Argument(metavar="TARGET[:PORT]", help="The agent of the host it would go to.")],
    volume: Volumes = None,
    network: NetworkMode = Mode.VETH,
    as_json: Json = False,
    socket: Socket = SOCKET,
) -> None:
    """Says whether a container could be moved, and what it would cost; touches nothing."""
    asking.require_address(target)
    asking.check(socket, as_json, container, target, {"volumes": asking.volume_choices(volume), "network": network})


@app.command()
def abort(
    migration: Annotated[str, typer.Argument(metavar="ID", help="A migration from this host.")],
    as_json: Json = False,
    socket: Socket = SOCKET,
) -> None:
    """Gives a migration up, before its commit: the container goes on here at once. After it, says what is possible."""
    *_, reply = local.call(socket, "abort", migration=migration)
    if as_json:
        asking.print_json(reply["migration"])
    else:
        container, returned = reply["migration"]["container"], reply["migration"]["phase"] == Phase.RETURNED
        told = "was undone by a later one" if returned else "was given up"
        print(f"migration {migration} {told}: container {container} runs on this host")


@app.command()
def rollback(
    migration: Annotated[str, typer.Argument(metavar="ID", help="A migration from this host that is committed.")],
    as_json: Json = False,
    socket: Socket = SOCKET,
) -> None:
    """Brings a container back after its commit, with all that it did on the target, while this host has its copy."""
    asking.follow(socket, as_json, "rollback", migration=migration)


@app.command()
def status(
    migration: Annotated[str | None, typer.Argument(metavar="[ID]", help="One migration; all without it.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show ID, or the newest that is under way from this host, to its end.")
    ] = False,
    as_json: Json = False,
    socket: Socket = SOCKET,
) -> None:
    """Shows what is known of migrations from and to this host."""
    if watch:
        asking.follow(socket, as_json, "follow", migration=migration)
        return
    *_, reply = local.call(socket, "status", migration=migration)
    if as_json:
        asking.print_json(reply["migrations"][0] if migration else {k: reply[k] for k in ("agent", "migrations")})
        return
    console = Console()
    show.print_migrations(console, reply["migrations"])
    if migration:
        show.print_advice(console, reply["migrations"][0])
    if migration and (result := reply["migrations"][0].get("result")):
        show.print_result(console, result)


@app.command()
def timeline(
    migration: Annotated[str, typer.Argument(metavar="ID", help="A migration from this host that has ended.")],
    svg: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw it; - for stdout.")] = None,
    as_json: Json = False,
    socket: Socket = SOCKET,
) -> None:
    """Shows where a migration's time went: as text, for machines, or as a picture."""
    *_, reply = local.call(socket, "status", migration=migration)
    result = reply["migrations"][0].get("result")
    if result is None:
        raise MigrationUnknown(
            f"migration {migration} has no timeline: it was not from this host, or did not end well",
            remedy=f"see 'migrator status {migration}'",
        )
    if as_json:
        asking.print_json(result["timeline"])
    elif svg is None:
        show.print_result(Console(), result)
    elif str(svg) == "-":
        sys.stdout.write(picture.svg(result))
    else:
        try:
            svg.write_text(picture.svg(result))
        except OSError as error:
            raise typer.BadParameter(f"cannot write {svg}: {error.strerror}", param_hint="--svg") from None


@app.command("list")
def list_all(as_json: Json = False, socket: Socket = SOCKET) -> None:
    """Shows the containers of this host, and the migrations from and to it."""
    *_, reply = local.call(socket, "list")
    if as_json:
        asking.print_json({key: reply[key] for key in ("containers", "migrations")})
        return
    console = Console()
    show.print_containers(console, reply["containers"])
    show.print_migrations(console, reply["migrations"])


def main() -> None:
    """Entry point: every expected error is one line on stderr, after the log of the tool that failed."""
    try:
        app()
    except MigratorError as error:
        for line in error.log:
            print(f"  | {line}", file=sys.stderr)
        remedy = f" ({error.remedy})" if error.remedy else ""
        print(f"migrator: {error.message}{remedy}", file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
