"""Handlers that block, several at once: a fixed number of threads.

Takes: calls, in the order of the ring. Gives: their completions, as they come. Blocks on: the rings in the main thread;
room and the handler in the others. On failure: the call fails, not the worker; `Gone` and `Leave` end the main
thread's loop, and threads that still run throw their results away.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, List, Optional, Sequence

from .call import Call, current
from .channel import Channel
from .codec import Codec
from .failures import Reporter
from .handlers import Handler
from .layout import ALONE, Submission
from .packets import Gone
from .running import Desk
from .sync import ask_for_room, next_entry, run_batch, run_function, run_generator, take_batch, take_room


def _wait_for_room(call: Call, needs: int) -> None:
    """As in `sync`, but it is the main thread that hears the answer."""
    answers: queue.SimpleQueue[Optional[Submission]] = queue.SimpleQueue()
    channel = call.channel
    with channel.lock:
        if channel.lost:
            raise Gone("the sidecar has gone")
        ask_for_room(call, needs, answers.put)
    entry = answers.get()
    if entry is None:
        raise Gone("the sidecar has gone")
    take_room(call, needs, entry)


class Threads:
    """The threads, which outlive an attachment: a new one finds them running, or finishing what nobody waits for."""

    def __init__(self, handler: Handler, library: str, reporter: Reporter) -> None:
        self._handler = handler
        self._library = library
        self._reporter = reporter
        self._work: queue.SimpleQueue[List[Call]] = queue.SimpleQueue()
        self._running = 0
        self._idle = threading.Condition()
        for index in range(handler.concurrency):
            threading.Thread(target=self._run, name=f"asya-{index}", daemon=True).start()

    def serve(self, channel: Channel) -> None:
        """Hand out calls for ever."""
        desk = Desk(channel, self._handler, Codec(self._library), self._reporter)
        try:
            while True:
                if self._handler.batch:
                    calls = take_batch(desk, lambda: next_entry(channel))
                else:
                    calls = [Call(channel, _wait_for_room).begin(next_entry(channel))]
                for call in calls:
                    call.rooms = _wait_for_room
                self._start(channel, calls)
        finally:
            # Whoever waits for room waits in vain; there is nobody left to answer.
            with channel.lock:
                channel.lost = True
                waiting, channel.waiting = channel.waiting, {}
            for answer in waiting.values():
                answer(None)  # type: ignore[arg-type]

    def _start(self, channel: Channel, calls: List[Call]) -> None:
        """Give the calls to a thread, once one may take them; hear the sidecar meanwhile."""
        alone = bool(calls[0].entry[2] & ALONE)
        most = 1 if alone else self._handler.concurrency
        self._until(channel, most)
        with self._idle:
            self._running += 1
        self._work.put(calls)
        if alone:
            self._until(channel, 1)

    def _until(self, channel: Channel, most: int) -> None:
        """Wait until fewer than `most` calls run. Every thread that finishes nudges the channel."""
        while self._running >= most:
            channel.release_unpinned()
            channel.ring()
            channel.wait()

    def _run(self) -> None:
        desk: Optional[Desk] = None
        while True:
            calls = self._work.get()
            channel = calls[0].channel
            if desk is None or desk.channel is not channel:
                desk = Desk(channel, self._handler, Codec(self._library), self._reporter)
            try:
                self._one(desk, calls)
                channel.ring()
            except Gone:
                pass  # the result has nowhere to go
            except BaseException as error:
                self._reporter.error(error)
            for call in calls:
                call.over = True
            with self._idle:
                self._running -= 1
            channel.nudge()
            calls, channel = [], desk.channel

    def _one(self, desk: Desk, calls: Sequence[Call]) -> Any:
        if self._handler.batch:
            return run_batch(desk, calls)
        current.set(calls[0])
        if self._handler.kind == "generator":
            return run_generator(desk, calls[0])
        return run_function(desk, calls[0])
