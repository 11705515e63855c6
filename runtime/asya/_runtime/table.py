"""The table of blobs in a payload section: docs/RING.md, section 4.

Takes: entries, or what they shall say. Gives: what they say, checked, or entries. Blocks on: nothing. On failure:
`PayloadError` for an entry that cannot be true, `ValueError` for a type string that is none.

Streams of messages have blobs of the same kind, so entries are remembered in both directions: decoding one by its
bytes, making one by what it says. Both memories start anew when they are full.
"""

from __future__ import annotations

import re
from typing import Dict, NamedTuple, Tuple

from .failures import PayloadError
from .layout import ALIGNMENT, MAX_DIMENSIONS, RAW, RESERVED, TABLE_ENTRY

MAX_REMEMBERED = 512

_TYPESTR = re.compile(r"[<>|]([biufcSV]\d+|U\d+|[mM]\d+(\[[^\]]*\])?)")
_DIGITS = re.compile(r"\d+")


class Entry(NamedTuple):
    """What an entry says."""

    dtype: str
    shape: Tuple[int, ...]
    offset: int
    length: int


_decoded: Dict[bytes, Entry] = {}
_encoded: Dict[Entry, bytes] = {}


def itemsize(dtype: str) -> int:
    """Bytes of one item of a type string."""
    if dtype == RAW:
        return 1
    if len(dtype) > 16 or not dtype.isascii() or not _TYPESTR.fullmatch(dtype):
        raise ValueError(f"{dtype!r} is not a type string of NumPy for plain data")
    digits = _DIGITS.search(dtype)
    return int(digits.group()) * (4 if dtype[1] == "U" else 1) if digits else 0


def decode(content: bytes) -> Entry:
    """What an entry says. Its place in the section is for the caller to check."""
    entry = _decoded.get(content)
    if entry is None:
        entry = _decode(content)
        if len(_decoded) >= MAX_REMEMBERED:
            _decoded.clear()
        _decoded[content] = entry
    return entry


def _decode(content: bytes) -> Entry:
    name, dimensions, flags, *shape, offset, length, reserved = TABLE_ENTRY.unpack(content)
    dtype = name.rstrip(b"\0").decode("latin-1")
    try:
        expected = itemsize(dtype)
    except ValueError:
        raise PayloadError(f"a blob of the payload has no dtype: {dtype!r}") from None
    if dimensions > MAX_DIMENSIONS or (dtype == RAW and dimensions != 1):
        raise PayloadError(f"a blob of the payload has {dimensions} dimensions")
    if flags or reserved != RESERVED or any(shape[dimensions:]) or offset % ALIGNMENT:
        raise PayloadError("a blob of the payload uses what is reserved, or is not aligned")
    axes = tuple(shape[:dimensions])
    for axis in axes:
        expected *= axis
    if expected != length:
        raise PayloadError(f"a blob of the payload is {length} bytes, its shape {axes} of {dtype} needs {expected}")
    return Entry(dtype, axes, offset, length)


def encode(entry: Entry) -> bytes:
    """The bytes of an entry."""
    content = _encoded.get(entry)
    if content is None:
        dtype, shape, offset, length = entry
        axes = (*shape, *(0,) * (MAX_DIMENSIONS - len(shape)))
        content = TABLE_ENTRY.pack(dtype.encode(), len(shape), 0, *axes, offset, length, RESERVED)
        if len(_encoded) >= MAX_REMEMBERED:
            _encoded.clear()
        _encoded[entry] = content
    return content
