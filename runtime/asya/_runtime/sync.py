"""Handlers that block: one call at a time in the main thread.

Takes: calls, in the order of the ring. Gives: their completions. Blocks on: the rings, room, and the handler itself.
On failure: the call fails, not the worker; `Gone` and `Leave` end the loop.

`serve_functions` is the hot path: there, an entry is decoded, called, encoded and posted without any object made for
the call but the payload and its result.
"""

from __future__ import annotations

import time
from typing import Any, List, Sequence

from .call import Call, current
from .channel import BELL_NS, Channel
from .failures import ResultTooLargeError
from .layout import COMPLETION_BODY, ENTRY_BYTES, LAST, MORE, REFUSE, RESULT, ROOM, Submission
from .packets import Corrupt
from .running import Desk, is_command
from .watch import BellWatch


def wait_for_room(call: Call, needs: int) -> None:
    """Exchange the call's room for one of at least so many bytes."""
    channel = call.channel
    answers: List[Submission] = []
    ask_for_room(call, needs, answers.append)
    while not answers:
        channel.wait()
    take_room(call, needs, answers[0])


def ask_for_room(call: Call, needs: int, answer: Any) -> None:
    """Post ROOM and ring."""
    channel = call.channel
    channel.waiting[call.number] = answer
    room_at, room_len = call.room_at, call.room_len
    call.leave_room()
    channel.post(ROOM, 0, call.number, (0, 0, needs, 0, 0, 0, 0, 0, room_at, room_len))
    channel.ring()


def take_room(call: Call, needs: int, entry: Submission) -> None:
    """Take what a GRANT gives; a REFUSE becomes an exception."""
    if entry[1] == REFUSE:
        raise ResultTooLargeError(f"the result needs {needs} bytes, and the sidecar grants at most {entry[7]}")
    if entry[12] < needs:
        raise Corrupt(f"a room of {entry[12]} bytes was granted, {needs} were asked for")
    call.room_at, call.room_len = entry[11], entry[12]


def serve(desk: Desk) -> None:
    """Run calls for ever."""
    if desk.handler.batch:
        serve_batches(desk)
    elif desk.handler.kind == "generator":
        serve_generators(desk)
    else:
        watch = BellWatch(desk.channel)
        try:
            serve_functions(desk, watch)
        finally:
            watch.stop()


def next_entry(channel: Channel) -> Submission:
    """The next call, after everything that was posted has been rung for."""
    pending = channel.pending
    while not pending:
        channel.release_unpinned()
        channel.ring()
        channel.wait()
    return pending.popleft()


def serve_functions(desk: Desk, watch: BellWatch) -> None:
    """The hot path."""
    channel, codec = desk.channel, desk.codec
    handler, loads, dumps = desk.handler.call, codec.loads, codec.dumps
    pending, source = channel.pending, channel.input.map
    pop, now, pack = pending.popleft, time.monotonic_ns, COMPLETION_BODY.pack_into
    ring_memory, words, complete_at, mask = channel.ring_memory, channel.words, channel.complete_at, channel.complete_mask
    call = Call(channel, wait_for_room)
    current.set(call)
    flags = 0
    while True:
        if not pending:
            channel.release_unpinned()
            if channel.posted != channel.rung:
                channel.ring()
            channel.wait()
            continue
        if channel.oldest_ns > watch.due_ns and channel.posted != channel.rung:
            watch.put_off()
        entry = pop()
        _, _, _, blobs, number, start, length, _, _, _, _, room_at, room_len = entry
        call.entry = entry
        call.number = number
        call.room_at = room_at
        call.room_len = room_len
        meta = b""
        fields = None
        started = 0
        try:
            value = desk.payload(call) if blobs else loads(source[start : start + length])
            started = now()
            value = handler(value)
            elapsed = now() - started
            if value is None:
                desk.done(call, elapsed)
            else:
                document = dumps(value)
                value = None
                size = len(document)
                if size <= room_len and not (codec.blobs or blobs or call.used) and call.room_len == room_len:
                    channel.output.map[room_at : room_at + size] = document
                    flags = LAST if flags else LAST | desk.library_flag()
                    posted = channel.posted
                    at = complete_at + (posted & mask) * ENTRY_BYTES
                    pack(
                        ring_memory, at + 8, RESULT, flags, 0, number, room_at, size, size, 0, 0, 0, 0, elapsed, room_at,
                        room_len,
                    )  # fmt: skip
                    words[at >> 3] = posted + 1
                    if posted == channel.rung:
                        channel.oldest_ns = started + elapsed
                    channel.posted = posted + 1
                else:
                    fields = desk.write(call, document)
        except BaseException as error:
            value = None
            elapsed = now() - started if started else 0
            meta = desk.failure(error)
        if fields is not None:
            desk.post_result(call, fields, True, elapsed)
        elif meta:
            desk.fail(call, meta, elapsed)
        if channel.eager or elapsed > BELL_NS or started + elapsed - channel.oldest_ns > BELL_NS:
            channel.after_call(started + elapsed, elapsed)


