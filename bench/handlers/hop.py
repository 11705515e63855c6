"""What the benchmark's actor does: as little as a handler can do and still be seen to have done it."""

import os
import struct
import time


def add_one(payload):
    """Read one field and add one to it; a blob beside it travels on as it is."""
    payload["n"] += 1
    return payload


# So many calls are written down at once: what a benchmark does to itself between two calls is not the actor's.
_CALLS_PER_WRITE = 100
_calls = []
_times = os.open(os.environ["BENCH_TIMES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND) if "BENCH_TIMES" in os.environ else None


def five_milliseconds(payload):
    """Be busy for 5 ms, as with a call of a model, and write down from when to when."""
    begin = time.monotonic()
    time.sleep(0.005)
    _calls.extend((begin, time.monotonic()))
    if len(_calls) == 2 * _CALLS_PER_WRITE:
        os.write(_times, struct.pack(f"<{len(_calls)}d", *_calls))
        _calls.clear()
    payload["n"] += 1
    return payload
