"""Command lines of the programs that do the work: OCI runtime, CRIU, voyfs.

Pure: values in, words out. It must not run anything, nor know where binaries lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class RuntimeCommand:
    """The OCI runtime to call, and the directory of its state where that is not its default."""

    program: str = "runc"
    root: PurePath | None = None
    connections: bool = True  # whether established TCP connections are dumped and restored

    def _words(self, *words: str) -> list[str]:
        return [self.program, *(["--root", str(self.root)] if self.root else []), *words]

    @property
    def _tcp(self) -> list[str]:
        return ["--tcp-established"] if self.connections else []

    def version(self) -> list[str]:
        """Print the version."""
        return [self.program, "--version"]

    def state(self, name: str) -> list[str]:
        """Print one container's state as JSON."""
        return self._words("state", name)

    def all_states(self) -> list[str]:
        """Print all containers' states as JSON."""
        return self._words("list", "--format", "json")

    def checkpoint_help(self) -> list[str]:
        """Print what a checkpoint can do."""
        return [self.program, "checkpoint", "--help"]

    def delete(self, name: str) -> list[str]:
        """Forget a container; its processes are killed. Only safe after what is mounted in its state was unmounted."""
        return self._words("delete", "--force", name)

    def checkpoint(self, name: str, images: PurePath, work: PurePath, parent: str = "") -> list[str]:
        """Write the images of a container, which stays as it is: paused. PARENT: images before, seen from IMAGES."""
        return self._words(
            "checkpoint", "--leave-running", *self._tcp, "--file-locks",
            *(["--parent-path", parent] if parent else []),
            "--image-path", str(images), "--work-path", str(work), name,
        )  # fmt: skip

    def pre_dump(self, name: str, images: PurePath, work: PurePath, parent: str = "") -> list[str]:
        """Write the memory of a running container, or what of it has changed since PARENT."""
        return self._words(
            "checkpoint", "--pre-dump", *(["--parent-path", parent] if parent else []),
            "--image-path", str(images), "--work-path", str(work), name,
        )  # fmt: skip

    def checkpoint_lazily(self, name: str, images: PurePath, work: PurePath, serve: str, ready: int) -> list[str]:
        """As `checkpoint`, but for the pages, which it then serves at SERVE (HOST:PORT), until all are over.

        It writes to the descriptor READY when the images are there and the pages can be fetched.
        """
        return self._words(
            "checkpoint", "--leave-running", *self._tcp, "--file-locks",
            "--lazy-pages", "--page-server", serve, "--status-fd", str(ready),
            "--image-path", str(images), "--work-path", str(work), name,
        )  # fmt: skip

    def restore(
        self, name: str, bundle: PurePath, images: PurePath, work: PurePath, pid_file: PurePath, *, lazily: bool = False
    ) -> list[str]:
        """Bring a container back from its images, detached; LAZILY, while its pages are still elsewhere."""
        return self._words(
            "restore", "--detach", *self._tcp, "--file-locks", *(["--lazy-pages"] if lazily else []),
            "--bundle", str(bundle), "--image-path", str(images), "--work-path", str(work),
            "--pid-file", str(pid_file), name,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tls:
    """Files of a host's certificate, its key, and the authority that signs both sides' certificates."""

    certificate: PurePath
    key: PurePath
    authority: PurePath

    def words(self) -> list[str]:
        """As options of voyfs."""
        return ["--cert", str(self.certificate), "--key", str(self.key), "--ca", str(self.authority)]


def lazy_pages(serve: str, images: PurePath, work: PurePath) -> list[str]:
    """CRIU's daemon that answers the page faults of a restored container from the page server at SERVE."""
    host, _, port = serve.rpartition(":")
    return [
        "criu", "lazy-pages", "--page-server", "--address", host.strip("[]"), "--port", port,
        "--images-dir", str(images), "--work-dir", str(work),
    ]  # fmt: skip


def criu_options(tls: Tls | None) -> str:
    """CRIU's configuration: it leaves the network alone, and encrypts the pages that it sends.

    Connections that nobody has accepted yet are left out instead of making it fail.

    Each side's certificate must bear the address that the other one calls it by, as for everything else between hosts.
    """
    lines = ["network-lock skip", "skip-in-flight"]
    if tls is not None:
        lines += ["tls", f"tls-cacert {tls.authority}", f"tls-cert {tls.certificate}", f"tls-key {tls.key}"]
    return "\n".join(lines) + "\n"


def voyfs_serve(program: list[str], root: PurePath, listen: str, tls: Tls | None) -> list[str]:
    """Export a tree until the target releases it."""
    return [*program, "serve", str(root), "--listen", listen, "--until-released", *(tls.words() if tls else [])]


def voyfs_mount(
    program: list[str],
    address: str,
    mountpoint: PurePath,
    store: PurePath,
    share: PurePath,
    tls: Tls | None,
    seeds: Sequence[str] = (),
) -> list[str]:
    """Mount an export that may still change; returns when the mount answers.

    SHARE: the file that it has in common with all mounts of this host.
    """
    return [
        *program, "mount", address, str(mountpoint), "--store", str(store), "--share", str(share), "--daemon", "--warm",
        *(word for seed in seeds for word in ("--seed", seed)),
        *(tls.words() if tls else []),
    ]  # fmt: skip


def voyfs_share(program: list[str], share: PurePath, rate: int) -> list[str]:
    """Limit what all mounts with that file bring together: bytes a second, 0 for no limit."""
    return [*program, "share", str(share), str(rate)]


def mount(kind: str, origin: str, options: str, mountpoint: PurePath) -> list[str]:
    """Mount a file system from its origin."""
    return ["mount", "-t", kind, *(["-o", options] if options else []), "--", origin, str(mountpoint)]
