"""What a handler may import: `import asya`. There is nothing to install; the runtime carries it.

A handler is a plain function or class and needs none of this. See docs/HANDLERS.md.
"""

from __future__ import annotations

from typing import Optional

from ._runtime.blob import Blob
from ._runtime.call import Context, Route, context, contexts, empty
from ._runtime.failures import PayloadError, ProtocolError, ResultError, ResultTooLargeError

__version__ = "0.1.0"


class Retry(Exception):
    """Raise it to say when the message is worth another try: `raise asya.Retry("rate limited", after=30)`.

    Any exception with an attribute `retry_after`, in seconds, does the same. Whether there is another try at all is the
    actor's retry policy to decide.
    """

    def __init__(self, message: str = "", *, after: Optional[float] = None) -> None:
        super().__init__(message or (f"retry after {after:g} s" if after is not None else "retry"))
        self.retry_after = after


for _public in (Blob, Context, Route):
    _public.__module__ = "asya"

__all__ = [
    "Blob",
    "Context",
    "PayloadError",
    "ProtocolError",
    "ResultError",
    "ResultTooLargeError",
    "Retry",
    "Route",
    "context",
    "contexts",
    "empty",
]
