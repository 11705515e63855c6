"""One call of the handler: its place in memory, its room for a result, its context.

Takes: a submission entry. Gives: what `asya.context()` and `asya.empty()` need to know.
Blocks on: `asya.empty` waits for room when the room at hand is too small. On failure: `RuntimeError` outside a call.
"""

from __future__ import annotations

import contextvars
import json
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from . import memory
from .blob import FORMATS, typestr
from .channel import Channel
from .layout import Submission, aligned
from .table import itemsize

# Asked for beside a result's arrays, so that the document and the table still fit into the same room.
DOCUMENT_RESERVE_BYTES = 64 * 1024


class Route(NamedTuple):
    """Where a message has been, is, and goes next."""

    prev: List[str]
    curr: str
    next: List[str]


class Context:
    """What is known of the message beside its payload. Decoded on first use; a copy, so changing it changes nothing."""

    __slots__ = ("_raw", "_fields")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._fields: Optional[Dict[str, Any]] = None

    def _decoded(self) -> Dict[str, Any]:
        fields = self._fields
        if fields is None:
            fields = self._fields = json.loads(self._raw)
        return fields

    @property
    def id(self) -> str:
        """The message's id."""
        return str(self._decoded()["id"])

    @property
    def parent_id(self) -> Optional[str]:
        """The id of the message that this one was made from, if it is a child."""
        found = self._decoded().get("parent_id")
        return None if found is None else str(found)

    @property
    def route(self) -> Route:
        """The route."""
        route = self._decoded()["route"]
        return Route(route["prev"], route["curr"], route["next"])

    @property
    def headers(self) -> Dict[str, Any]:
        """The headers."""
        found: Dict[str, Any] = self._decoded().get("headers") or {}
        return found

    @property
    def status(self) -> Optional[Dict[str, Any]]:
        """The status: phase, attempt, deadline and so on."""
        found: Optional[Dict[str, Any]] = self._decoded().get("status")
        return found

    def as_dict(self) -> Dict[str, Any]:
        """All of it, as a dict of its own."""
        fields: Dict[str, Any] = json.loads(self._raw)
        return fields

    def __repr__(self) -> str:
        return f"<asya.Context {self.id}>"


class Call:
    """One call that runs. Reused from call to call where only one can run."""

    __slots__ = ("entry", "number", "channel", "room_at", "room_len", "used", "loans", "pin", "edits", "rooms", "over")

    def __init__(self, channel: Channel, rooms: Callable[[Call, int], None]) -> None:
        self.channel = channel
        self.rooms = rooms
        """Blocks until this call has a room of at least so many bytes."""
        self.entry: Submission = (0,) * 13
        self.number = 0
        self.room_at = 0
        self.room_len = 0
        self.used = 0
        """Bytes of the room that `asya.empty` has given away."""
        self.loans: List[Any] = []
        """Weak references to what `asya.empty` gave away and is perhaps still held."""
        self.pin: Optional[memory.Pin] = None
        self.edits: Optional[Any] = None
        """What yield commands have read and changed."""
        self.over = False

    def begin(self, entry: Submission) -> Call:
        """Start with a new entry."""
        self.entry = entry
        self.number = entry[4]
        self.room_at = entry[11]
        self.room_len = entry[12]
        return self

    def context(self) -> Context:
        """The context, copied out of the input, so that it may outlive the call."""
        entry = self.entry
        return Context(self.channel.input.map[entry[8] : entry[8] + entry[9]])

    def payload(self, loads: Callable[[bytes], Any], place: Callable[..., Any]) -> Any:
        """The value that the handler gets."""
        entry = self.entry
        start, length, count = entry[5], entry[6], entry[3]
        source = self.channel.input
        value = loads(source.map[start : start + length])
        if count:
            pin = self.pin = memory.Pin(self.number)
            value = place(value, source.blobs(start, length, entry[7], count, pin))
        return value

    def ends_pinned(self) -> Optional[memory.Pin]:
        """The call is about to post its last entry. Gives its pin when views of its input live on."""
        pin, self.pin = self.pin, None
        if pin is None:
            return None
        pin.closed = True
        self.channel.release_unpinned()
        return pin if pin.live else None

    def leave_room(self) -> None:
        """The room stops being ours: what user code still holds of it becomes private."""
        if self.loans:
            alive = any(reference() is not None for reference in self.loans)
            self.loans = []
            if alive:
                self.channel.output.make_private(self.room_at, self.room_len)
        self.room_at = self.room_len = self.used = 0

    def allocate(self, nbytes: int) -> Optional[memoryview]:
        """Writable memory in this call's room, or None when it must be private memory."""
        output = self.channel.output
        if self.over or not output.address or self.channel.lost:
            return None
        start = aligned(self.used)
        if start + nbytes > self.room_len:
            wanted = nbytes + DOCUMENT_RESERVE_BYTES
            # A room that was partly given away cannot be exchanged, and no room can be larger than a result may be.
            if self.used or nbytes > self.channel.max_result_bytes:
                return None
            self.rooms(self, min(wanted, self.channel.max_result_bytes))
            start = 0
            if nbytes > self.room_len:
                return None
        self.used = start + nbytes
        source, view = memory.exporter(output.address + self.room_at + start, nbytes)
        self.loans.append(output.lend(source))
        return view


_Where = Union[Call, Sequence[Call], None]
current: contextvars.ContextVar[_Where] = contextvars.ContextVar("asya call", default=None)


def context() -> Context:
    """The context of the message that is being handled: id, route, headers, status."""
    call = current.get()
    if isinstance(call, Call) and not call.over:
        return call.context()
    if call is None or isinstance(call, Call):
        raise RuntimeError("asya.context() has a meaning only while a handler runs, in the handler's thread or task")
    raise RuntimeError("this handler takes a batch: asya.contexts() gives a list with the context of each payload")


def contexts() -> List[Context]:
    """The contexts of all messages that are being handled in this call, in the order of their payloads."""
    call = current.get()
    if call is None or isinstance(call, Call):
        return [context()]
    return [one.context() for one in call]


def empty(shape: Union[int, Sequence[int]], dtype: Any = "u1") -> Any:
    """An array for a result, allocated where results are sent from: sending it copies nothing.

    Gives a NumPy array when NumPy can be imported, else a memoryview. Its contents are arbitrary. It belongs to one
    result: what is still held after that was sent is a private copy. Memory is found for it even when there is no room
    in the shared one; it is then copied when it is sent, like any array.
    """
    dimensions: Tuple[int, ...] = (shape,) if isinstance(shape, int) else tuple(shape)
    kind = typestr(dtype)
    nbytes = itemsize(kind)
    for axis in dimensions:
        nbytes *= axis
    call = current.get()
    first = call if call is None or isinstance(call, Call) else None
    view = first.allocate(nbytes) if first is not None and nbytes else None
    if view is None:
        view = memoryview(bytearray(nbytes))
    try:
        import numpy
    except ImportError:
        if kind not in FORMATS:
            raise TypeError(f"without NumPy there are no arrays of {kind}") from None
        shown: Any = view
        return shown.cast(FORMATS[kind], dimensions) if nbytes else view
    return numpy.ndarray(dimensions, kind, view)

