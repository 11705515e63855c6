"""Async handlers: one asyncio loop that lives as long as the worker.

Takes: calls, in the order of the ring. Gives: their completions, as they come. Blocks on: nothing but the loop's own
wait; `asya.empty` alone may stop the loop for as long as the sidecar takes to grant room. On failure: the call fails,
not the worker; when the sidecar goes, what runs is cancelled and its results are thrown away.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any, Coroutine, Dict, List, Optional, Set

from . import sync
from .call import Call, current
from .channel import Channel
from .codec import Codec
from .failures import Reporter, ResultTooLargeError
from .handlers import Handler
from .layout import ALONE, MORE, Submission
from .packets import Gone
from .running import Desk, is_command

# From 3.12 a task may start at once, which spares a call that never waits a turn of the loop.
_EAGER = sys.version_info >= (3, 12)


class _Timer:
    """Cancels a task once it has run for so long; what it stands still does not count."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, task: Optional[asyncio.Task[Any]]) -> None:
        self._loop = loop
        self._left = seconds
        self._task = task
        self.expired = False
        self.resume()

    def resume(self) -> None:
        if self.expired:
            return
        self._since = self._loop.time()
        self._handle = self._loop.call_later(max(self._left, 0), self._expire)

    def pause(self) -> None:
        self._handle.cancel()
        self._left -= self._loop.time() - self._since

    def _expire(self) -> None:
        self.expired = True
        if self._task is not None:
            self._task.cancel()


