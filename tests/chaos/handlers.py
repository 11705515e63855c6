"""The handlers of the chaos suite: each adds one and its name, and does what the message says: raises at first, is slow, hangs once.

The journal is one file that every worker appends to, a line with one system call: what a killed worker wrote stays.
"""

import asyncio
import os
import time

import asya

_journal = os.open(os.environ["CHAOS_JOURNAL"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
_actor = os.environ["ASYA_ACTOR_NAME"]
# Longer than any time that a call has.
_FOR_EVER = 3600


def _note(what, payload):
    line = f"{what} {payload['id']} {len(payload['trail'])} {_actor} {time.monotonic():.6f}\n"
    os.write(_journal, line.encode())


def _begin(payload):
    """Writes down that it begins; how long to wait, if at all."""
    _note("begin", payload)
    what = payload.get("do", {}).get(_actor)
    if not what:
        return 0
    attempt = asya.context().status["attempt"]
    if attempt <= what.get("raise", 0):
        _note("fail", payload)
        raise ValueError("not yet")
    if attempt <= what.get("hang", 0):
        _note("hang", payload)
        return _FOR_EVER
    return what.get("slow", 0)


def _done(payload):
    _note("end", payload)
    return {**payload, "n": payload["n"] + 1, "trail": [*payload["trail"], _actor]}


async def coroutine(payload):
    """Runs in the worker's event loop."""
    seconds = _begin(payload)
    if seconds:
        await asyncio.sleep(seconds)
    return _done(payload)


def function(payload):
    """Runs in a thread."""
    seconds = _begin(payload)
    if seconds:
        time.sleep(seconds)
    return _done(payload)


def generator(payload):
    """Sends its one result on while it still runs."""
    seconds = _begin(payload)
    if seconds:
        time.sleep(seconds)
    yield _done(payload)
