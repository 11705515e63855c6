"""A worker process that echoes, written from docs/RING.md with the standard library alone.

Usage: echo_worker.py SOCKET GENERATION [KILL_AT [OCCURRENCE]]
       echo_worker.py --steps

It dials SOCKET, attaches, answers every call, and when the sidecar is gone it dials again under generation 0. With
KILL_AT it kills itself with SIGKILL when it comes to that step for the OCCURRENCE-th time (from 1); before that it says
on standard output how many completion entries it has written whole. --steps lists the steps.

Context of a call (this script's own, not JSON): u32 CRC-32 of the payload, u32 mode. It exits 1 on a wrong CRC. Modes:
0 one result; 1 one result made of parts of the input; 2 two results; 3 an error; 4 one result, and the input stays
pinned until the next time that the worker has nothing to do. With ECHO_UNCHECKED in the environment no CRC is computed.
"""

import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
import zlib

CALL, GRANT, CANCEL, REFUSE = 1, 2, 3, 4
RESULT, DONE, ERROR, ROOM, UNPINNED = 1, 2, 3, 4, 5
LAST, PINNED = 1, 2
ENTRY = 128
TAKE = struct.Struct("<QHHIQQQQQIIQQ")  # the fields of a submission entry
POST = struct.Struct("<HHIQQQQQIIQQQQ")  # a completion entry after its sequence
PARTS = struct.Struct("<IIQQ")
CONTEXT = struct.Struct("<II")

STEPS = (
    "dialled",
    "hello sent",
    "attach received",
    "mapped",
    "ready sent",
    "doorbell readable",
    "doorbell read",
    "entry read",
    "half of the payload written",
    "payload written",
    "half of the entry written",
    "entry written but for its sequence",
    "entry written",
    "about to ring",
    "rung",
)


class Gone(Exception):
    """The sidecar has died."""


