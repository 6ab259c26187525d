"""Command lines of the programs that do the work: OCI runtime, CRIU, voyfs.

Pure: values in, words out. It must not run anything, nor know where binaries lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath


@dataclass(frozen=True, slots=True)
class RuntimeCommand:
    """The OCI runtime to call, and the directory of its state where that is not its default."""

    program: str = "runc"
    root: PurePath | None = None

    def _words(self, *words: str) -> list[str]:
        return [self.program, *(["--root", str(self.root)] if self.root else []), *words]

    def version(self) -> list[str]:
        """Print the version."""
        return [self.program, "--version"]

    def state(self, name: str) -> list[str]:
        """Print one container's state as JSON."""
        return self._words("state", name)

    def all_states(self) -> list[str]:
        """Print all containers' states as JSON."""
        return self._words("list", "--format", "json")

    def delete(self, name: str) -> list[str]:
        """Forget a container; its processes are killed. Only safe after what is mounted in its state was unmounted."""
        return self._words("delete", "--force", name)

    def checkpoint(self, name: str, images: PurePath, work: PurePath) -> list[str]:
        """Write the images of a container, which stays as it is: paused."""
        return self._words(
            "checkpoint", "--leave-running", "--tcp-established", "--file-locks",
            "--image-path", str(images), "--work-path", str(work), name,
        )  # fmt: skip

    def restore(self, name: str, bundle: PurePath, images: PurePath, work: PurePath, pid_file: PurePath) -> list[str]:
        """Bring a container back from its images, detached."""
        return self._words(
            "restore", "--detach", "--tcp-established", "--file-locks", "--bundle", str(bundle),
            "--image-path", str(images), "--work-path", str(work), "--pid-file", str(pid_file), name,
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


def voyfs_serve(program: list[str], root: PurePath, listen: str, tls: Tls | None) -> list[str]:
    """Export a tree until the target releases it."""
    return [*program, "serve", str(root), "--listen", listen, "--until-released", *(tls.words() if tls else [])]


def voyfs_mount(program: list[str], address: str, mountpoint: PurePath, store: PurePath, tls: Tls | None) -> list[str]:
    """Mount an export that may still change; returns when the mount answers."""
    return [
        *program, "mount", address, str(mountpoint), "--store", str(store), "--daemon", "--warm",
        *(tls.words() if tls else []),
    ]  # fmt: skip


def mount(kind: str, origin: str, options: str, mountpoint: PurePath) -> list[str]:
    """Mount a file system from its origin."""
    return ["mount", "-t", kind, *(["-o", options] if options else []), "--", origin, str(mountpoint)]
