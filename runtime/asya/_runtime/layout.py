"""Byte layouts and numbers of docs/RING.md, and nothing else.

Takes: nothing. Gives: precompiled `struct` layouts and constants. Blocks on: nothing. On failure: cannot fail.
Change this file only together with that page.
"""

from __future__ import annotations

import struct
from typing import Final, Tuple

VERSION: Final = 1

# Packets on the control socket.
MAX_PACKET_BYTES: Final = 65_536
ATTACHED_DESCRIPTORS: Final = 5

# Ring entries.
ENTRY_BYTES: Final = 128

CALL: Final = 1
GRANT: Final = 2
CANCEL: Final = 3
REFUSE: Final = 4

MORE: Final = 1
ALONE: Final = 2

RESULT: Final = 1
DONE: Final = 2
ERROR: Final = 3
ROOM: Final = 4
UNPINNED: Final = 5

LAST: Final = 1
PINNED: Final = 2
JSON_STDLIB: Final = 4

# sequence, kind, flags, blobs, call, payload offset, document length, payload length, context offset,
# context length, timeout in ms, room offset, room length
SUBMISSION: Final = struct.Struct("<QHHIQQQQQIIQQ48x")
Submission = Tuple[int, int, int, int, int, int, int, int, int, int, int, int, int]

# Everything of a completion after its sequence: kind, flags, blobs, call, document offset, document length, payload
# length, parts offset, parts, meta length, meta offset, elapsed ns, room offset, room length
COMPLETION_BODY: Final = struct.Struct("<HHIQQQQQIIQQQQ32x")
SEQUENCE_BYTES: Final = 8

DOORBELL: Final = struct.Struct("=Q")

# The payload section.
ALIGNMENT: Final = 64
# dtype, dimensions, flags, shape, offset, length, reserved
TABLE_ENTRY: Final = struct.Struct("<16sII8QQQ24s")
RESERVED: Final = bytes(24)
TABLE_ENTRY_BYTES: Final = 128
MAX_DIMENSIONS: Final = 8
RAW: Final = "raw"

PART: Final = struct.Struct("<IIQQ")
MAX_PARTS: Final = 64
REGION_OUTPUT: Final = 0
REGION_INPUT: Final = 1

# Keys of the document that stand for blobs.
BLOB_KEY: Final = "$asya.blob"
LITERAL_KEY: Final = "$asya.literal"

# Bounds on the meta of an ERROR.
MAX_MESSAGE_BYTES: Final = 16 * 1024
MAX_TRACEBACK_BYTES: Final = 64 * 1024

assert SUBMISSION.size == ENTRY_BYTES
assert SEQUENCE_BYTES + COMPLETION_BODY.size == ENTRY_BYTES
assert TABLE_ENTRY.size == TABLE_ENTRY_BYTES
assert PART.size == 24


def aligned(number: int) -> int:
    """The next multiple of 64, from which blobs start."""
    return (number + 63) & ~63