class Worker:
    def __init__(self, path, generation, kill_at="", occurrence=1):
        self.path, self.generation, self.kill_at, self.occurrence = path, generation, kill_at, occurrence
        self.posted = 0

    def step(self, name):
        if name == self.kill_at:
            self.occurrence -= 1
            if self.occurrence == 0:
                os.write(1, b"posted %d\n" % self.posted)
                os.kill(os.getpid(), signal.SIGKILL)

    def dial(self):
        while True:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                connection.connect(self.path)
                return connection
            except OSError:
                connection.close()
                time.sleep(0.01)

    def serve(self):
        """One connection, from dialling to the sidecar's end."""
        connection = self.dial()
        self.step("dialled")
        maps, descriptors = [], []
        try:
            hello = {"type": "worker", "version": 1, "worker": 0, "generation": self.generation, "pid": os.getpid()}
            connection.send(json.dumps(hello).encode())
            self.step("hello sent")
            packet, descriptors, _, _ = socket.recv_fds(connection, 65536, 5)
            if not packet:
                raise Gone
            self.step("attach received")
            attach = json.loads(packet)
            assert attach["type"] == "attach" and len(descriptors) == 5, attach
            inputs = mmap.mmap(descriptors[0], attach["input_bytes"], prot=mmap.PROT_READ)
            output = mmap.mmap(descriptors[1], attach["output_bytes"])
            maps = [inputs, output]
            self.step("mapped")
            connection.send(b'{"type":"ready","concurrency":64,"batch":0,"kind":"function","pass":"payload"}')
            self.step("ready sent")
            self.answer(connection, attach, descriptors, memoryview(inputs), memoryview(output))
        except (Gone, ConnectionError):
            os.write(1, b"gone\n")
        finally:
            connection.close()
            for descriptor in descriptors:
                os.close(descriptor)
            del maps  # the views that `answer` held are gone: both maps close with their last reference

    def answer(self, connection, attach, descriptors, inputs, output):
        _, _, submit, complete, lifeline = descriptors
        take_at, take_mask = attach["submit_ring"]["offset"], attach["submit_ring"]["entries"] - 1
        post_at, post_mask = attach["complete_ring"]["offset"], attach["complete_ring"]["entries"] - 1
        poller = select.poll()
        for descriptor in (submit, lifeline, connection.fileno()):
            poller.register(descriptor, select.POLLIN)
        taken = posted = rung = 0
        waiting = {}  # call → what is still to be answered once it has room
        pinned = []
        dying = bool(self.kill_at)
        checked = "ECHO_UNCHECKED" not in os.environ
        unpack, pack, step = TAKE.unpack_from, POST.pack_into, self.step
        self.posted = 0

        def post(kind, flags, call, document=0, length=0, payload=0, parts_at=0, parts=0, meta=0, meta_at=0, room=0, room_len=0):
            nonlocal posted
            at = post_at + (posted & post_mask) * ENTRY
            if dying:
                half = bytearray(POST.size)
                pack(half, 0, kind, flags, 0, call, document, length, payload, parts_at, parts, meta, meta_at, 1, room, room_len)
                output[at + 8 : at + 48] = half[:40]
                step("half of the entry written")
            pack(output, at + 8, kind, flags, 0, call, document, length, payload, parts_at, parts, meta, meta_at, 1, room, room_len)
            if dying:
                step("entry written but for its sequence")
            posted += 1
            output[at : at + 8] = posted.to_bytes(8, "little")
            self.posted = posted
            if dying:
                step("entry written")

        def respond(call, start, length, mode, results, room, room_len):
            """Answers as far as the room goes, and asks for more where it does not."""
            need = 4096 if mode in (1, 3) else length
            if room_len < need:
                waiting[call] = (start, length, mode, results)
                post(ROOM, 0, call, length=need, room=room, room_len=room_len)
                return
            if mode == 3:
                meta = b'{"type":"ValueError","message":"asked for","mro":["ValueError"]}'
                output[room : room + len(meta)] = meta
                post(ERROR, 0, call, meta=len(meta), meta_at=room, room=room, room_len=room_len)
                return
            if mode == 1:
                cut = length // 3
                PARTS.pack_into(output, room, 1, 0, start, cut)
                PARTS.pack_into(output, room + 24, 1, 0, start + cut, length - cut)
                post(RESULT, LAST, call, 0, length, length, room, 2, room=room, room_len=room_len)
                return
            if dying:
                half = length // 2
                output[room : room + half] = inputs[start : start + half]
                step("half of the payload written")
            output[room : room + length] = inputs[start : start + length]
            if dying:
                step("payload written")
            flags = LAST
            if results > 1:
                flags = 0
            elif mode == 4:
                flags = LAST | PINNED
                pinned.append(call)
            post(RESULT, flags, call, room, length, length, room=room, room_len=room_len)
            if results > 1:
                respond(call, start, length, mode, results - 1, 0, 0)

        while True:
            for descriptor, _ in poller.poll():
                if descriptor != submit:
                    raise Gone
            if dying:
                step("doorbell readable")
            count = int.from_bytes(os.read(submit, 8), "little")
            if dying:
                step("doorbell read")
            for _ in range(count):
                (sequence, kind, _, _, call, start, _, length, context, _, _, room, room_len) = unpack(
                    inputs, take_at + (taken & take_mask) * ENTRY
                )
                taken += 1
                assert sequence == taken, (sequence, taken)
                if dying:
                    step("entry read")
                if kind == CALL:
                    crc, mode = CONTEXT.unpack_from(inputs, context)
                    if checked and zlib.crc32(inputs[start : start + length]) != crc:
                        sys.exit("wrong bytes in call %d" % call)
                    if length == 0:
                        post(DONE, LAST, call)
                    else:
                        respond(call, start, length, mode, 2 if mode == 2 else 1, room, room_len)
                elif kind == GRANT:
                    start, length, mode, results = waiting.pop(call)
                    respond(call, start, length, mode, results, room, room_len)
                elif kind == REFUSE:
                    del waiting[call]
                    post(ERROR, 0, call)
                else:
                    assert kind == CANCEL, kind
            for call in pinned:
                post(UNPINNED, 0, call)
            pinned.clear()
            if posted != rung:
                if dying:
                    step("about to ring")
                os.write(complete, (posted - rung).to_bytes(8, "little"))
                rung = posted
                if dying:
                    step("rung")


def main():
    if sys.argv[1:] == ["--steps"]:
        print("\n".join(STEPS))
        return
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: no orphan outlives a test that was killed
    worker = Worker(sys.argv[1], int(sys.argv[2]), *sys.argv[3:4], *map(int, sys.argv[4:5]))
    while True:
        worker.serve()
        worker.generation = 0


main()
