"""The `voyfs` command: parses, calls the composition roots, turns errors into lines and statuses.

Nothing but this module reads the command line, and nothing but it prints for people.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from voyfs import control, mounts
from voyfs.core import errors
from voyfs.core.bandwidth import parse_rate
from voyfs.core.errors import VoyfsError
from voyfs.notify import Manager
from voyfs.supervisor import Settings, Supervisor
from voyfs.syscalls import boot_id

if TYPE_CHECKING:  # a mount is to answer at once: what only some commands need is loaded by them
    from rich.table import Table

# Distinct exit statuses; the nearest class counts. 2 is the command line's own.
STATUSES: list[tuple[type[VoyfsError], int]] = [
    (errors.SourceUnreachable, 3),
    (errors.SourceRefused, 4),
    (errors.SourceError, 5),
    (errors.StoreBusy, 6),
    (errors.StoreForeign, 7),
    (errors.StoreLayout, 8),
    (errors.StoreError, 9),
    (errors.MountError, 10),
    (errors.ExportError, 11),
    (errors.ListenError, 12),
    (errors.InsecureError, 13),
    (errors.NotComplete, 14),
    (errors.ControlError, 15),
    (errors.MetricsError, 17),
    (errors.SeedError, 18),
    (errors.TraceError, 19),
]
WORKING_SET_SECONDS = 3600  # to bring it, when a person asks for it
SYSTEM = 16  # a file or a system call failed, outside all of these
DIFFERENT = 1  # `verify` found differences, `fsck` problems

_EPILOG = (
    "Exit statuses: 0 done, 1 verify found differences or fsck problems, 2 usage, 3 source does not answer,"
    " 4 source refuses, 5 other trouble with the source, 6 store in use, 7 store of another export,"
    " 8 store layout, 9 store unusable, 10 mount point, 11 export path, 12 listen address,"
    " 13 TLS material, 14 not everything local yet, 15 no daemon answers, 16 another error of the system,"
    " 17 address for metrics, 18 seed, 19 trace."
)

app = typer.Typer(
    help="A file system that serves a remote tree at once and brings it over meanwhile.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
certs_app = typer.Typer(help="Makes a small CA and host certificates for mutual TLS.", no_args_is_help=True)
app.add_typer(certs_app, name="certs")

Mountpoint = Annotated[Path, typer.Argument(metavar="MOUNTPOINT", help="Where voyfs is mounted.")]
Json = Annotated[bool, typer.Option("--json", help="For machines: JSON on stdout.")]
Cert = Annotated[Path | None, typer.Option(help="PEM file with this host's certificate.")]
Key = Annotated[Path | None, typer.Option(help="PEM file with its private key.")]
Ca = Annotated[Path | None, typer.Option(help="PEM file with the CA that signed the peers' certificates.")]
ServerName = Annotated[str | None, typer.Option(help="Name in the server's certificate, if it is not HOST.")]


def status_of(error: VoyfsError) -> int:
    """The exit status for `error`."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


# -- serving and mounting -------------------------------------------------------------------


@app.command()
def serve(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The tree to export, read-only.")],
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Port 0: a free one.")] = "127.0.0.1:7400",
    cert: Cert = None,
    key: Key = None,
    ca: Ca = None,
    until_released: Annotated[bool, typer.Option(help="End when a client needs the source no more.")] = False,
) -> None:
    """Exports a directory tree; prints one line when it is ready."""
    from voyfs.serve import serve as run

    run(str(path), listen, tls=_tls_files(cert, key, ca), until_released=until_released)


