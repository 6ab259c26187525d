"""Everything that can go wrong, as the migrator names it, with the exit status of each.

An error says in one line what failed and why; `remedy` says what to do about it, and `log` holds the last lines of the
tool that failed. It must not know how errors travel or are shown: agents send them by class name (`by_kind`), the
command line prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar


class MigratorError(Exception):
    """Base of all errors; on its own, one that nobody foresaw."""

    status: ClassVar[int] = 1
    meaning: ClassVar[str] = "unexpected failure"

    def __init__(self, message: str, *, remedy: str = "", log: Sequence[str] = ()) -> None:
        """One line, what to do, and what the failing tool said last."""
        super().__init__(" ".join(message.split()))
        self.remedy = " ".join(remedy.split())
        self.log = tuple(log)

    @property
    def message(self) -> str:
        """What failed, and why."""
        return str(self.args[0])

    @property
    def kind(self) -> str:
        """Name under which it travels."""
        return type(self).__name__


class AgentUnavailable(MigratorError):
    """The agent of this host does not answer its command line."""

    status, meaning = 10, "no agent runs on this host, or it does not answer"


class ContainerUnknown(MigratorError):
    """The runtime knows no such container."""

    status, meaning = 11, "unknown container"


class ContainerNotRunning(MigratorError):
    """The container exists, but there is nothing running to move."""

    status, meaning = 12, "the container is not running"


class Unsupported(MigratorError):
    """The container has something that cannot be moved (yet); said before anything is touched."""

    status, meaning = 13, "the container uses something that cannot be moved"


class PeerUnreachable(MigratorError):
    """No answer from the other agent."""

    status, meaning = 14, "the target's agent cannot be reached"


class PeerRefused(MigratorError):
    """The other agent, or TLS, does not accept us, or we do not accept it."""

    status, meaning = 15, "the target's agent does not accept us, or its certificate is not ours"


class NotReady(MigratorError):
    """A host lacks something that a migration needs: runtime, CRIU, voyfs, a bridge."""

    status, meaning = 16, "a host lacks something: CRIU (or it fails its check), runtime, voyfs, bridge"


class Taken(MigratorError):
    """The target already has a container, mount, namespace, interface or address of that name."""

    status, meaning = 17, "a name or address is already taken on the target"


class NoSpace(MigratorError):
    """Memory or disk do not hold what must come."""

    status, meaning = 18, "not enough space for images or metadata"


class MigrationUnknown(MigratorError):
    """No migration of that ID."""

    status, meaning = 19, "unknown migration"


class Busy(MigratorError):
    """The container is being migrated already."""

    status, meaning = 20, "the container is already being migrated"


class RuntimeFailed(MigratorError):
    """The OCI runtime or CRIU failed; `log` has CRIU's last lines."""

    status, meaning = 21, "the runtime or CRIU failed; the container runs on the source"


class DiskFailed(MigratorError):
    """voyfs failed: export, mount, refresh."""

    status, meaning = 22, "voyfs failed; the container runs on the source"


class NetworkFailed(MigratorError):
    """The container's network could not be read, cut, rebuilt or opened."""

    status, meaning = 23, "the container's network could not be moved; the container runs on the source"


class TransferFailed(MigratorError):
    """Images did not arrive as they were sent."""

    status, meaning = 24, "images did not arrive intact; the container runs on the source"


class Refused(MigratorError):
    """A request that does not fit the state of the migration (late, repeated, or out of order)."""

    status, meaning = 25, "a request came out of order"


class Insecure(MigratorError):
    """TLS material is needed off loopback, and is missing or unusable."""

    status, meaning = 26, "TLS material is missing or unusable"


class Unfinished(MigratorError):
    """The container runs on the target, but its disk still depends on the source."""

    status, meaning = 27, "the container runs on the target, but its disk still needs the source"


class Stranded(MigratorError):
    """Neither copy runs: the source's is paused and needs the operator; the remedy has the command."""

    status, meaning = 28, "no copy runs: going back failed, or the target lost it; the source's is intact, paused"


class Lost(MigratorError):
    """The target had restored the container, and has it no more: it lost power, or somebody destroyed it."""

    status, meaning = 29, "the restored copy is gone"


class Differs(DiskFailed):
    """The disk on the target is not what the source has: nothing that is tried again would change that."""

    status, meaning = 36, "the target's disk differs from the source's, which is kept"


class Aborted(MigratorError):
    """The operator gave it up in time; the container runs on the source."""

    status, meaning = 37, "aborted as asked; the container runs on the source"


class TooLate(MigratorError):
    """It was to be given up, but is committed, or taken back, but is over; the remedy says what is possible."""

    status, meaning = 38, "too late to abort, or to roll back: the container is the target's"


class CannotListen(MigratorError):
    """The agent cannot answer at the address or the socket that it was given."""

    status, meaning = 30, "the agent cannot listen: no address, in use, or not of this host"


class CheckFailed(MigratorError):
    """What `migrator check` found, all of it in its table."""

    status, meaning = 31, "a check of both ends failed; nothing was touched"


class Remaining(MigratorError):
    """A drain that could not move everything; its report says why, container by container."""

    status, meaning = 39, "not every container has moved; the others are reported one by one"


class GroupGivenUp(MigratorError):
    """Something else of the group that it was to move with failed, or was aborted."""

    status, meaning = 40, "another container of its group could not be moved; all of them run on the source"


class HookFailed(MigratorError):
    """A program of the operator's, run at a turn of the migration."""

    status, meaning = 34, "a hook failed; the container runs on the source"


def _classes(base: type[MigratorError]) -> list[type[MigratorError]]:
    return [base, *(found for child in base.__subclasses__() for found in _classes(child))]


_BY_KIND = {each.__name__: each for each in _classes(MigratorError)}
STATUS_TABLE: tuple[tuple[int, str], ...] = (
    (0, "success"),
    (2, "wrong usage"),
    *sorted((each.status, each.meaning) for each in _BY_KIND.values()),
)
assert len({status for status, _ in STATUS_TABLE}) == len(STATUS_TABLE), "exit statuses must be distinct"


def describe(error: BaseException) -> dict[str, Any]:
    """As JSON; what nobody foresaw becomes the base class."""
    if not isinstance(error, MigratorError):
        error = MigratorError(f"{type(error).__name__}: {error}")
    return {
        "error": error.message,
        "kind": error.kind,
        "remedy": error.remedy,
        "log": list(error.log),
        "status": error.status,
    }


def by_kind(kind: str, message: str, *, remedy: str = "", log: Sequence[str] = ()) -> MigratorError:
    """The error that was sent as KIND; an unknown kind (a newer peer's) gives the base class."""
    return _BY_KIND.get(kind, MigratorError)(message, remedy=remedy, log=log)
