"""The handlers of the three actors: each adds one and its name, and writes down when it began and when it ended.

The journal is one file that every worker appends to, a line with one system call: what a killed worker wrote stays.
"""

import asyncio
import os
import time

_journal = os.open(os.environ["KILL_JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_actor = os.environ["ASYA_ACTOR_NAME"]
_seconds = float(os.environ["KILL_SECONDS"])


def _note(what, payload):
    line = f"{what} {payload['id']} {len(payload['trail'])} {_actor} {time.monotonic():.6f}\n"
    os.write(_journal, line.encode())


def _done(payload):
    _note("end", payload)
    return {**payload, "n": payload["n"] + 1, "trail": [*payload["trail"], _actor]}


def function(payload):
    """Runs in a thread."""
    _note("begin", payload)
    time.sleep(_seconds)
    return _done(payload)


async def coroutine(payload):
    """Runs in the worker's event loop."""
    _note("begin", payload)
    await asyncio.sleep(_seconds)
    return _done(payload)


def generator(payload):
    """Sends its one result on while it still runs."""
    _note("begin", payload)
    time.sleep(_seconds)
    yield _done(payload)
