"""Everything that can go wrong, as voyfs names it.

No errno here: `voyfs.fuse` turns these into errno for programs, `voyfs.cli` into one line and
an exit status for people. Local system calls raise plain `OSError`, which already says it all.
"""


class VoyfsError(Exception):
    """Base of all errors of voyfs; its text is one line fit for a user."""


class SourceError(VoyfsError):
    """The source's data cannot be had."""


class SourceUnreachable(SourceError):
    """No answer from the source within the time that the mount's policy allows."""


class SourceRefused(SourceError):
    """The source, or the TLS layer, does not let us in; waiting would not help."""


class SourceChanged(SourceError):
    """What the store knows of a file or directory is no longer so on the source."""


class SourceCorrupt(SourceError):
    """Bytes arrived that do not match their digest, again and again."""


class SourceMalformed(SourceError):
    """The source sent something that no honest server sends."""


class SourceUnreadable(SourceError):
    """The source's own file system failed to give the data."""


class StoreError(VoyfsError):
    """The store cannot be used."""


class StoreBusy(StoreError):
    """Another daemon uses the store."""


class StoreForeign(StoreError):
    """The store belongs to another export."""


class StoreLayout(StoreError):
    """The store was written by a version whose layout this one does not read."""


class ExportError(VoyfsError):
    """The path to export is missing or not a directory."""


class ListenError(VoyfsError):
    """The address to listen on, or to connect to, is not an address or cannot be used."""


class SeedError(VoyfsError):
    """A seed is missing, is no directory, or is what it cannot be."""


class TraceError(VoyfsError):
    """A trace to replay is none, or one cannot be recorded there."""


class MetricsError(VoyfsError):
    """The address for metrics is none, is taken, or is not on loopback."""


class InsecureError(VoyfsError):
    """TLS material is needed off loopback, and is missing or unusable."""


class MountError(VoyfsError):
    """The mount point cannot be used, or nothing of voyfs is mounted there."""


class ControlError(VoyfsError):
    """The daemon behind a mount does not answer, or refused what was asked."""


class NotComplete(ControlError):
    """Detaching needs everything local, and something is still missing."""
