"""Every constant that bounds something, with its reason; relations are asserted below."""

from __future__ import annotations

from typing import Final

MIB: Final = 1 << 20

# Piece of an image file in one message: gRPC streams reach their full rate from 1 MiB on.
IMAGE_PIECE_BYTES: Final = 1 * MIB

# Largest message either side accepts: a piece, or a config with its host files (a few of at most 1 MiB).
MESSAGE_BYTES: Final = 16 * MIB

# CRIU's images hold the resident memory plus some hundred KiB of state; the rest of both is slack.
IMAGE_OVERHEAD: Final = 1.1
IMAGE_SLACK_BYTES: Final = 16 * MIB

# voyfs' state and the placeholders of a tree before its data: some GiB of data have some 10,000 files of 4 KiB
# metadata each; below this a target's disk is as good as full.
STORE_BYTES: Final = 64 * MIB

# Fetched ahead of the freeze from each mapped or opened file. Binaries and libraries are below it; a database's table
# above it is only looked up, since restoring does not read it.
WARM_FILE_BYTES: Final = 64 * MIB

# For names, and for what the source uses, each; the rest comes after the commit. At 1 Gbit/s it is 3 GiB.
WARM_SECONDS: Final = 30.0

# Opened files whose ends are fetched while the dump is under way. Each takes a round trip or two, and a dump 80 ms;
# most containers write to a handful.
ENDS: Final = 32

LOG_LINES: Final = 12  # of CRIU's log in an error: the failure and what led to it

# What the way to the target is measured with: some round trips on a link around the world, and nothing that a user
# waits for or that anybody else on the link notices.
LINK_SECONDS: Final = 0.25
LINK_BYTES: Final = 32 * MIB

# A hook makes an interface or tells a load balancer. Two of them may run in a call that the source waits for.
HOOK_SECONDS: Final = 10.0

# Answers that need no work on the other side; a round trip takes at most seconds on a link that is usable at all.
CALL_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 5.0
PREPARE_SECONDS: Final = 300.0  # mounts, and fetches the warm files: some 100 MiB on a slow link
FREEZE_SECONDS: Final = 60.0  # the refresh is one round trip a directory that changed
RUNTIME_SECONDS: Final = 300.0  # dumping or restoring some ten GiB of memory
KILL_SECONDS: Final = 2.0  # a killed task ends in milliseconds, unless it waits for a disk, which then ends first
PAUSE_SECONDS: Final = 10.0  # tasks freeze in milliseconds; one that waits for a lazy read waits for the source
# A server accepts within a millisecond or so of its next turn; one that does not for so long does not care.
DRAIN_SECONDS: Final = 0.1
DRAIN_LOOK_SECONDS: Final = 0.001
VFORK_SECONDS: Final = 2.0  # a program starts within milliseconds, or within a few lazy reads
# A rollback from RESTORE first waits so long for the target to say that its copy is gone, then resumes in any case: a
# target that was never told "commit" cannot run its copy, so waiting only adds to certainty, and to downtime.
ABORT_FIRST_SECONDS: Final = 2.0

# Between two words of a voyfs daemon that reports (twice a second) or answers at once; it hangs if it takes longer.
DAEMON_SECONDS: Final = 60.0
# A verification reads all of both disks and says nothing meanwhile: 8 TiB on disks of 100 MB/s.
VERIFY_SECONDS: Final = 86400.0

TELL_SECONDS: Final = 0.25  # between two words of how far the images are
SILENT_SECONDS: Final = 10.0  # of an agent's log, before it has a line on how far a migration is

# How long a target lets the source wait for "all memory is here" before it says "not yet", and how far it is.
PAGES_SECONDS: Final = 0.5
# Between two questions how far a preparation is; voyfs takes its rate as often.
HOW_FAR_SECONDS: Final = 0.5
RECEIVED_SECONDS: Final = 0.2  # between two looks at what has come of pages

# CRIU's images of where pages are, of all processes, that are read to tell how much is to come: some 10 GiB of memory
# in some 100,000 pieces, which takes a second.
PAGEMAP_BYTES: Final = 4 * MIB

# Between two looks whether the trees are served: what a reader waits for one that has died, beside its start.
WATCH_SECONDS: Final = 0.5

# Between two looks at what is kept; each reads the journals, while anything is.
SWEEP_SECONDS: Final = 2.0

# Local trees that voyfs takes bytes from; each is asked for every chunk.
SEEDS: Final = 4

# How long a source may be asked to keep its copy after the commit: by then nobody wants the older state.
WINDOW_SECONDS: Final = 30 * 86400.0

RELEASE_SECONDS: Final = 15.0  # from detach to the exit of the export

# How long a commit waits for the container's first data, which tells the client's gap. On a busy connection it has come
# before the commit's journal is on disk; an idle one says nothing, and the source's copy is destroyed so much later.
ANSWER_SECONDS: Final = 0.1

# From SIGTERM to the end of the agent: a migration before its commit goes back, which takes what a dump takes.
STOP_SECONDS: Final = 60.0

# Between two tries to reach a target that has been committed to, or to learn the source's decision.
RETRY_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 5.0)

# Migrations that have ended and are still told of without the journal: those that somebody may be looking at.
REMEMBERED: Final = 64

# Containers that one drain moves at once. A migration takes up to two of the 32 calls that a target's agent serves at
# once, and several drains may choose the same target; more at once move nothing sooner over one link.
DRAIN_PARALLEL: Final = 8
DRAIN_DEFAULT: Final = 2  # while one stands still the other hydrates
DRAIN_TARGETS: Final = 16

# Containers of a group. All stand still until the slowest of them is restored, and all images are in memory at once.
GROUP: Final = 8
MEET_SECONDS: Final = 0.2  # between two looks, while members wait for each other, whether the agent is being stopped
# A rollback of a group waits so long for all to be ready to go on together; whoever hangs does not hold up the others.
THAW_SECONDS: Final = 2.0

# Network namespaces of a target that are searched for a container's address before it comes, some milliseconds each.
NEIGHBOURS: Final = 256

# Command lines that the agent talks with at once; people and scripts on one host have some. Each takes a thread.
LOCAL_TALKS: Final = 64
LOCAL_SECONDS: Final = 30.0  # for a command line to say what it wants, or to take a line: it does so at once

assert IMAGE_PIECE_BYTES < MESSAGE_BYTES
assert CALL_SECONDS > CONNECT_SECONDS
assert PREPARE_SECONDS > 4 * WARM_SECONDS
assert PAGES_SECONDS < CALL_SECONDS
assert DAEMON_SECONDS <= FREEZE_SECONDS <= PREPARE_SECONDS