def serve_generators(desk: Desk) -> None:
    """One generator after another."""
    call = Call(desk.channel, wait_for_room)
    current.set(call)
    while True:
        call.begin(next_entry(desk.channel))
        run_generator(desk, call)
        desk.channel.ring()


def run_function(desk: Desk, call: Call) -> int:
    """One call of a function; gives how long it took."""
    now = time.monotonic_ns
    started = now()
    meta = b""
    fields = None
    elapsed = 0
    try:
        value = desk.payload(call)
        started = now()
        value = desk.handler.call(value)
        elapsed = now() - started
        if value is not None:
            document = desk.codec.dumps(value)
            value = None
            fields = desk.write(call, document)
    except BaseException as error:
        value = None
        elapsed = now() - started
        meta = desk.failure(error)
    if fields is not None:
        desk.post_result(call, fields, True, elapsed)
    elif meta:
        desk.fail(call, meta, elapsed)
    else:
        desk.done(call, elapsed)
    return elapsed


def run_generator(desk: Desk, call: Call) -> None:
    """One call of a generator: each value is sent on at once, each command answered."""
    call.edits = None
    started = time.monotonic_ns()
    meta = b""
    generator: Any = None
    try:
        generator = desk.handler.call(desk.payload(call))
        resume: Any = generator.send
        answer: Any = None
        while True:
            try:
                value = resume(answer)
            except StopIteration:
                break
            resume, answer = generator.send, None
            if value is None:
                continue
            if is_command(value):
                try:
                    answer = desk.command(call, value)
                except Exception as error:  # raised where it was yielded, so that the handler can catch it
                    resume, answer = generator.throw, error
                continue
            document = desk.codec.dumps(value)
            value = None
            fields = desk.write(call, document)
            desk.post_result(call, fields, False, 0)
            desk.channel.ring()
    except BaseException as error:
        meta = desk.failure(error)
        value = None
        _close(desk, generator)
    generator = None
    elapsed = time.monotonic_ns() - started
    if meta:
        desk.fail(call, meta, elapsed)
    else:
        desk.done(call, elapsed)


def _close(desk: Desk, generator: Any) -> None:
    """Let a generator that fails for a reason of ours clean up. What it raises then is only reported."""
    try:
        if generator is not None:
            generator.close()
    except BaseException as error:
        desk.failure(error)


def serve_batches(desk: Desk) -> None:
    """One batch after another."""
    channel = desk.channel
    while True:
        elapsed = run_batch(desk, take_batch(desk, lambda: next_entry(channel)))
        channel.after_call(time.monotonic_ns(), elapsed)


def take_batch(desk: Desk, following: Any) -> List[Call]:
    """The calls of the next batch: all up to the first that says that no more follow."""
    calls = []
    while True:
        entry = following()
        calls.append(Call(desk.channel, wait_for_room).begin(entry))
        if not entry[2] & MORE:
            return calls


def decode_batch(desk: Desk, calls: Sequence[Call], payloads: List[Any]) -> List[Call]:
    """Decode all payloads; those that cannot be decoded fail at once. Gives the calls that go on."""
    live = []
    for call in calls:
        try:
            payloads.append(desk.payload(call))
        except Exception as error:
            meta = desk.failure(error)
        else:
            live.append(call)
            continue
        desk.fail(call, meta, 0)
    return live


def check_batch(results: Any, wanted: int) -> List[Any]:
    """The results of a batch, one for each payload."""
    if not isinstance(results, (list, tuple)):
        raise TypeError(
            f"a handler of batches returns a list with one result for each payload; it returned {type(results).__name__}"
        )
    if len(results) != wanted:
        raise ValueError(f"the handler was given {wanted} payloads and returned {len(results)} results")
    return list(results)


def run_batch(desk: Desk, calls: Sequence[Call]) -> int:
    """One call of a handler of batches."""
    payloads: List[Any] = []
    live = decode_batch(desk, calls, payloads)
    if not live:
        return 0
    # Nobody knows how long the handler will take.
    desk.channel.ring()
    token = current.set(live)
    started = time.monotonic_ns()
    meta = b""
    results: List[Any] = []
    try:
        found = desk.handler.call(payloads)
        elapsed = time.monotonic_ns() - started
        results = check_batch(found, len(live))
        found = None
    except BaseException as error:
        elapsed = time.monotonic_ns() - started
        meta = desk.failure(error)
    finally:
        current.reset(token)
    payloads = []
    results.reverse()
    for call in live:
        if meta:
            desk.fail(call, meta, elapsed)
        else:
            answer_item(desk, call, results, elapsed)
    return elapsed


def answer_item(desk: Desk, call: Call, results: List[Any], elapsed: int) -> None:
    """Answer one call of a batch with the last of the results, which it takes away."""
    meta = b""
    fields = None
    try:
        value = results.pop()
        if isinstance(value, BaseException):
            raise value
        if value is not None:
            document = desk.codec.dumps(value)
            value = None
            fields = desk.write(call, document)
    except BaseException as error:
        value = None
        meta = desk.failure(error)
    if fields is not None:
        desk.post_result(call, fields, True, elapsed)
    elif meta:
        desk.fail(call, meta, elapsed)
    else:
        desk.done(call, elapsed)
