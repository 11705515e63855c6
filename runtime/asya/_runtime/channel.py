"""One attachment to the sidecar: the two mappings, the two rings and the doorbells.

Takes: the `attach` packet with its descriptors; completions. Gives: submissions, in order; rings the bell.
Blocks on: `wait` alone. On failure: `Corrupt` when a sequence number is not the next, `Gone` when the sidecar has left.

Submissions are taken by one thread; completions may be posted by any.
"""

from __future__ import annotations

import mmap
import os
import select
import sys
import threading
import time
from collections import deque
from typing import Callable, Deque, Dict, List, Optional, Tuple

from . import layout
from .blob import Input
from .layout import CALL, CANCEL, ENTRY_BYTES, GRANT, REFUSE, Submission
from .memory import Nudge, OutputMemory, Pin, Pins
from .packets import Connection, Corrupt, Gone, Packet

# An entry must not wait longer than this for its bell while the worker goes on with the next calls.
BELL_NS = 200_000

# A system call to ring the bell costs about this much.
BELL_COST_NS = 1_000


# blobs, document offset, document length, payload length, parts offset, parts, meta length, meta offset, room offset,
# room length
Fields = Tuple[int, int, int, int, int, int, int, int, int, int]
NO_FIELDS: Fields = (0,) * 10


class Leave(BaseException):
    """This worker must end. No `Exception`, so that handlers do not swallow it."""


def _ignore(_: int) -> None:
    """Cancelling means nothing to calls that cannot be cancelled."""


