"""A sidecar for tests: it drives the real supervisor and workers over a real socket, memfds and eventfds.

It keeps to docs/RING.md from the other side, checks every entry that a worker posts as the real one does, and does
nothing clever: memory is handed out from front to back, again from the front when it ends.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import json
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from asya._runtime.layout import (
    ALONE,
    CALL,
    CANCEL,
    COMPLETION_BODY,
    DONE,
    ENTRY_BYTES,
    ERROR,
    GRANT,
    LAST,
    MORE,
    PART,
    REFUSE,
    RESULT,
    ROOM,
    SUBMISSION,
    TABLE_ENTRY,
    UNPINNED,
    aligned,
)

WATCHDOG_SECONDS = 30.0

_F_ADD_SEALS, _SEAL, _SHRINK, _GROW, _FUTURE_WRITE = 1033, 1, 2, 4, 16
_libc = ctypes.CDLL(None, use_errno=True)


def eventfd() -> int:
    """A non-blocking eventfd (`os.eventfd` is there from 3.10 on only)."""
    return int(_libc.eventfd(0, os.O_NONBLOCK | os.O_CLOEXEC))


def memfd(name: str, size: int) -> int:
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


@dataclass
class OutBlob:
    """A blob to send or one received."""

    dtype: str
    shape: Tuple[int, ...]
    data: bytes


def section(document: bytes, blobs: Sequence[OutBlob]) -> bytes:
    """A payload section."""
    if not blobs:
        return document
    out = bytearray(document)
    out.extend(bytes(aligned(len(out)) - len(out)))
    offset = len(out) + 128 * len(blobs)
    for blob in blobs:
        axes = (*blob.shape, *(0,) * (8 - len(blob.shape)))
        out += TABLE_ENTRY.pack(blob.dtype.encode(), len(blob.shape), 0, *axes, offset, len(blob.data), bytes(24))
        offset = aligned(offset + len(blob.data))
    for blob in blobs:
        out.extend(bytes(aligned(len(out)) - len(out)))
        out += blob.data
    return bytes(out)


def parse_section(content: bytes, document_len: int, count: int) -> Tuple[Any, List[OutBlob]]:
    document = json.loads(content[:document_len])
    blobs = []
    table = aligned(document_len)
    if count:
        assert content[document_len:table] == bytes(table - document_len), "padding is not zero"
    end = document_len
    for index in range(count):
        name, dimensions, flags, *numbers = TABLE_ENTRY.unpack_from(content, table + 128 * index)
        offset, length, reserved = numbers[8:]
        assert reserved == bytes(24) and flags == 0 and offset % 64 == 0 and not any(numbers[dimensions:8])
        blobs.append(OutBlob(name.rstrip(b"\0").decode(), tuple(numbers[:dimensions]), content[offset : offset + length]))
        end = offset + length
    assert end == len(content), "the section ends with its last blob"
    return document, blobs


@dataclass
class Completion:
    kind: int
    flags: int
    call: int
    document: Any = None
    blobs: List[OutBlob] = field(default_factory=list)
    meta: Dict[str, Any] = field(default_factory=dict)
    wanted: int = 0
    parts: List[Tuple[int, int, int]] = field(default_factory=list)
    elapsed_ns: int = 0
    raw: bytes = b""
    bell: int = 0
    """Which ring of the bell announced it."""

    @property
    def last(self) -> bool:
        return bool(self.flags & LAST)


class Gone(Exception):
    """The worker's socket is closed."""