@app.command()
def mount(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The source's server.")],
    mountpoint: Mountpoint,
    store: Annotated[Path, typer.Option(help="Directory for what is local; the same one continues.")],
    daemon: Annotated[bool, typer.Option("--daemon", help="Return when the mount answers.")] = False,
    warm: Annotated[bool, typer.Option(help="Bring nothing unasked: the source may still change.")] = False,
    on_source_loss: Annotated[
        str, typer.Option(metavar="wait|eio[:SECONDS]", help="Reads of absent data while the source is away.")
    ] = "wait",
    bandwidth: Annotated[
        str, typer.Option(metavar="RATE", help="Limit of the background, bytes a second (50M, 1G; 0: none).")
    ] = "0",
    seed: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR", help="A local tree: what it has in common with the source is not fetched. Repeatable."
        ),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write down what is read, in that order, from now on.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Bring first what such a file names (also with --warm).")
    ] = None,
    share: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Mounts with the same FILE share a budget (voyfs share), and what one waits for goes before the "
            "background of all.",
        ),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve figures for Prometheus there, on loopback.")
    ] = None,
    cert: Cert = None,
    key: Key = None,
    ca: Ca = None,
    server_name: ServerName = None,
) -> None:
    """Mounts a served tree, read-write; what is missing follows in the background."""
    _require_all(cert, key, ca)
    settings = Settings(
        address=address,
        mountpoint=os.path.abspath(mountpoint),
        store=os.path.abspath(store),
        warm=warm,
        loss_seconds=_loss_seconds(on_source_loss),
        cert=_absolute(cert),
        key=_absolute(key),
        ca=_absolute(ca),
        server_name=server_name,
        background=daemon,
        bandwidth=_rate(bandwidth, "--bandwidth"),
        metrics=metrics,
        seeds=tuple(dict.fromkeys(map(os.path.abspath, seed or ()))),
        record=_absolute(record),
        replay=_absolute(replay),
        share=_absolute(share),
    )
    figures = None
    if metrics is not None:
        from voyfs.metrics import bind

        figures = bind(metrics)
    ready = _go_to_background() if daemon else None

    announced = False

    def announce() -> None:
        nonlocal announced
        announced = True
        if ready is None:
            print(f"mounted {address} at {mountpoint}", flush=True)
        else:
            os.write(ready, b"{}\n")
            os.close(ready)

    try:
        Supervisor(settings, Manager(os.environ), figures).run(announce)
    except VoyfsError as error:
        if ready is not None and not announced:
            os.write(ready, json.dumps({"error": str(error), "kind": type(error).__name__}).encode())
            raise typer.Exit(status_of(error)) from None
        raise


def _go_to_background() -> int:
    """Goes on in a session of its own; the caller's process returns when that has mounted, or failed.

    Gives the descriptor on which the new process must say so. It is forked, before there is any
    thread: starting the interpreter anew would take a third of the time that mounting may take.
    """
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        _wait_ready(read, child)
    os.close(read)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):  # errors go where the caller's do until the mount answers
        os.dup2(null, stream)
    os.close(null)
    return write


def _wait_ready(read: int, child: int) -> NoReturn:
    """Ends the caller's process with what the new one says."""
    try:
        with os.fdopen(read, "rb") as ready:
            line = ready.read()
    except KeyboardInterrupt:
        os.kill(child, signal.SIGTERM)
        raise
    if not line:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        raise errors.MountError(f"mounting failed with status {status}; see the lines above")
    reply = json.loads(line)
    if "error" in reply:
        os.waitpid(child, 0)
        raise control.error_named(reply["kind"], reply["error"])
    raise typer.Exit


def _loss_seconds(text: str) -> float | None:
    policy, _, seconds = text.partition(":")
    try:
        if text == "wait":
            return None
        if policy == "eio" and (not seconds or float(seconds) >= 0):
            return float(seconds or 0)
    except ValueError:
        pass
    raise typer.BadParameter("is 'wait', 'eio' or 'eio:SECONDS'", param_hint="--on-source-loss")


def _rate(text: str, what: str) -> int:
    try:
        return parse_rate(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=what) from None


def _tls_files(cert: Path | None, key: Path | None, ca: Path | None) -> Any:
    from voyfs.rpc.tls import TlsFiles

    _require_all(cert, key, ca)
    return TlsFiles(cert, key, ca) if cert and key and ca else None


def _require_all(cert: Path | None, key: Path | None, ca: Path | None) -> None:
    if any((cert, key, ca)) and not all((cert, key, ca)):
        raise errors.InsecureError("TLS needs all of --cert, --key and --ca; give the missing ones")


def _absolute(path: Path | None) -> str | None:
    return None if path is None else os.path.abspath(path)


# -- asking a mount -------------------------------------------------------------------------


@app.command()
def status(
    mountpoint: Mountpoint,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it until interrupted.")] = False,
) -> None:
    """Shows how far hydration is and whether the source answers."""
    store = mounts.find(mountpoint).store
    if not watch:
        shown = control.ask(store, "status")["status"]
        if as_json:
            print(json.dumps(shown))
        else:
            from rich.console import Console

            Console().print(_table(shown))
        return
    import time

    if as_json:
        while True:
            print(json.dumps(control.ask(store, "status")["status"]), flush=True)
            time.sleep(1)
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        while True:
            live.update(_table(control.ask(store, "status")["status"]), refresh=True)
            time.sleep(0.5)


