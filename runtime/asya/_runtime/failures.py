"""An exception as docs/RING.md wants it told, and as the developer sees it on stderr.

Takes: exceptions. Gives: the meta of an ERROR, bounded; the traceback on stderr, prefixed by the actor.
Blocks on: stderr. On failure: an exception whose `str()` fails is described all the same.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from types import TracebackType
from typing import Any, Dict, List, Optional

from .layout import MAX_MESSAGE_BYTES, MAX_TRACEBACK_BYTES

PROCESSING_ERROR = "processing_error"
PARSING_ERROR = "msg_parsing_error"

# A handler that fails on every message must not make the worker wait for whoever reads stderr.
MAX_REPORTS_PER_SECOND = 20

_OWN_FILES = os.path.dirname(__file__)


class PayloadError(ValueError):
    """The payload is not what docs/RING.md says: invalid JSON, or a blob table out of bounds."""


class ResultError(TypeError):
    """The handler's result cannot be sent."""


class ResultTooLargeError(ValueError):
    """The handler's result is larger than the sidecar accepts."""


class ProtocolError(RuntimeError):
    """A generator yielded a command that does not exist."""


for _error in (PayloadError, ResultError, ResultTooLargeError, ProtocolError):
    _error.__module__ = "asya"


def type_name(kind: type) -> str:
    """`package.Class`, or the bare name of a builtin."""
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def ancestors(kind: type) -> List[str]:
    """All classes that this one is, but for the two that every exception is."""
    return [type_name(base) for base in kind.__mro__[1:] if base not in (object, BaseException)]


def message_of(error: BaseException) -> str:
    """`str(error)`, whatever happens in there."""
    try:
        return str(error)
    except Exception:
        return f"<{type_name(type(error))} whose str() failed>"


def user_traceback(error: BaseException) -> str:
    """The traceback from the first frame that is not the runtime's own."""
    import traceback  # most workers never need it

    frames: Optional[TracebackType] = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OWN_FILES):
        frames = frames.tb_next
    try:
        # A fault of the runtime itself has no other frames.
        return "".join(traceback.format_exception(type(error), error, frames or error.__traceback__))
    except Exception:
        return f"{type_name(type(error))}: {message_of(error)}\n"


def cut(text: str, most_bytes: int) -> str:
    """The text with its middle cut out when it is too long. Lone surrogates become question marks."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) > most_bytes:
        gap = f"\n… {len(encoded) - most_bytes} bytes cut …\n".encode()
        half = (most_bytes - len(gap)) // 2
        encoded = encoded[:half] + gap + encoded[-half:]
    return encoded.decode("utf-8", "ignore")


def retry_after(error: BaseException) -> Optional[float]:
    """The seconds that the exception asks to wait, when it has an attribute that says so."""
    wanted = getattr(error, "retry_after", None)
    seconds = getattr(wanted, "total_seconds", None)
    try:
        value = float(seconds() if callable(seconds) else wanted)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def describe(error: BaseException) -> Dict[str, Any]:
    """type, message, mro and traceback, each bounded."""
    return {
        "type": type_name(type(error)),
        "message": cut(message_of(error), MAX_MESSAGE_BYTES),
        "mro": ancestors(type(error)),
        "traceback": cut(user_traceback(error), MAX_TRACEBACK_BYTES),
    }


def error_meta(error: BaseException, kind: str) -> bytes:
    """The meta of an ERROR entry."""
    meta = describe(error)
    meta["kind"] = kind
    wait = retry_after(error)
    if wait is not None:
        meta["retry_after"] = wait
    return json.dumps(meta, ensure_ascii=False).encode("utf-8", "replace")


class Reporter:
    """Prints tracebacks to stderr, so many a second and no more."""

    __slots__ = ("_prefix", "_second", "_printed", "_suppressed")

    def __init__(self, actor: str) -> None:
        self._prefix = f"[{actor}] "
        self._second = 0
        self._printed = 0
        self._suppressed = 0

    def error(self, error: BaseException) -> None:
        """Print the traceback."""
        second = int(time.monotonic())
        if second != self._second:
            if self._suppressed:
                self.line(f"{self._suppressed} more tracebacks were not printed")
            self._second, self._printed, self._suppressed = second, 0, 0
        if self._printed >= MAX_REPORTS_PER_SECOND:
            self._suppressed += 1
            return
        self._printed += 1
        self.line(cut(user_traceback(error), MAX_TRACEBACK_BYTES).rstrip("\n"))

    def line(self, text: str) -> None:
        """Print text with the actor before each line, in one write."""
        whole = "".join(f"{self._prefix}{line}\n" for line in text.split("\n"))
        try:
            sys.stderr.write(whole)
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # a handler may have closed or replaced stderr; a message must not fail for that