class Peer:
    """One accepted connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.packets: List[Dict[str, Any]] = []

    def send(self, packet: Dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self.socket.sendmsg([json.dumps(packet).encode()], ancillary)

    def receive(self, seconds: float = WATCHDOG_SECONDS) -> Dict[str, Any]:
        self.socket.settimeout(seconds)
        try:
            body = self.socket.recv(65536)
        except ConnectionResetError:
            body = b""
        except socket.timeout:
            raise AssertionError("no packet came") from None
        if not body:
            raise Gone
        packet: Dict[str, Any] = json.loads(body)
        return packet

    def close(self) -> None:
        self.socket.close()


class Worker:
    """The sidecar's half of one worker."""

    def __init__(
        self, peer: Peer, index: int, generation: int, pid: int, *, input_bytes: int = 1 << 22, output_bytes: int = 1 << 22,
        entries: int = 64, max_result_bytes: int = 1 << 20, room: int = 4096 * 4,
    ) -> None:  # fmt: skip
        self.peer, self.index, self.generation, self.pid = peer, index, generation, pid
        self.entries = entries
        self.max_result_bytes = max_result_bytes
        self.room = room
        self.ready: Dict[str, Any] = {}
        ring_bytes = aligned4k(entries * ENTRY_BYTES)
        self.input_bytes, self.output_bytes = input_bytes, output_bytes
        self.input_fd = memfd("asya-input", input_bytes)
        self.input = mmap.mmap(self.input_fd, input_bytes)
        fcntl.fcntl(self.input_fd, _F_ADD_SEALS, _SHRINK | _GROW | _FUTURE_WRITE | _SEAL)
        self.output_fd = memfd("asya-output", output_bytes)
        fcntl.fcntl(self.output_fd, _F_ADD_SEALS, _SHRINK | _GROW | _SEAL)
        self.output = mmap.mmap(self.output_fd, output_bytes)
        self.submit_bell, self.complete_bell = eventfd(), eventfd()
        self.lifeline_reader, self.lifeline = os.pipe()
        self.submitted = self.rung = self.completed = self.bells = 0
        self.front = self.input_front = ring_bytes
        self.output_front = self.output_start = ring_bytes
        self.next_call = 100
        self.open: Dict[int, Dict[str, Any]] = {}
        self.pinned: List[int] = []
        self.auto_grant = True
        self.waiting: List[Completion] = []
        self.rooms_in_use: Dict[int, int] = {}

    def attach(self) -> None:
        descriptors = [self.input_fd, self.output_fd, self.submit_bell, self.complete_bell, self.lifeline_reader]
        self.peer.send(
            {
                "type": "attach", "version": 1, "worker": self.index, "generation": self.generation,
                "input_bytes": self.input_bytes, "output_bytes": self.output_bytes,
                "submit_ring": {"offset": 0, "entries": self.entries},
                "complete_ring": {"offset": 0, "entries": self.entries},
                "max_result_bytes": self.max_result_bytes,
            },
            descriptors,
        )  # fmt: skip

    # Memory

    def put(self, content: bytes, align: int = 64) -> int:
        at = (self.front + align - 1) // align * align
        if at + len(content) > self.input_bytes:
            at = self.input_front
        self.front = at + len(content)
        self.input[at : at + len(content)] = content
        return at

    def take_room(self, size: int) -> int:
        size = aligned4k(size)
        at = self.output_front
        if at + size > self.output_bytes:
            at = self.output_start
        self.output_front = at + size
        return at

    # Submissions

    def entry(self, **fields: int) -> None:
        order = (
            "kind", "flags", "blobs", "call", "payload_at", "document_len", "payload_len", "context_at", "context_len",
            "timeout_ms", "room_at", "room_len",
        )  # fmt: skip
        number = self.submitted
        values = [fields.get(name, 0) for name in order]
        at = (number % self.entries) * ENTRY_BYTES
        SUBMISSION.pack_into(self.input, at, fields.get("sequence", number + 1), *values)
        self.submitted += 1

    def ring(self) -> None:
        count = self.submitted - self.rung
        if count:
            os.write(self.submit_bell, struct.pack("=Q", count))
            self.rung = self.submitted

    def call(
        self, document: Any, blobs: Sequence[OutBlob] = (), *, context: Optional[Dict[str, Any]] = None, flags: int = 0,
        timeout_ms: int = 0, room: Optional[int] = None, raw: Optional[bytes] = None, ring: bool = True,
        payload: Optional[bytes] = None, fields: Optional[Dict[str, int]] = None,
    ) -> int:  # fmt: skip
        """Submit one call; gives its number."""
        encoded = raw if raw is not None else json.dumps(document).encode()
        content = payload if payload is not None else section(encoded, blobs)
        told = context if context is not None else default_context()
        context_bytes = json.dumps(told).encode()
        number = self.next_call
        self.next_call += 1
        room_len = aligned4k(self.room if room is None else room)
        room_at = self.take_room(room_len) if room_len else 0
        payload_at = self.put(content)
        values = dict(
            kind=CALL, flags=flags, blobs=len(blobs), call=number, payload_at=payload_at, document_len=len(encoded),
            payload_len=len(content), context_at=self.put(context_bytes), context_len=len(context_bytes),
            timeout_ms=timeout_ms, room_at=room_at, room_len=room_len,
        )  # fmt: skip
        values.update(fields or {})
        self.entry(**values)
        self.open[number] = {"rooms": {room_at: room_len} if room_len else {}, "payload": (payload_at, len(content))}
        if ring:
            self.ring()
        return number

    def cancel(self, call: int) -> None:
        self.entry(kind=CANCEL, call=call)
        self.ring()

    def grant(self, call: int, size: int) -> None:
        room_len = aligned4k(size)
        room_at = self.take_room(room_len)
        self.open[call]["rooms"][room_at] = room_len
        self.entry(kind=GRANT, call=call, room_at=room_at, room_len=room_len)
        self.ring()

    def refuse(self, call: int) -> None:
        self.entry(kind=REFUSE, call=call, payload_len=self.max_result_bytes)
        self.ring()

    # Completions

    def poll(self, seconds: float = WATCHDOG_SECONDS) -> List[Completion]:
        """What has been rung for, waiting for it at most so long. Grants and refuses by itself."""
        poller = select.poll()
        poller.register(self.complete_bell, select.POLLIN)
        poller.register(self.peer.socket.fileno(), select.POLLIN)
        ready = [descriptor for descriptor, _ in poller.poll(seconds * 1000)]
        if self.complete_bell in ready:
            count = int.from_bytes(os.read(self.complete_bell, 8), "little")
            self.bells += 1
            return [self._completion() for _ in range(count)]
        if ready:
            packet = self.peer.receive()
            raise AssertionError(f"unexpected packet {packet}")
        return []

    def left_behind(self) -> List[Completion]:
        """After the worker died: entries that it wrote and did not ring for."""
        found = []
        while True:
            at = (self.completed % self.entries) * ENTRY_BYTES
            if struct.unpack_from("<Q", self.output, at)[0] != self.completed + 1:
                return found
            found.append(self._completion())

    def _completion(self) -> Completion:
        number = self.completed
        at = (number % self.entries) * ENTRY_BYTES
        sequence = struct.unpack_from("<Q", self.output, at)[0]
        assert sequence == number + 1, f"sequence {sequence} in the place of {number + 1}"
        assert self.output[at + 96 : at + 128] == bytes(32), "reserved bytes are not zero"
        (
            kind, flags, blobs, call, document_at, document_len, payload_len, parts_at, parts, meta_len, meta_at,
            elapsed_ns, room_at, room_len,
        ) = COMPLETION_BODY.unpack_from(self.output, at + 8)  # fmt: skip
        self.completed += 1
        found = Completion(kind, flags, call, elapsed_ns=elapsed_ns, bell=self.bells)
        if kind == UNPINNED:
            assert call in self.pinned, f"call {call} was not pinned"
            self.pinned.remove(call)
            return found
        state = self.open[call]
        if room_len:
            assert state["rooms"].get(room_at) == room_len, "the room is not as granted"

        def inside(start: int, length: int) -> bool:
            return room_at <= start and start + length <= room_at + room_len

        if kind == ROOM:
            found.wanted = document_len
            assert document_len
            if room_len:
                del state["rooms"][room_at]
            if self.auto_grant:
                if document_len <= self.max_result_bytes + 65536:
                    self.grant(call, document_len)
                else:
                    self.refuse(call)
            else:
                self.waiting.append(found)
            return found
        if meta_len:
            assert inside(meta_at, meta_len)
            found.meta = json.loads(self.output[meta_at : meta_at + meta_len])
        if kind == RESULT:
            assert inside(document_at, document_len)
            assert payload_len <= self.max_result_bytes
            if parts:
                assert parts <= 64 and parts_at % 8 == 0 and inside(parts_at, parts * 24)
                pieces = []
                for index in range(parts):
                    region, reserved, offset, length = PART.unpack_from(self.output, parts_at + index * 24)
                    assert reserved == 0 and region in (0, 1)
                    found.parts.append((region, offset, length))
                    if region == 0:
                        assert inside(offset, length)
                        pieces.append(self.output[offset : offset + length])
                    else:
                        start, size = state["payload"]
                        assert start <= offset and offset + length <= start + size
                        pieces.append(self.input[offset : offset + length])
                content = b"".join(pieces)
                assert len(content) == payload_len
            else:
                assert inside(document_at, payload_len)
                content = self.output[document_at : document_at + payload_len]
            found.raw = content
            found.document, found.blobs = parse_section(content, document_len, blobs)
            del state["rooms"][room_at]
        if flags & LAST:
            del self.open[call]
            if flags & 2:
                self.pinned.append(call)
        if kind in (DONE, ERROR):
            assert flags & LAST
        return found

    def until(self, condition: Callable[[List[Completion]], bool]) -> List[Completion]:
        """Completions until the condition holds."""
        found: List[Completion] = []
        deadline = time.monotonic() + WATCHDOG_SECONDS
        while not condition(found):
            assert time.monotonic() < deadline, f"only {found}"
            found += self.poll(1.0)
        return found

    def finish(self, *calls: int) -> List[Completion]:
        """Everything until these calls have ended."""
        return self.until(lambda found: all(call not in self.open for call in calls))

    def run(self, document: Any, blobs: Sequence[OutBlob] = (), **options: Any) -> List[Completion]:
        """One call, start to end, without the entries that ask for room."""
        number = self.call(document, blobs, **options)
        return [one for one in self.finish(number) if one.kind not in (ROOM, UNPINNED)]

    def one(self, document: Any, blobs: Sequence[OutBlob] = (), **options: Any) -> Completion:
        """One call that gives one completion."""
        found = self.run(document, blobs, **options)
        assert len(found) == 1 and found[0].last, found
        return found[0]

    def close(self) -> None:
        """As if the sidecar died: everything of this attachment is closed."""
        self.peer.close()
        for descriptor in (
            self.input_fd, self.output_fd, self.submit_bell, self.complete_bell, self.lifeline, self.lifeline_reader,
        ):  # fmt: skip
            os.close(descriptor)


