"""Shows migrations to people: live while they run, and the timeline at the end.

It must not know where the events come from.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from migrator.core.timeline import human_bytes, milliseconds, rows

PHASES: Final = ("prepare", "freeze", "dump", "restore", "commit", "hydrate", "detach")


class Screen:
    """One migration: a line a phase, rewritten on a terminal, else printed as each phase ends."""

    def __init__(self, console: Console) -> None:
        """Use as a context manager around the events."""
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._states: dict[str, str] = {}
        self._note = ""

    def __enter__(self) -> Screen:
        """Take the terminal."""
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        """Leave the lines as they are last."""
        if self._live is not None:
            self._live.__exit__(*exception)
            self._console.print(self._table())

    def show(self, event: Mapping[str, Any]) -> None:
        """Take one event in."""
        line = self._line(event)
        if self._live is not None:
            self._live.update(self._table(), refresh=True)
        elif line:
            self._console.print(line, soft_wrap=True)

    def _line(self, event: Mapping[str, Any]) -> str:
        match event["event"]:
            case "started":
                return f"migration {event['migration']}: {event['container']} to {event['target']}"
            case "phase" if event["state"] == "begin":
                self._states[event["phase"]] = "..."
                return ""
            case "phase":
                moved = f", {human_bytes(event['bytes'])}" if event["bytes"] else ""
                self._states[event["phase"]] = f"{milliseconds(event['seconds'])}{moved}"
                return f"{event['phase']}: {self._states[event['phase']]}"
            case "progress":
                self._states[event["phase"]] = _progress(event)
                return ""
            case "opened":
                down = event["downtime_s"]
                self._note = "runs on the target" + (f"; it stood still for {milliseconds(down)}" if down else "")
            case "waiting":
                self._note = f"waiting: {event['why']}"
            case "note":
                self._note = event["text"]
            case "failed":
                self._note = f"failed in {event['phase']}; going back"
            case _:
                return ""
        return self._note

    def _table(self) -> Table:
        table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
        for phase in (*PHASES, *(name for name in self._states if name not in PHASES)):
            table.add_row(phase, self._states.get(phase, ""))
        table.add_row("", self._note)
        return table


def _progress(event: Mapping[str, Any]) -> str:
    """How far a phase is, how fast, and how long it takes yet."""
    present, total = event["bytes_present"], event["bytes_total"]
    eta = f", {event['eta']:.0f} s left" if event.get("eta") is not None else ""
    share = f"{100 * present // total}% " if total else ""
    return f"{share}({human_bytes(present)} of {human_bytes(total)}), {human_bytes(event['rate'])}/s{eta}"


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def print_result(console: Console, result: Mapping[str, Any]) -> None:
    """The end of a successful migration."""
    timeline = result["timeline"]
    table = Table(box=None)
    for title, side in (("phase", "left"), ("start", "right"), ("duration", "right"), ("bytes", "right")):
        table.add_column(title, justify="right" if side == "right" else "left")
    for row in rows(timeline):
        table.add_row(*row)
    console.print(table)
    down = timeline["downtime_s"]
    if down is not None:
        console.print(f"downtime: {milliseconds(down)} (from the pause to the open network)")
    if (gap := timeline.get("gap_s")) is not None:
        console.print(f"client's gap: {milliseconds(gap)} (from the pause to the first data the container sent again)")
    if seeded := result.get("seed_bytes"):
        console.print(f"from seeds: {human_bytes(seeded)} of the disk were on the target already, and did not cross")
    if result.get("kept_until"):
        until = _clock(result["kept_until"])
        undo = f"until then 'migrator rollback {result['migration']}' brings the container back"
        console.print(f"the source keeps its copy until {until}; {undo}", soft_wrap=True, highlight=False)
    if result.get("prediction") is not None:
        print_prediction(console, result["prediction"])


STATES: Final = {"ok": "green", "warning": "yellow", "fails": "bold red"}


def print_survey(console: Console, survey: Mapping[str, Any]) -> None:
    """One row a check, with what to do where it failed; then what the migration would cost."""
    table = Table(box=None)
    for title in ("check", "host", "result", "found"):
        table.add_column(title, overflow="fold")
    for row in survey["checks"]:
        said = row["problem"] or row["found"]
        if row["problem"] and row["remedy"]:
            said = f"{said}\n-> {row['remedy']}"
        state = row["state"]
        table.add_row(Text(row["check"]), row["host"], Text(state, style=STATES[state]), Text(said))
    console.print(table)
    if (found := survey["prediction"]) is not None:
        console.print(f"memory: {survey['memory']}", highlight=False)
        print_prediction(console, found)


def print_prediction(console: Console, found: Mapping[str, Any]) -> None:
    """What was predicted, from what; and what came of it, once that is known."""
    dirty = f", at most {human_bytes(found['dirty_rate'])}/s of it changing" if found["dirty_rate"] is not None else ""
    tmpfs = f", {human_bytes(found['tmpfs_bytes'])} in tmpfs mounts" if found["tmpfs_bytes"] else ""
    rows = [
        (
            "downtime",
            "downtime_s",
            f"{human_bytes(found['memory_bytes'])} of memory{dirty}{tmpfs}, over {human_bytes(found['link_rate'])}/s",
        ),
        ("hydration", "hydration_s", f"{human_bytes(found['disk_bytes'])} in {found['disk_files']} files"),
    ]
    for name, key, why in rows:
        actual = found.get(f"actual_{key}")
        was = f", was {milliseconds(actual)}" if actual is not None else ""
        console.print(f"{name}: predicted {milliseconds(found[key])}{was} ({why})", soft_wrap=True, highlight=False)


def print_migrations(console: Console, migrations: Sequence[Mapping[str, Any]]) -> None:
    """A table of what is known of migrations."""
    table = Table(box=None)
    for title in ("migration", "container", "side", "peer", "phase", "error"):
        table.add_column(title)
    for each in migrations:
        error = (each.get("error") or {}).get("error", "")
        table.add_row(each["migration"], each["container"], each["side"], each["peer"], each["phase"], error)
    console.print(table)


def print_advice(console: Console, known: Mapping[str, Any]) -> None:
    """How far it is, what is missing on the target, and what can be done."""
    last = known.get("last_event", {})
    if last.get("event") == "progress":
        console.print(f"{last['phase']}: {_progress(last)}", soft_wrap=True, highlight=False)
    if known.get("missing_bytes"):
        console.print(f"{human_bytes(known['missing_bytes'])} of its disk exist on the source alone", soft_wrap=True)
    if known.get("kept_until") and known["phase"] not in ("done", "returned"):
        console.print(f"its copy is kept here until {_clock(known['kept_until'])}", soft_wrap=True, highlight=False)
    if known.get("advice"):
        console.print(known["advice"], soft_wrap=True, highlight=False)


def line_of_several(event: Mapping[str, Any]) -> str:
    """What one event is worth telling while several containers move; empty: nothing."""
    match event["event"]:
        case "drain" if not event["containers"]:
            return "no container runs on this host"
        case "drain":
            return f"to move, in this order: {', '.join(event['containers'])}"
        case "group":
            return f"to move together: {', '.join(event['containers'])}"
        case "started":
            return f"{event['container']}: to {event['target']} (migration {event['migration']})"
        case "opened":
            return f"{event['container']}: runs on the target"
        case "failed":
            return f"{event['container']}: failed in {event['phase']}; going back"
        case "container":
            return f"{event['container']}: {event['outcome']}"
        case _:
            return ""


def print_ends(console: Console, ends: Sequence[Mapping[str, Any]]) -> None:
    """What became of each of several: a row a container, with what to do where it has not moved."""
    table = Table(box=None)
    for title in ("container", "outcome", "target", "downtime", "why not"):
        table.add_column(title, overflow="fold")
    for end in ends:
        down = end["downtime_s"]
        why = end.get("error", "")
        if why and end["remedy"]:
            why = f"{why}\n-> {end['remedy']}"
        took = milliseconds(down) if down is not None else ""
        table.add_row(*map(Text, (end["container"], end["outcome"], end["target"], took, why)))
    if ends:
        console.print(table)


def print_containers(console: Console, containers: Sequence[Mapping[str, Any]]) -> None:
    """A table of this host's containers."""
    table = Table(box=None)
    for title in ("container", "status", "pid", "bundle"):
        table.add_column(title)
    for each in containers:
        table.add_row(*(str(each[key] or "") for key in ("id", "status", "pid", "bundle")))
    console.print(table)