class Loop:
    """The loop and the calls that run in it."""

    def __init__(self, handler: Handler, library: str, reporter: Reporter) -> None:
        self._handler = handler
        self._library = library
        self._reporter = reporter
        # Before 3.10, locks and events that the handler's module made at import are bound to the default loop.
        self._loop = asyncio.get_event_loop() if sys.version_info < (3, 10) else asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self._desk: Any = None
        self._channel: Any = None
        self._running: Dict[int, asyncio.Task[None]] = {}
        self._tasks: Set[asyncio.Task[None]] = set()
        self._timers: Dict[int, _Timer] = {}
        self._batch: List[Call] = []
        self._alone = False
        self._active = 0
        self._bell_due = False
        self._end: Optional[BaseException] = None

    def serve(self, channel: Channel) -> None:
        """Run calls until the sidecar has gone."""
        self._channel = channel
        self._desk = Desk(channel, self._handler, Codec(self._library), self._reporter)
        self._end = None
        channel.on_cancel = self._cancel
        for descriptor in channel.descriptors():
            self._loop.add_reader(descriptor, self._hear)
        try:
            self._hear()
            while self._end is None:
                try:
                    self._loop.run_forever()
                except SystemExit as error:
                    # Raised in a task that the handler started; those of calls never let it out.
                    self._reporter.error(error)
            raise self._end
        finally:
            for descriptor in channel.descriptors():
                self._loop.remove_reader(descriptor)
            self._abandon()

    def _abandon(self) -> None:
        self._channel.lost = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1))
        self._running.clear()
        self._tasks.clear()
        self._timers.clear()
        self._batch = []
        self._active = 0
        self._alone = False

    def _hear(self) -> None:
        """Something is ready: take it and start what may run."""
        try:
            self._channel.wait(0)
            self._start()
        except BaseException as error:
            self._end = error
            self._loop.stop()

    def _start(self) -> None:
        channel = self._channel
        channel.release_unpinned()
        pending = channel.pending
        most = self._handler.concurrency
        while pending and self._active < most and not self._alone:
            entry: Submission = pending[0]
            if entry[2] & ALONE:
                if self._active:
                    break
                self._alone = True
            pending.popleft()
            call = Call(channel, self._block_for_room).begin(entry)
            if self._handler.batch:
                self._batch.append(call)
                if entry[2] & MORE:
                    continue
                calls, self._batch = self._batch, []
                self._launch(calls, self._run_batch(calls))
            elif self._handler.kind == "async":
                self._launch([call], self._run_function(call))
            else:
                self._launch([call], self._run_generator(call))
        self._ring_later()

    def _launch(self, calls: List[Call], work: Coroutine[Any, Any, None]) -> None:
        self._active += 1
        main = self._main(calls, work)
        task: asyncio.Task[None]
        if _EAGER:
            task = asyncio.Task(main, loop=self._loop, eager_start=True)  # type: ignore[call-arg,unused-ignore]
            if task.done():
                return
        else:
            task = self._loop.create_task(main)
        self._tasks.add(task)
        for call in calls:
            self._running[call.number] = task

    async def _main(self, calls: List[Call], work: Coroutine[Any, Any, None]) -> None:
        """One call from start to end. Lets nothing out: a SystemExit would stop the loop."""
        try:
            await work
        except Gone:
            pass
        except BaseException as error:
            if not self._channel.lost:
                self._reporter.error(error)
        for call in calls:
            call.over = True
            self._running.pop(call.number, None)
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)
        if not calls[0].channel.lost:
            self._active -= 1
            self._alone = False
            self._ring_later()
            if self._channel.pending:
                self._loop.call_soon(self._start)

    def _ring_later(self) -> None:
        """Ring at the end of this turn of the loop, for everything that was posted in it."""
        if not self._bell_due and self._channel.posted != self._channel.rung:
            self._bell_due = True
            self._loop.call_soon(self._ring)

    def _ring(self) -> None:
        self._bell_due = False
        self._channel.ring()

    def _cancel(self, number: int) -> None:
        task = self._running.get(number)
        if task is not None:
            task.cancel()
            return
        # Not started yet: it must not start.
        for entry in list(self._channel.pending):
            if entry[4] == number:
                self._channel.pending.remove(entry)
                call = Call(self._channel, self._block_for_room).begin(entry)
                self._desk.fail(call, self._desk.failure(asyncio.CancelledError("cancelled before it started")), 0)
                self._ring_later()

    # Calls

    async def _limited(self, calls: List[Call], awaitable: Any) -> Any:
        """Await what the handler does, for as long as the call may take."""
        timeouts = [call.entry[10] for call in calls if call.entry[10]]
        if not timeouts:
            return await awaitable
        limit = min(timeouts)
        timer = _Timer(self._loop, limit / 1000, asyncio.current_task())
        for call in calls:
            self._timers[call.number] = timer
        try:
            return await awaitable
        except asyncio.CancelledError:
            if not timer.expired:
                raise
            raise TimeoutError(f"the call took longer than its timeout of {limit} ms") from None
        finally:
            timer.pause()
            for call in calls:
                # After another attachment the same number may be another call's.
                if self._timers.get(call.number) is timer:
                    del self._timers[call.number]

    async def _run_function(self, call: Call) -> None:
        desk = self._desk
        current.set(call)
        now = time.monotonic_ns
        started = now()
        elapsed = 0
        meta = b""
        fields = None
        try:
            value = desk.payload(call)
            started = now()
            value = await self._limited([call], desk.handler.call(value))
            elapsed = now() - started
            if value is not None:
                document = desk.codec.dumps(value)
                value = None
                fields = await self._write(call, document)
        except BaseException as error:
            value = None
            elapsed = now() - started
            meta = desk.failure(error)
        if fields is not None:
            desk.post_result(call, fields, True, elapsed)
        elif meta:
            await self._fail(call, meta, elapsed)
        else:
            desk.done(call, elapsed)

    async def _run_generator(self, call: Call) -> None:
        desk = self._desk
        current.set(call)
        started = time.monotonic_ns()
        meta = b""
        generator: Any = None
        try:
            generator = desk.handler.call(desk.payload(call))
            await self._limited([call], self._drive(call, generator))
        except BaseException as error:
            meta = desk.failure(error)
            try:
                if generator is not None:
                    await generator.aclose()
            except BaseException as second:
                desk.failure(second)
        generator = None
        elapsed = time.monotonic_ns() - started
        if meta:
            await self._fail(call, meta, elapsed)
        else:
            desk.done(call, elapsed)

    async def _drive(self, call: Call, generator: Any) -> None:
        desk = self._desk
        resume: Any = generator.asend
        answer: Any = None
        while True:
            try:
                value = await resume(answer)
            except StopAsyncIteration:
                return
            resume, answer = generator.asend, None
            if value is None:
                continue
            if is_command(value):
                try:
                    answer = desk.command(call, value)
                except Exception as error:  # raised where it was yielded, so that the handler can catch it
                    resume, answer = generator.athrow, error
                continue
            document = desk.codec.dumps(value)
            value = None
            fields = await self._write(call, document)
            desk.post_result(call, fields, False, 0)
            desk.channel.ring()

    async def _run_batch(self, calls: List[Call]) -> None:
        desk = self._desk
        payloads: List[Any] = []
        live = sync.decode_batch(desk, calls, payloads)
        if not live:
            return
        current.set(live)
        started = time.monotonic_ns()
        meta = b""
        results: List[Any] = []
        try:
            found = await self._limited(live, desk.handler.call(payloads))
            elapsed = time.monotonic_ns() - started
            results = sync.check_batch(found, len(live))
            found = None
        except BaseException as error:
            elapsed = time.monotonic_ns() - started
            meta = desk.failure(error)
        payloads = []
        results.reverse()
        for call in live:
            if meta:
                await self._fail(call, meta, elapsed)
            else:
                await self._answer_item(call, results, elapsed)

    async def _answer_item(self, call: Call, results: List[Any], elapsed: int) -> None:
        desk = self._desk
        meta = b""
        fields = None
        try:
            value = results.pop()
            if isinstance(value, BaseException):
                raise value
            if value is not None:
                document = desk.codec.dumps(value)
                value = None
                fields = await self._write(call, document)
        except BaseException as error:
            value = None
            meta = desk.failure(error)
        if fields is not None:
            desk.post_result(call, fields, True, elapsed)
        elif meta:
            await self._fail(call, meta, elapsed)
        else:
            desk.done(call, elapsed)

    # Room

    def _block_for_room(self, call: Call, needs: int) -> None:
        """For `asya.empty`, which cannot await. What is heard meanwhile is started afterwards."""
        try:
            sync.wait_for_room(call, needs)
        finally:
            self._loop.call_soon(self._start)

    async def _write(self, call: Call, document: bytes) -> Any:
        result = self._desk.ready(call, document)
        needs = result.wanting()
        if needs:
            await self._room(call, needs)
        return result.write()

    async def _fail(self, call: Call, meta: bytes, elapsed: int) -> None:
        needs = self._desk.error_needs(call, meta)
        if needs:
            try:
                await self._room(call, needs)
            except ResultTooLargeError:
                meta = b""
        self._desk.post_error(call, meta, elapsed)

    async def _room(self, call: Call, needs: int) -> None:
        answer: asyncio.Future[Submission] = self._loop.create_future()

        def heard(entry: Submission) -> None:
            if not answer.done():
                answer.set_result(entry)

        sync.ask_for_room(call, needs, heard)
        # Room comes when results have left: how long that takes is the broker's time and not the call's.
        timer = self._timers.get(call.number)
        if timer is not None:
            timer.pause()
        cancelled: Optional[asyncio.CancelledError] = None
        while not answer.done():
            try:
                await asyncio.shield(answer)
            except asyncio.CancelledError as error:
                # The sidecar answers every request once; until then this call must not make another one, and it will
                # want room for telling that it was cancelled.
                if call.channel.lost:
                    raise
                cancelled = error
        if timer is not None:
            timer.resume()
        sync.take_room(call, needs, answer.result())
        if cancelled is not None:
            raise cancelled
