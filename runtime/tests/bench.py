#!/usr/bin/env python3
"""Measures one worker of the built zipapp through real memfds and eventfds.

    python3 runtime/tests/bench.py [--json stdlib] [--messages 200000]

Prints a line per case: wall and worker CPU time per message, and MiB/s for the binary ones. The sidecar's half is
written so that it costs little itself; both share the machine, so the worker's CPU time is the number to look at.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from asya._runtime.layout import CALL, COMPLETION_BODY, ENTRY_BYTES, RESULT, SUBMISSION  # noqa: E402
from sidecar import OutBlob, Sidecar, section  # noqa: E402

HANDLERS = """
import asya

def echo(payload):
    payload["seen"] = payload["number"] + 1
    return payload

async def echo_async(payload):
    payload["seen"] = payload["number"] + 1
    return payload

def back(payload):
    return {"data": payload["data"]}

def copy(payload):
    return {"data": bytes(payload["data"])}

def fill(payload):
    data = payload["data"].view
    out = asya.empty(len(data))
    view = memoryview(out)
    view[:] = data
    return {"data": out}

def nothing(payload):
    return None
"""


def kilobyte(number: int) -> bytes:
    """About 1 KiB of JSON, different for each number."""
    seeded = random.Random(number)
    payload = {
        "number": number,
        "name": f"order-{number:08}",
        "customer": {"id": seeded.randrange(10**9), "email": "somebody@example.org", "vip": False},
        "lines": [
            {"sku": f"A{seeded.randrange(10**6):06}", "quantity": line, "price": round(seeded.random() * 100, 2)}
            for line in range(10)
        ],
        "note": "x" * 400,
    }
    return json.dumps(payload, separators=(",", ":")).encode()


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(zipapp: str, name: str, handler: str, payload: bytes, document_len: int, blobs: int, messages: int, batch: int,
            library: str, room: int, python: str) -> None:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "handlers.py").write_text(HANDLERS)
        slots = 64
        slot = (len(payload) + 8191) // 4096 * 4096
        memory = dict(
            input_bytes=slots * slot + (1 << 20), output_bytes=slots * room + (1 << 20), entries=256,
            max_result_bytes=1 << 24,
        )  # fmt: skip
        env = {"ASYA_HANDLER": f"handlers.{handler}", "ASYA_JSON": library}
        if handler == "echo_async":
            env["ASYA_CONCURRENCY"] = "16"
        sidecar = Sidecar(Path(folder), [zipapp], env=env, memory=memory, python=python)
        try:
            worker = sidecar.begin()
            context = json.dumps({"id": "m", "route": {"prev": [], "curr": "a", "next": []}, "headers": {}}).encode()
            base, out_base = 1 << 19, 1 << 19
            context_at = base - 4096
            worker.input[context_at : context_at + len(context)] = context
            places = []
            for index in range(slots):
                at = base + index * slot
                worker.input[at : at + len(payload)] = payload
                places.append((at, out_base + index * room))
            ring, out, entries = worker.input, worker.output, worker.entries
            pack, unpack = SUBMISSION.pack_into, COMPLETION_BODY.unpack_from
            submitted = completed = 0

            def submit(count: int) -> None:
                nonlocal submitted
                for _ in range(count):
                    at, room_at = places[submitted % slots]
                    pack(ring, (submitted % entries) * ENTRY_BYTES, submitted + 1, CALL, 0, blobs, submitted, at,
                         document_len, len(payload), context_at, len(context), 0, room_at, room)  # fmt: skip
                    submitted += 1
                os.write(worker.submit_bell, struct.pack("=Q", count))

            def collect() -> int:
                nonlocal completed
                import select

                select.select([worker.complete_bell], [], [])
                count = int.from_bytes(os.read(worker.complete_bell, 8), "little")
                for _ in range(count):
                    kind = unpack(out, (completed % entries) * ENTRY_BYTES + 8)[0]
                    assert kind == RESULT or handler == "nothing", kind
                    completed += 1
                return count

            def drive(total: int) -> None:
                submit(min(batch * 2, total))
                left = total - min(batch * 2, total)
                done = 0
                while done < total:
                    got = collect()
                    done += got
                    more = min(got, left)
                    if more:
                        submit(more)
                        left -= more

            drive(min(2000, messages))
            cpu, started, own = cpu_of(worker.pid), time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
            drive(messages)
            wall = time.perf_counter() - started
            used = cpu_of(worker.pid) - cpu
            mine = resource.getrusage(resource.RUSAGE_SELF)
            harness = mine.ru_utime + mine.ru_stime - own.ru_utime - own.ru_stime
            line = (
                f"{name:28} {library:7} batch {batch:3}: {wall / messages * 1e6:8.2f} us/msg wall, "
                f"{used / messages * 1e6:8.2f} us/msg worker CPU, {harness / messages * 1e6:6.2f} us/msg harness CPU"
            )
            if len(payload) > 100_000:
                line += f", {messages * len(payload) / wall / 2**20:8.0f} MiB/s in and out"
            print(line, flush=True)
        finally:
            sidecar.close()


def main() -> None:
    """Run the cases."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--json", default="", help="stdlib or orjson; default both, where orjson is installed")
    options.add_argument("--messages", type=int, default=100_000)
    options.add_argument("--case", default="", help="only cases with this in their name")
    chosen = options.parse_args()
    libraries = [chosen.json] if chosen.json else ["stdlib", "orjson"]
    try:
        import orjson  # noqa: F401
    except ImportError:
        libraries = ["stdlib"]
    with tempfile.TemporaryDirectory() as folder:
        zipapp = str(Path(folder, "asya-runtime.pyz"))
        subprocess.run([sys.executable, str(HERE.parent / "build.py"), zipapp], check=True, stdout=subprocess.DEVNULL)
        document = kilobyte(1)
        print(f"Python {sys.version.split()[0]}, JSON document {len(document)} bytes")
        for library in libraries:
            for name, handler, batch, share in (
                ("json 1 KiB, echo", "echo", 16, 1.0),
                ("json 1 KiB, one at a time", "echo", 1, 0.2),
                ("json 1 KiB, echo, async", "echo_async", 16, 0.3),
                ("json 1 KiB, returns None", "nothing", 16, 1.0),
            ):
                if chosen.case in name:
                    measure(zipapp, name, handler, document, len(document), 0, int(chosen.messages * share), batch,
                            library, 4096 * 4, sys.executable)  # fmt: skip
        reference = b'{"data":{"$asya.blob":0}}'
        big = section(reference, [OutBlob("raw", (1 << 20,), os.urandom(1 << 20))])
        for name, handler in (("1 MiB blob, sent back", "back"), ("1 MiB blob, copied", "copy"), ("1 MiB blob, asya.empty", "fill")):
            if chosen.case in name:
                measure(zipapp, name, handler, big, len(reference), 1, chosen.messages // 20, 8, libraries[-1],
                        (1 << 20) + 65536 + 4096 * 4, sys.executable)  # fmt: skip


if __name__ == "__main__":
    main()
