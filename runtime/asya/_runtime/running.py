"""What every engine does with a call: decode, answer, fail.

Takes: a call, what its handler returned or raised. Gives: entries in the completion ring, memory released.
Blocks on: room for a result, through `Call.rooms`. On failure: what cannot be sent becomes the message's own error.

Order matters in `end`: the last entry of a call says whether views of its input live on, so every reference of ours
to the payload, the result and the exception must be gone before it is written.
"""

from __future__ import annotations

from typing import Any, Optional

from . import layout
from .blob import place
from .call import Call
from .channel import NO_FIELDS, Channel, Fields, Leave
from .codec import Codec
from .commands import Commands
from .failures import PARSING_ERROR, PROCESSING_ERROR, PayloadError, Reporter, ResultTooLargeError, error_meta
from .handlers import Handler
from .layout import DONE, ERROR, JSON_STDLIB, LAST, PINNED, RESULT
from .packets import Gone
from .results import Result


class Desk:
    """The common state of one thread of an engine."""

    __slots__ = ("channel", "handler", "codec", "reporter", "_told_library", "flown")

    def __init__(self, channel: Channel, handler: Handler, codec: Codec, reporter: Reporter) -> None:
        self.channel = channel
        self.handler = handler
        self.codec = codec
        self.reporter = reporter
        self._told_library = codec.uses_orjson
        self.flown = 0
        """How many FLY commands were accepted and dropped."""

    def payload(self, call: Call) -> Any:
        """What the handler gets; `PayloadError` for anything wrong with it."""
        try:
            return call.payload(self.codec.loads, place)
        except RecursionError:
            raise PayloadError("the payload is nested too deeply") from None

    def ready(self, call: Call, document: bytes) -> Result:
        """A result of the document that was encoded last."""
        codec = self.codec
        blobs, codec.blobs = codec.blobs, []
        edits: Optional[Commands] = call.edits
        return Result(call, document, blobs, b"" if edits is None else edits.meta())

    def write(self, call: Call, document: bytes) -> Fields:
        """Write a result of the document that was encoded last, waiting for room."""
        result = self.ready(call, document)
        needs = result.wanting()
        if needs:
            call.rooms(call, needs)
        return result.write()

    def post_result(self, call: Call, fields: Fields, last: bool, elapsed_ns: int) -> None:
        """The entry of a written result. Call it when no reference to the result is left."""
        flags = self.library_flag()
        if last:
            self._end(RESULT, flags, call, elapsed_ns, fields)
        else:
            self.channel.post(RESULT, flags, call.number, fields)
            call.leave_room()

    def library_flag(self) -> int:
        """Says which JSON library is used, once."""
        if self._told_library:
            return 0
        self._told_library = True
        return JSON_STDLIB

    def done(self, call: Call, elapsed_ns: int) -> None:
        """The call ends without a further result."""
        self._end(DONE, 0, call, elapsed_ns, NO_FIELDS)

    def _end(self, kind: int, flags: int, call: Call, elapsed_ns: int, fields: Fields) -> None:
        """The last entry of a call."""
        pin = call.ends_pinned()
        flags |= LAST if pin is None else LAST | PINNED
        self.channel.post(kind, flags, call.number, fields, elapsed_ns)
        if pin is not None:
            self.channel.told_pinned(pin)
        call.leave_room()

    def failure(self, error: BaseException) -> bytes:
        """Report an exception; gives its meta. Anything that means "end this worker" goes through."""
        if isinstance(error, (Leave, Gone)):
            raise error
        if isinstance(error, PayloadError):
            return error_meta(error, PARSING_ERROR)
        self.reporter.error(error)
        return error_meta(error, PROCESSING_ERROR)

    def error_needs(self, call: Call, meta: bytes) -> int:
        """The room to ask for before `post_error`, or 0 when it fits."""
        if layout.aligned(call.used) + len(meta) <= call.room_len:
            return 0
        return len(meta)

    def fail(self, call: Call, meta: bytes, elapsed_ns: int) -> None:
        """Post an ERROR, waiting for room."""
        needs = self.error_needs(call, meta)
        if needs:
            try:
                call.rooms(call, needs)
            except ResultTooLargeError:
                meta = b""  # not even an error has room: the sidecar tells that by itself
        self.post_error(call, meta, elapsed_ns)

    def post_error(self, call: Call, meta: bytes, elapsed_ns: int) -> None:
        """Post an ERROR into the room at hand."""
        at = call.room_at + layout.aligned(call.used)
        if meta:
            self.channel.output.map[at : at + len(meta)] = meta
        fields = (0, 0, 0, 0, 0, 0, len(meta), at if meta else 0, call.room_at, call.room_len)
        self._end(ERROR, 0, call, elapsed_ns, fields)

    def command(self, call: Call, command: Any) -> Any:
        """A yielded tuple: carry it out."""
        commands: Optional[Commands] = call.edits
        if commands is None:
            commands = call.edits = Commands(call.context().as_dict())
        return commands.run(command, self._fly)

    def _fly(self, _: Any) -> None:
        self.flown += 1


def is_command(value: Any) -> bool:
    """A tuple of two or more is a command; everything else that is yielded is sent."""
    return isinstance(value, tuple) and len(value) >= 2 and not hasattr(value, "_fields")

