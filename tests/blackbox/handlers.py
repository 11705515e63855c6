"""The handlers of the black-box tests. Each writes down what it does, one JSON line a step, in a file that the test reads.

A line is one system call on a file opened for appending, so that what a killed worker wrote stays and lines never mix.
"""

import asyncio
import json
import os
import time

_folder = os.environ["BLACKBOX_FOLDER"]
_journal = os.open(os.path.join(_folder, "journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def _note(what, payload=None):
    os.write(_journal, (json.dumps({"what": what, "pid": os.getpid(), "payload": payload}) + "\n").encode())


def _wait_for_gate():
    while not os.path.exists(os.path.join(_folder, "gate")):
        time.sleep(0.005)


def echo(payload):
    """The payload, as it is."""
    _note("run", payload)
    return payload


def size(payload):
    """How long the text is."""
    return {"length": len(payload["text"])}


def grow(payload):
    """A text that is as long as the payload says."""
    return {"text": "x" * payload["bytes"]}


def not_json(payload):
    """A result that no JSON can say."""
    return {"value": float("nan")}


def end(payload):
    """Ends the message."""
    _note("run", payload)
    return None


def empty_list(payload):
    """One payload that is an empty list."""
    return []


def fail(payload):
    """An error of the handler."""
    _note("run", payload)
    raise ValueError("no such thing")


def fail_until_gate(payload):
    """An error until the gate is open, then nothing."""
    _note("run", payload)
    if not os.path.exists(os.path.join(_folder, "gate")):
        raise ValueError("not yet")


def blob_until_gate(payload):
    """An error until the gate is open, then what came, with its bytes."""
    _note("run")
    if not os.path.exists(os.path.join(_folder, "gate")):
        raise ValueError("not yet")
    return payload


def three(payload):
    """Three results."""
    for number in range(3):
        yield {"number": number}


def steer(payload):
    """Goes where the payload says."""
    yield "SET", ".route.next", payload["next"]
    yield payload


def headers(payload):
    """Two results; a header that is set before the second is on the second."""
    yield {"number": 0}
    yield "SET", ".headers.mark", "set by a"
    yield {"number": 1}


def double(payload):
    """Twice the bytes of the blob."""
    return {"data": bytes(payload["data"]) * 2}


def gated(payload):
    """Runs until the gate is open."""
    _note("begin", payload)
    _wait_for_gate()
    _note("end", payload)
    return payload


def obey(payload):
    """Does what the payload says, so that one actor can have good and bad messages together."""
    _note("begin", payload)
    if payload.get("do") == "sleep":
        time.sleep(3600)
    elif payload.get("do") == "exit":
        os._exit(7)
    elif payload.get("do") == "gate":
        _wait_for_gate()
    _note("end", payload)
    return payload


async def obey_async(payload):
    """The same, where a running call can be cancelled."""
    _note("begin", payload)
    if payload.get("do") == "sleep":
        await asyncio.sleep(3600)
    _note("end", payload)
    return payload


class Model:
    """Notes each time that it is loaded."""

    def __init__(self):
        _note("load")

    def predict(self, payload):
        _note("run", payload)
        return payload


def flaky(payload):
    """Raises what the payload says, the first so many times; each run is noted with its moment and what it is told of itself."""
    attempt = (yield "GET", ".status").get("attempt")
    os.write(_journal, (json.dumps({"what": "run", "pid": os.getpid(), "payload": payload, "at": time.time(), "attempt": attempt}) + "\n").encode())
    if attempt <= payload["failures"]:
        raise {"ValueError": ValueError, "KeyError": KeyError, "MemoryError": MemoryError}[payload.get("raises", "ValueError")]("not yet")
    yield payload


def later(payload):
    """Asks for a delay itself, once."""
    import asya

    attempt = (yield "GET", ".status").get("attempt")
    os.write(_journal, (json.dumps({"what": "run", "pid": os.getpid(), "payload": payload, "at": time.time(), "attempt": attempt}) + "\n").encode())
    if attempt == 1:
        raise asya.Retry("rate limited", after=payload["after"])
    yield payload


def attempt(payload):
    """Gives which attempt it is, once the gate is open; notes it before."""
    import asya

    number = asya.context().status["attempt"]
    _note("begin", number)
    _wait_for_gate()
    return {"attempt": number}