class Channel:
    """The rings and the memory behind them."""

    def __init__(self, packet: Packet, descriptors: List[int], connection: Connection, parent: int) -> None:
        if packet.get("version") != layout.VERSION:
            raise Corrupt(f"attach has version {packet.get('version')!r}, this runtime speaks {layout.VERSION}")
        if sys.byteorder != "little":
            raise Corrupt("the rings are little endian, this machine is not")
        try:
            submit, complete = packet["submit_ring"], packet["complete_ring"]
            input_bytes, output_bytes = int(packet["input_bytes"]), int(packet["output_bytes"])
            input_file, output_file, self._submit_bell, self._complete_bell, self._lifeline = descriptors
        except (KeyError, TypeError, ValueError) as error:
            raise Corrupt(f"attach is not understood: {error!r}") from None
        self.generation = int(packet["generation"])
        self.max_result_bytes = int(packet["max_result_bytes"])
        self.nudge = Nudge()
        self.lock = threading.RLock()
        mapping = mmap.mmap(input_file, input_bytes, mmap.MAP_SHARED, mmap.PROT_READ)
        os.close(input_file)
        self.pins = Pins(mapping, self.nudge)
        self.input = Input(mapping, self.pins)
        self.output = OutputMemory(output_file, output_bytes)

        self._submissions = memoryview(mapping)[submit["offset"] :][: submit["entries"] * ENTRY_BYTES]
        self._submit_entries = int(submit["entries"])
        self._taken = 0
        self.complete_at = int(complete["offset"])
        self.complete_mask = int(complete["entries"]) - 1
        self.ring_memory = self.output.map  # entries go through this mapping even after the other was replaced
        self.words = memoryview(self.ring_memory).cast("Q")
        self.posted = 0
        self.rung = 0
        self.oldest_ns = 0
        """When the first entry that was not rung for was posted."""
        self.eager = 0
        """So many of the next calls ring at once: see `after_call`."""

        self.pending: Deque[Submission] = deque()
        self.waiting: Dict[int, Callable[[Submission], None]] = {}
        """Who waits for a GRANT or REFUSE, by call."""
        self.on_cancel: Callable[[int], None] = _ignore
        self.lost = False
        self._connection = connection
        self._parent = parent
        self._poll = select.poll()
        for descriptor in self.descriptors():
            self._poll.register(descriptor, select.POLLIN)

    def descriptors(self) -> List[int]:
        """What to wait for: bell, sidecar gone, supervisor gone, nudge."""
        watched = [self._submit_bell, self._connection.fileno(), self._lifeline, self.nudge.reader]
        return watched if self._parent < 0 else [*watched, self._parent]

    # Submissions

    def wait(self, timeout_ms: Optional[int] = None) -> None:
        """Block until something is ready; take what is. Raises `Gone` when the sidecar has left."""
        # To a busy worker the bell has been rung already: one system call instead of two. Who has left rings no more.
        if timeout_ms is None and self.take():
            return
        for descriptor, _ in self._poll.poll(timeout_ms):
            if descriptor == self._submit_bell:
                self.take()
            elif descriptor == self.nudge.reader:
                self.nudge.clear()
            elif descriptor == self._parent:
                raise Leave("the supervisor has gone")
            else:
                self.hear(descriptor)

    def hear(self, descriptor: int) -> None:
        """The control socket or the lifeline is ready."""
        if descriptor == self._connection.fileno():
            packet, unwanted = self._connection.receive()
            for extra in unwanted:
                os.close(extra)
            if packet.get("type") == "refused":
                raise Leave(f"the sidecar refused this worker: {packet.get('why')}")
            return
        raise Gone("the sidecar has closed its lifeline")

    def take(self) -> bool:
        """Take the entries that the bell announces: calls go to `pending`, answers to whom they are for. False: it was not rung."""
        try:
            count = int.from_bytes(os.read(self._submit_bell, 8), "little")
        except BlockingIOError:
            return False
        entries = self._submit_entries
        if count > entries:
            raise Corrupt(f"the bell announces {count} entries, the ring has {entries}")
        first = self._taken % entries
        ring = self._submissions
        end = first + count
        if end <= entries:
            batch = layout.SUBMISSION.iter_unpack(ring[first * ENTRY_BYTES : end * ENTRY_BYTES])
        else:
            wrapped = ring[first * ENTRY_BYTES :].tobytes() + ring[: (end - entries) * ENTRY_BYTES].tobytes()
            batch = layout.SUBMISSION.iter_unpack(wrapped)
        expected = self._taken
        append = self.pending.append
        for entry in batch:
            expected += 1
            if entry[0] != expected:
                raise Corrupt(f"entry {entry[0]} in the place of {expected}")
            if entry[1] == CALL:
                append(entry)
            else:
                self._control(entry)
        self._taken = expected
        return True

    def _control(self, entry: Submission) -> None:
        kind, call = entry[1], entry[4]
        if kind == GRANT or kind == REFUSE:
            answer = self.waiting.pop(call, None)
            if answer is not None:
                answer(entry)
        elif kind == CANCEL:
            self.on_cancel(call)
        else:
            raise Corrupt(f"entry of kind {kind}")

    # Completions

    def post(self, kind: int, flags: int, call: int, fields: Fields = NO_FIELDS, elapsed_ns: int = 0) -> None:
        """Write one entry. The bell is rung later."""
        blobs, document_at, document_len, payload_len, parts_at, parts, meta_len, meta_at, room_at, room_len = fields
        with self.lock:
            # The sidecar reads what a dead worker wrote and did not ring for; what was given up after the hang-up
            # would look like the handler's failure there.
            if self.lost:
                return
            number = self.posted
            at = self.complete_at + (number & self.complete_mask) * ENTRY_BYTES
            layout.COMPLETION_BODY.pack_into(
                self.ring_memory, at + 8, kind, flags, blobs, call, document_at, document_len, payload_len, parts_at,
                parts, meta_len, meta_at, elapsed_ns, room_at, room_len,
            )  # fmt: skip
            # The sequence last: when this process is killed half-way, the sidecar must not take the entry for whole.
            self.words[at >> 3] = number + 1
            if number == self.rung:
                self.oldest_ns = time.monotonic_ns()
            self.posted = number + 1

    def ring(self) -> None:
        """Ring for all that was posted."""
        with self.lock:
            # Read once: more may be posted, without the lock, while the system call below lets other threads run.
            posted = self.posted
            if posted != self.rung and not self.lost:
                os.write(self._complete_bell, layout.DOORBELL.pack(posted - self.rung))
                self.rung = posted

    def after_call(self, now_ns: int, elapsed_ns: int) -> None:
        """Ring if it is time.

        Before a long call all should have been rung for; but how long the next takes is not known, and `watch` rings
        late. A long call therefore buys bells for the calls that follow it: as many as fit into its own time, so that
        they never cost more than the calls themselves.
        """
        if elapsed_ns > BELL_NS:
            self.eager = min(elapsed_ns // BELL_COST_NS, 1 << 20)
        if self.eager or now_ns - self.oldest_ns >= BELL_NS:
            if self.eager:
                self.eager -= 1
            self.ring()

    def told_pinned(self, pin: Pin) -> None:
        """The last entry of a call was posted with PINNED; its views may have died since they were counted."""
        with self.lock:
            pin.told = True
            if not pin.live:
                self.post(layout.UNPINNED, 0, pin.call)

    def release_unpinned(self) -> None:
        """Tell which calls that ended pinned have been let go since."""
        if not self.pins.pending():
            return
        with self.lock:
            for call in self.pins.settle():
                self.post(layout.UNPINNED, 0, call)

    def close(self) -> None:
        """Close what was attached. Mappings go when the last view of them has died."""
        with self.lock:
            self.lost = True
            self.output.close()
            for descriptor in (self._submit_bell, self._complete_bell, self._lifeline):
                os.close(descriptor)

