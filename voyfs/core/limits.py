"""Every constant that bounds something, with its reason; relations are asserted below."""

KIB = 1024
MIB = 1024 * KIB

# Unit of presence, fixed when a store is made. The kernel's FUSE reads are 128 KiB by default,
# so a smaller chunk would cost several fetches a read, a larger one fetch what nobody asked for.
CHUNK = 128 * KIB

# Largest piece of file data in one message. gRPC streams reach their full rate from 1 MiB on;
# larger ones only cost memory and delay what waits behind them.
PIECE_BYTES = 1 * MIB

# Largest message either side accepts: a bulk reply holds up to PIECE_BYTES of data, or a page
# of entries; the rest is room for names and attributes.
MESSAGE_BYTES = 4 * MIB

# Data in one demand reply: a read of the kernel (at most 1 MiB) touches at most 9 chunks.
FETCH_BYTES = 2 * MIB

# A page of a directory: entries of an ordinary root take about 150 bytes each, so this is
# some 600 KiB; a page is also ended early at PAGE_BYTES because of long names and xattrs.
PAGE_ENTRIES = 4096
PAGE_BYTES = 1 * MIB

# One entry: 255 bytes of name, 4095 of target, and what ext4 or xfs hold of xattrs in practice.
# XATTR_LIST_MAX (65536) bounds names; a single value is at most 65536 too.
ENTRY_XATTR_BYTES = 256 * KIB

NAME_BYTES = 255  # NAME_MAX of Linux
PATH_BYTES = 1 * MIB  # deep trees may exceed PATH_MAX; components are opened one by one

TARGET_BYTES = 4095  # of a symbolic link: PATH_MAX without its NUL
XATTR_NAME_BYTES = 255  # XATTR_NAME_MAX
XATTR_VALUE_BYTES = 64 * KIB  # XATTR_SIZE_MAX

# ext4 with large_dir stops at about this many entries too; a client that is sent more believes
# no longer that there is an end.
DIRECTORY_ENTRIES = 10_000_000
DIRECTORY_BYTES = 2 * 1024 * MIB  # of one directory on the wire: so many entries of 200 bytes

STAT_PATHS = 1024  # in one Stat request: about 100 KiB of paths

# Bulk data that may be on its way at once. It bounds memory and what a demand read waits for:
# 8 MiB are 64 ms at 1 Gbit/s, and cover 14 ms of round trip up to 4.5 Gbit/s.
BULK_JOB_BYTES = 2 * MIB
BULK_JOBS = 4
BULK_JOB_FILES = 256  # small files in one job

# Memory that the server and the bulk process keep instead of giving it back after each message: what is on its way
# at once, in some four copies (read, message, frame, socket).
KEPT_BYTES = 4 * BULK_JOBS * BULK_JOB_BYTES

# Extents in one request: two for each of a bulk job's files and their chunks is generous, and a
# demand fetch has at most 16.
REQUEST_EXTENTS = 1024

# Local trees that may be asked for bytes before the source is, and what is offered to the source in one request: from
# each of them a part of every extent.
SEEDS = 4
REQUEST_OFFERS = SEEDS * REQUEST_EXTENTS

# Of a trace: ranges that it holds (and chunks that one is recorded of: 8 GiB), and its size: names take some 80 bytes.
TRACE_RANGES = 65536
TRACE_BYTES = 16 * MIB

# What is told of a working set: files that matter (a whole ordinary root has 10,000), and memory for their ranges, some
# 100 bytes each on both ends. A file whose cached parts are more scattered than that is told in part.
WORKING_SET_FILES = 32768
WORKING_SET_FILE_EXTENTS = 1024
WORKING_SET_EXTENTS = 4 * WORKING_SET_FILES

# Names (with their directories) that are kept of what changed while a source was not at rest yet. To look at so many
# takes some 0.3 s; with more it is as well to list everything.
TOUCHED_NAMES = 16384

# Demand fetches on their way at once; further ones queue.
DEMAND_FETCHES = 32

# How far ahead of a sequential reader is fetched, in how large fetches (the readers' process has the background's
# jobs), and how many of these at once for all readers.
# What is under way while one fetch is written and read must cover the round trip: 8 MiB in 14 ms are 570 MiB/s.
AHEAD_BYTES = 8 * MIB
AHEAD_FETCH_BYTES = 1 * MIB
AHEAD_FETCHES = 16

# Small files (of one chunk) brought along with one that is asked for, the first time and at most, and how many such
# fetches at once. Landing one takes some 0.1 ms, in which whoever asks for another waits.
NEAR_FILES_FIRST = 8
NEAR_FILES = 64
NEAR_FETCHES = 2

assert NEAR_FILES <= BULK_JOB_FILES
assert MESSAGE_BYTES >= 2 * PIECE_BYTES
assert MESSAGE_BYTES >= FETCH_BYTES + MIB
assert MESSAGE_BYTES >= PAGE_BYTES + ENTRY_XATTR_BYTES + PATH_BYTES + 64 * KIB
assert BULK_JOB_BYTES % CHUNK == 0
assert AHEAD_FETCH_BYTES % CHUNK == 0
assert AHEAD_FETCH_BYTES < FETCH_BYTES
assert AHEAD_FETCHES < DEMAND_FETCHES  # so that reading ahead never takes them all
assert BULK_JOB_BYTES <= FETCH_BYTES
assert REQUEST_EXTENTS >= 2 * (BULK_JOB_FILES + BULK_JOB_BYTES // CHUNK)
assert PIECE_BYTES % CHUNK == 0
assert MESSAGE_BYTES >= PAGE_BYTES + PATH_BYTES + 32 * WORKING_SET_FILE_EXTENTS
