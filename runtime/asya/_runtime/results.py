"""A result on its way into shared memory.

Takes: a call, the document and its blobs. Gives: the room they need, and once there is room the fields of the
RESULT entry, everything written. Blocks on: nothing. On failure: `ResultTooLargeError`.

A blob that already lies in this call's room (`asya.empty`) or in this call's input is named where it is, as a part;
all others are copied once.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

from .call import Call
from .failures import ResultTooLargeError
from .layout import (
    ALIGNMENT,
    MAX_PARTS,
    PART,
    RAW,
    REGION_INPUT,
    REGION_OUTPUT,
    RESERVED,
    TABLE_ENTRY,
    TABLE_ENTRY_BYTES,
    aligned,
)
from .outgoing import LOOK_UP_ADDRESS_FROM_BYTES, Outgoing

Fields = Dict[str, int]

# Each blob named in place is a part and needs up to one for its padding; two are left for what was copied before.
MAX_IN_PLACE = (MAX_PARTS - 2) // 3

_ZEROS = bytes(ALIGNMENT)


class Result:
    """One result, ready to be written."""

    __slots__ = ("_call", "_document", "_blobs", "_meta", "_places", "_needs")

    def __init__(self, call: Call, document: bytes, blobs: List[Outgoing], meta: bytes) -> None:
        self._call = call
        self._document = document
        self._blobs = blobs
        self._meta = meta
        self._places: List[Tuple[int, int]] = []
        section = len(document)
        if blobs:
            section = aligned(section) + len(blobs) * TABLE_ENTRY_BYTES
            for blob in blobs:
                section = aligned(section) + blob.nbytes
        if section > call.channel.max_result_bytes:
            raise ResultTooLargeError(
                f"the result is {section} bytes, and at most {call.channel.max_result_bytes} can be sent"
            )
        self._needs = 0
        self._measure()

    def _measure(self) -> None:
        """Find what can stay where it is, and the room that the rest needs."""
        blobs = self._blobs
        needs = len(self._document) + len(self._meta)
        if blobs:
            self._places = places = [self._place(blob) for blob in blobs]
            in_place = [index for index, (region, _) in enumerate(places) if region >= 0]
            for index in in_place[MAX_IN_PLACE:]:
                places[index] = (-1, 0)
            needs = aligned(len(self._document)) + len(blobs) * TABLE_ENTRY_BYTES + len(self._meta)
            copied = [blob.nbytes for blob, (region, _) in zip(blobs, places) if region < 0]
            needs += sum(map(aligned, copied[:-1])) + sum(copied[-1:])
            if in_place:
                needs += 3 * ALIGNMENT + MAX_PARTS * PART.size
        self._needs = needs

    def _place(self, blob: Outgoing) -> Tuple[int, int]:
        """The region and the offset where this blob already is, or region -1."""
        address, length = blob.address, blob.nbytes
        if address and length >= LOOK_UP_ADDRESS_FROM_BYTES:
            call = self._call
            offset = address - call.channel.output.address
            if call.room_at <= offset and offset + length <= call.room_at + call.used:
                return REGION_OUTPUT, offset
            offset = address - call.channel.input.address
            start = call.entry[5]
            if start <= offset and offset + length <= start + call.entry[7]:
                return REGION_INPUT, offset
        return -1, 0

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
        fields: Fields = {
            "document_at": at,
            "document_len": len(document),
            "room_at": call.room_at,
            "room_len": call.room_len,
        }
        if self._blobs:
            end = self._write_section(at, fields)
        else:
            end = at + len(document)
            call.channel.output.map[at:end] = document
            fields["payload_len"] = len(document)
        meta = self._meta
        if meta:
            call.channel.output.map[end : end + len(meta)] = meta
            fields["meta_at"] = end
            fields["meta_len"] = len(meta)
        return fields

    def _write_section(self, at: int, fields: Fields) -> int:
        blobs, places = self._blobs, self._places
        memory = self._call.channel.output.map
        head = self._head()
        end = at + len(head)
        memory[at:end] = head
        parts: List[Tuple[int, int, int]] = [(REGION_OUTPUT, at, len(head))]
        split = any(region >= 0 for region, _ in places)
        zeros = 0
        if split:
            zeros = end
            memory[zeros : zeros + ALIGNMENT] = _ZEROS
            end += ALIGNMENT
        last = len(blobs) - 1
        length = len(head)
        for index, blob in enumerate(blobs):
            region, offset = places[index]
            size = blob.nbytes
            padding = 0 if index == last else aligned(size) - size
            length += size + padding
            if region >= 0:
                _append(parts, region, offset, size)
                _append(parts, REGION_OUTPUT, zeros, padding)
                continue
            if size:
                memory[end : end + size] = blob.bytes_like()
            if padding:
                memory[end + size : end + size + padding] = _ZEROS[:padding]
            _append(parts, REGION_OUTPUT, end, size + padding)
            end += size + padding
        fields["blobs"] = len(blobs)
        fields["payload_len"] = length
        if split:
            end = aligned(end)
            packed = b"".join(PART.pack(region, 0, offset, size) for region, offset, size in parts)
            memory[end : end + len(packed)] = packed
            fields["parts_at"] = end
            fields["parts"] = len(parts)
            end += len(packed)
        return end

    def _head(self) -> bytes:
        """Document, padding and table."""
        document = self._document
        pieces: List[Any] = [document, _ZEROS[: -len(document) % ALIGNMENT]]
        offset = aligned(len(document)) + len(self._blobs) * TABLE_ENTRY_BYTES
        for blob in self._blobs:
            shape = (blob.nbytes,) if blob.dtype == RAW else blob.shape
            axes = (*shape, *(0,) * (8 - len(shape)))
            pieces.append(TABLE_ENTRY.pack(blob.dtype.encode(), len(shape), 0, *axes, offset, blob.nbytes, RESERVED))
            offset = aligned(offset + blob.nbytes)
        return b"".join(pieces)


def _append(parts: List[Tuple[int, int, int]], region: int, offset: int, size: int) -> None:
    if not size:
        return
    before_region, before, length = parts[-1]
    if before_region == region and before + length == offset:
        parts[-1] = (region, before, length + size)
    else:
        parts.append((region, offset, size))