@app.command()
def hydrate(
    mountpoint: Mountpoint,
    wait: Annotated[bool, typer.Option("--wait", help="Return when everything is local.")] = False,
    as_json: Json = False,
) -> None:
    """Starts bringing everything over (a warm mount waits for this)."""
    store = mounts.find(mountpoint).store
    shown: dict[str, Any] = {}
    if as_json or not sys.stdout.isatty():
        paused = ""
        for reply in control.call(store, "hydrate", wait=wait):
            shown = reply["status"]
            if shown["paused"] != paused:
                paused = shown["paused"]
                print(f"paused: {paused}" if paused else "goes on", file=sys.stderr)
        if as_json:
            print(json.dumps(shown))
        return
    from rich.live import Live

    with Live(auto_refresh=False) as live:
        for reply in control.call(store, "hydrate", wait=wait):
            live.update(_table(reply["status"]), refresh=True)


@app.command()
def bandwidth(
    mountpoint: Mountpoint,
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Bytes a second: 50M, 1G; 0 for no limit.")],
) -> None:
    """Limits what the background brings a second; reads of what is missing are never held back."""
    bytes_a_second = _rate(rate, "RATE")
    control.ask(mounts.find(mountpoint).store, "bandwidth", rate=bytes_a_second)
    print(
        f"the background of {mountpoint} brings "
        + (f"at most {_size(bytes_a_second)}/s" if bytes_a_second else "all it can")
    )


@app.command()
def share(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Of mounts with --share FILE, now or later.")],
    rate: Annotated[str, typer.Argument(metavar="RATE", help="Bytes a second: 50M, 1G; 0 for no limit.")],
) -> None:
    """Limits what the backgrounds of all mounts that share FILE bring a second together."""
    from voyfs.sharing import Share

    bytes_a_second = _rate(rate, "RATE")
    Share(file).rate = bytes_a_second
    print(
        f"mounts that share {file} bring "
        + (f"at most {_size(bytes_a_second)}/s together" if bytes_a_second else "all they can")
    )


@app.command()
def prefetch(
    mountpoint: Mountpoint,
    paths: Annotated[list[str] | None, typer.Argument(metavar="[PATH...]", help="Files below the mount point.")] = None,
    names: Annotated[bool, typer.Option("--names", help="The names and attributes of the whole tree.")] = False,
    working_set: Annotated[bool, typer.Option("--working-set", help="What the source holds in its memory.")] = False,
) -> None:
    """Brings these files, all names, or what the source uses, ahead of everything else."""
    if not paths and not names and not working_set:
        raise typer.BadParameter("name files, or give --names or --working-set", param_hint="PATH")
    wanted = list(paths or ())
    seconds = WORKING_SET_SECONDS if working_set else 0.0
    walk = WORKING_SET_SECONDS if names else 0.0
    store = mounts.find(mountpoint).store
    reply = control.ask(store, "prefetch", paths=wanted, names=walk, working_set=seconds)
    if wanted:
        print(f"{reply['brought']} of {len(wanted)} files are local")
    if working_set:
        print(f"the source's working set is {_size(reply['status']['working_set_bytes'])}")


@app.command()
def refresh(
    mountpoint: Mountpoint,
    again: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH...]", help="Files of the source that are open for writing: look at them anyhow."),
    ] = None,
) -> None:
    """Corrects a warm mount after its source has come to rest."""
    reply = control.ask(mounts.find(mountpoint).store, "refresh", again=list(again or ()))
    print(f"{reply['changed']} entries had changed on the source, of {reply['looked_at']} that were looked at")
    if reply["listed"]:
        print(f"everything known here was looked at: {reply['listed']}")


@app.command()
def verify(mountpoint: Mountpoint, as_json: Json = False) -> None:
    """Compares digests of the whole tree with the source; status 1 if anything differs."""
    report = control.ask(mounts.find(mountpoint).store, "verify")["report"]
    if as_json:
        print(json.dumps(report))
    else:
        print(
            f"{report['equal']} entries ({report['equal_bytes']} bytes) equal to the source,"
            f" {report['written']} changed here, {report['gone']} removed or renamed here,"
            f" {report['created']} made here, {report['difference_count']} differences"
        )
        print(
            f"fetched {_size(report['fetched_bytes'])}, written here {_size(report['written_bytes'])},"
            f" from the store or a seed {_size(report['cached_bytes'])} (since this daemon began)"
        )
        for path, what in report["differences"]:
            print(f"{path}: {what}")
    if report["difference_count"]:
        raise typer.Exit(DIFFERENT)