def aligned4k(number: int) -> int:
    return (number + 4095) // 4096 * 4096


def default_context() -> Dict[str, Any]:
    return {
        "id": "m-1",
        "route": {"prev": ["first"], "curr": "here", "next": ["there", "last"]},
        "headers": {"x-tenant": "blue", "x.dotted": 1},
        "status": {"phase": "processing", "attempt": 1},
    }


class Sidecar:
    """Listens, starts the supervisor as a child and keeps track of who dials."""

    def __init__(
        self, folder: Path, program: Sequence[str], *, env: Optional[Dict[str, str]] = None, workers: int = 1,
        config: Optional[Dict[str, Any]] = None, python: str = sys.executable, memory: Optional[Dict[str, int]] = None,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.workers_wanted = workers
        self.config = config or {}
        self.memory = memory or {}
        self.generation = 0
        self.stderr_path = folder / "stderr.txt"
        self.listen()
        environ = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environ.update({"ASYA_SOCKET_DIR": str(folder), "ASYA_ACTOR_NAME": "tested", "PYTHONDONTWRITEBYTECODE": "1"})
        environ.update(env or {})
        self.process = subprocess.Popen(
            [python, *program], env=environ, cwd=folder, stderr=self.stderr_path.open("wb"), preexec_fn=_die_with_parent
        )
        self.supervisor: Any = None

    def listen(self) -> None:
        path = self.folder / "asya-sidecar.sock"
        path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(path))
        self.listener.listen(8)

    def accept(self) -> Peer:
        self.listener.settimeout(WATCHDOG_SECONDS)
        connection, _ = self.listener.accept()
        return Peer(connection)

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text()

    def meet_supervisor(self) -> Dict[str, Any]:
        self.supervisor = self.accept()
        hello: Dict[str, Any] = self.supervisor.receive()
        assert hello["type"] == "supervisor" and hello["version"] == 1
        return hello

    def next_generation(self) -> int:
        self.generation += 1
        return self.generation

    def start_workers(self) -> None:
        self.generations = [self.next_generation() for _ in range(self.workers_wanted)]
        self.supervisor.send(
            {"type": "start", "workers": self.workers_wanted, "generations": self.generations, "config": self.config}
        )

    def meet_worker(self, *, expect: str = "ready", generation: Optional[int] = None) -> Any:
        """Accept a worker and attach it; gives it once it is ready (or its `failed` packet)."""
        peer = self.accept()
        hello = peer.receive()
        assert hello["type"] == "worker" and hello["version"] == 1
        given = hello["generation"] or generation or self.next_generation()
        worker = Worker(peer, hello["worker"], given, hello["pid"], **self.memory)
        worker.hello = hello  # type: ignore[attr-defined]
        worker.attach()
        packet = peer.receive()
        assert packet["type"] == expect, packet
        if expect != "ready":
            return packet
        worker.ready = packet
        return worker

    def begin(self) -> Worker:
        """Supervisor and one worker, ready."""
        self.meet_supervisor()
        self.start_workers()
        worker: Worker = self.meet_worker()
        return worker

    def close(self) -> None:
        self.listener.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def _die_with_parent() -> None:
    _libc.prctl(1, signal.SIGKILL)


__all__ = ["ALONE", "MORE", "Completion", "Gone", "OutBlob", "Peer", "Sidecar", "Worker"]
