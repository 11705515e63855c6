"""A result on its way into shared memory.

Takes: a call, the document and its blobs. Gives: the room they need, and once there is room the fields of the
RESULT entry, everything written. Blocks on: nothing. On failure: `ResultTooLargeError`.

A blob that already lies in this call's room (`asya.empty`) or in this call's input is named where it is, as a part;
all others are copied once.
"""

from __future__ import annotations

from typing import List, Tuple

from . import table
from .call import Call
from .channel import Fields
from .failures import ResultTooLargeError
from .layout import ALIGNMENT, MAX_PARTS, PART, REGION_INPUT, REGION_OUTPUT, TABLE_ENTRY_BYTES, aligned
from .outgoing import LOOK_UP_ADDRESS_FROM_BYTES, Outgoing

# Each blob named in place is a part, needs up to one for its padding, and may have one before it that was copied; two
# are left for the beginning and the end.
MAX_IN_PLACE = (MAX_PARTS - 2) // 3

_ZEROS = bytes(ALIGNMENT)
_NOWHERE = (-1, 0)


class Result:
    """One result, ready to be written."""

    __slots__ = ("_call", "_document", "_blobs", "_meta", "_head_len", "_section", "_offsets", "_places", "_split", "_needs")

    def __init__(self, call: Call, document: bytes, blobs: List[Outgoing], meta: bytes) -> None:
        self._call = call
        self._document = document
        self._blobs = blobs
        self._meta = meta
        section = len(document)
        if blobs:
            section = self._head_len = aligned(section) + len(blobs) * TABLE_ENTRY_BYTES
            self._offsets: List[int] = []
            for blob in blobs:
                start = (section + 63) & ~63
                self._offsets.append(start)
                section = start + blob.nbytes
        self._section = section
        if section > call.channel.max_result_bytes:
            raise ResultTooLargeError(
                f"the result is {section} bytes, and at most {call.channel.max_result_bytes} can be sent"
            )
        self._measure()

    def _measure(self) -> None:
        """Find what can stay where it is, and the room that the rest needs."""
        needs = self._section + len(self._meta)
        self._split = 0
        if self._blobs:
            places: List[Tuple[int, int]] = []
            self._places = places
            for blob in self._blobs:
                place = self._place(blob) if blob.address else _NOWHERE
                if place is not _NOWHERE:
                    if self._split == MAX_IN_PLACE:
                        place = _NOWHERE
                    else:
                        self._split += 1
                        needs -= blob.nbytes
                places.append(place)
            if self._split:
                needs += ALIGNMENT + MAX_PARTS * PART.size
        self._needs = needs

    def _place(self, blob: Outgoing) -> Tuple[int, int]:
        """The region and the offset where this blob already is."""
        address, length = blob.address, blob.nbytes
        if length >= LOOK_UP_ADDRESS_FROM_BYTES:
            call = self._call
            offset = address - call.channel.input.address
            entry = call.entry
            if entry[5] <= offset and offset + length <= entry[5] + entry[7]:
                return REGION_INPUT, offset
            offset = address - call.channel.output.address
            if call.room_at <= offset and offset + length <= call.room_at + call.used:
                return REGION_OUTPUT, offset
        return _NOWHERE

    def wanting(self) -> int:
        """0 when the room at hand is large enough, else the room to exchange it for before `write`."""
        call = self._call
        if aligned(call.used) + self._needs <= call.room_len:
            return 0
        if call.used:  # nothing can stay in a room that is given back
            call.used = 0
            self._measure()
        return self._needs

    def write(self) -> Fields:
        """Write everything; gives the fields of the entry."""
        call = self._call
        at = call.room_at + aligned(call.used)
        document = self._document
        memory = call.channel.output.map
        parts_at = parts = 0
        if not self._blobs:
            end = at + len(document)
            memory[at:end] = document
        elif self._split:
            end, parts_at, parts = self._write_parts(at)
        else:
            end = self._write_whole(at)
        meta_at = meta_len = 0
        if self._meta:
            meta_at, meta_len = end, len(self._meta)
            memory[end : end + meta_len] = self._meta
        return (
            len(self._blobs), at, len(document), self._section, parts_at, parts, meta_len, meta_at, call.room_at,
            call.room_len,
        )  # fmt: skip

    def _head(self) -> bytes:
        """Document, padding and table."""
        document = self._document
        entries = [document.ljust(aligned(len(document)), b"\0")]
        for blob, offset in zip(self._blobs, self._offsets):
            entries.append(table.encode(table.Entry(blob.dtype, blob.shape, offset, blob.nbytes)))
        return b"".join(entries)

    def _write_whole(self, at: int) -> int:
        """The section as it will be on the wire."""
        memory = self._call.channel.output.map
        end = at + self._head_len
        memory[at:end] = self._head()
        for blob, offset in zip(self._blobs, self._offsets):
            start = at + offset
            if start != end:
                memory[end:start] = _ZEROS[: start - end]
            end = start + blob.nbytes
            memory[start:end] = blob.bytes_like()
        return end

    def _write_parts(self, at: int) -> Tuple[int, int, int]:
        """What must be copied, and the list of the parts."""
        memory = self._call.channel.output.map
        end = at + self._head_len
        memory[at:end] = self._head()
        zeros = 0  # where zeros are for the padding of blobs that stay in place
        parts = [(REGION_OUTPUT, at, self._head_len)]
        written = self._head_len  # bytes of the section so far
        for blob, offset, (region, place) in zip(self._blobs, self._offsets, self._places):
            padding = offset - written
            if padding:
                if parts[-1][0] == REGION_OUTPUT and parts[-1][1] + parts[-1][2] == end:
                    memory[end : end + padding] = _ZEROS[:padding]
                    _append(parts, REGION_OUTPUT, end, padding)
                    end += padding
                else:
                    if not zeros:
                        zeros = end
                        end += ALIGNMENT
                        memory[zeros:end] = _ZEROS
                    _append(parts, REGION_OUTPUT, zeros, padding)
            size = blob.nbytes
            if region < 0:
                memory[end : end + size] = blob.bytes_like()
                region, place = REGION_OUTPUT, end
                end += size
            _append(parts, region, place, size)
            written = offset + size
        start = (end + 7) & ~7
        packed = b"".join([PART.pack(region, 0, offset, size) for region, offset, size in parts])
        end = start + len(packed)
        memory[start:end] = packed
        return end, start, len(parts)


def _append(parts: List[Tuple[int, int, int]], region: int, offset: int, size: int) -> None:
    if not size:
        return
    before_region, before, length = parts[-1]
    if before_region == region and before + length == offset:
        parts[-1] = (region, before, length + size)
    else:
        parts.append((region, offset, size))