@app.command()
def detach(mountpoint: Mountpoint) -> None:
    """Releases the source: everything is local, and the mount goes on without it."""
    control.ask(mounts.find(mountpoint).store, "detach")
    print(f"{mountpoint} needs its source no more")


@app.command()
def upgrade(mountpoint: Mountpoint) -> None:
    """Replaces the running daemon by the installed version; users of the mount notice nothing."""
    store = mounts.find(mountpoint).store
    old = control.ask(store, "status")["status"]["pid"]
    control.ask(store, "upgrade")
    shown = control.ask_successor(store, old)
    print(f"{mountpoint} is served by version {shown['version']} now")


@app.command()
def unmount(
    mountpoint: Mountpoint,
    lazy: Annotated[bool, typer.Option(help="Also when in use: it ends with its last user.")] = False,
) -> None:
    """Unmounts and waits until the daemon has written everything down. The store stays."""
    mounted = mounts.find(mountpoint)
    dead = mounts.is_dead(mountpoint)
    mounts.unmount(mountpoint, lazy=lazy or dead)
    if dead:
        print(f"cleaned away the dead mount at {mountpoint}")
    elif not lazy:
        mounts.wait_released(mounted.store)


@app.command()
def fsck(
    store: Annotated[Path, typer.Argument(metavar="STORE", help="A store that is not mounted.")],
    repair: Annotated[bool, typer.Option("--repair", help="Make absent what cannot be vouched for.")] = False,
    as_json: Json = False,
) -> None:
    """Checks a store: its records against its files; status 1 if problems are left."""
    from voyfs.fsck import check

    found = check(store.absolute(), boot_id(), repair=repair)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        left = found.problem_count - found.repaired_count
        print(f"{found.entries} entries: {left} problems, {found.repaired_count} repaired, {found.note_count} notes")
        for path, what in found.problems + found.notes:
            print(f"{path}: {what}")
    if found.problem_count > found.repaired_count:
        raise typer.Exit(DIFFERENT)


# -- certificates ---------------------------------------------------------------------------


@certs_app.command("ca")
def certs_ca(directory: Annotated[Path, typer.Argument(help="Where ca.pem and ca.key go.")]) -> None:
    """Makes a CA."""
    from voyfs.certs import make_ca

    make_ca(directory)


@certs_app.command("host")
def certs_host(
    directory: Annotated[Path, typer.Argument(help="Where the CA is, and NAME.pem and NAME.key go.")],
    names: Annotated[list[str], typer.Argument(help="Host names and addresses; the first names the files.")],
) -> None:
    """Makes a certificate for one host, for both serving and mounting."""
    from voyfs.certs import make_host

    make_host(directory, names)


# -- showing --------------------------------------------------------------------------------


def _table(shown: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(show_header=False, box=None)
    present, total = shown["bytes"]["present"], shown["bytes"]["total"]
    so_far = "" if shown["populated"] else " known so far"
    table.add_row("phase", shown["phase"])
    table.add_row("bytes", f"{_size(present)} of {_size(total)}{so_far}")
    table.add_row("files", f"{shown['files']['present']} of {shown['files']['total']}{so_far}")
    if shown["first_ranges"]:
        table.add_row("first", f"{shown['first_ranges']} ranges of a trace")
    if shown["seed_bytes"]:
        table.add_row("from seeds", f"{_size(shown['seed_bytes'])}, not fetched")
    if shown["spared_bytes"]:
        table.add_row("packed", f"{_size(shown['spared_bytes'])} did not cross the network")
    limit = f" of at most {_size(shown['bandwidth'])}/s" if shown["bandwidth"] else ""
    table.add_row("rate", f"{_size(shown['rate'])}/s{limit}")
    if shown["eta_s"] is not None:
        table.add_row("left", f"{shown['eta_s']:.0f} s")
    reachable = "reachable" if shown["source"]["reachable"] else "not reachable"
    table.add_row(
        "source", "needed no more" if shown["phase"] == "detached" else f"{shown['source']['address']} {reachable}"
    )
    if shown["paused"]:
        table.add_row("paused", shown["paused"])
    for problem in shown["problems"]:
        table.add_row(problem["event"], f"{problem['path']}: {problem['why']}")
    return table


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def main() -> None:
    """Entry point: every expected error is one line on stderr and a status of its own."""
    _exit_with(app)


def _exit_with(run: Callable[[], None]) -> None:
    try:
        run()
    except VoyfsError as error:
        print(f"voyfs: {error}", file=sys.stderr)
        sys.exit(status_of(error))
    except OSError as error:
        print(f"voyfs: {error}", file=sys.stderr)
        sys.exit(SYSTEM)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
