"""The rings: order, wrapping, doorbells, rooms, and a peer that does not keep to the rules."""

from __future__ import annotations

import struct

import pytest

from asya._runtime.layout import CALL, ENTRY_BYTES, GRANT
from sidecar import Gone
from test_supervisor import wait_until

ECHO = "def handle(p):\n    return p\n"


@pytest.mark.parametrize("env", [{}, {"ASYA_CONCURRENCY": "2"}], ids=["one at a time", "threads"])
def test_rings_wrap_around(worker, env):
    w = worker(ECHO, env=env, memory=dict(entries=16))
    for start in range(0, 200, 5):
        calls = [w.call(n, ring=False) for n in range(start, start + 5)]
        w.ring()
        assert sorted(one.document for one in w.finish(*calls)) == list(range(start, start + 5))
    assert w.submitted == 200 and w.completed == 200


def test_what_is_ready_is_answered_with_few_bells(worker):
    w = worker(ECHO)
    calls = [w.call(n, ring=False) for n in range(20)]
    w.ring()
    found = w.finish(*calls)
    assert [one.document for one in found] == list(range(20)), "in the order of the ring"
    assert w.bells < 20


def test_a_slow_call_does_not_hold_back_what_was_done_before_it(worker):
    w = worker(
        """
        import os, time
        def handle(p):
            if p == "learn":
                time.sleep(0.01)
            while p == "wait" and not os.path.exists("go"):
                time.sleep(0.005)
            return p
        """
    )
    assert w.one("learn").document == "learn"
    quick, slow = w.call("quick", ring=False), w.call("wait")
    found = w.until(lambda found: bool(found))
    assert [one.document for one in found] == ["quick"]
    (w.sidecar.folder / "go").touch()
    assert w.finish(quick, slow)[0].document == "wait"


def test_what_is_abandoned_after_a_hang_up_is_not_told_as_a_failure(sidecar):
    one = sidecar(
        "import asyncio\nasync def handle(p):\n    open('running', 'w').close()\n    await asyncio.Event().wait()\n"
    )
    one.meet_supervisor()
    one.start_workers()
    w = one.meet_worker()
    w.call({})
    wait_until((one.folder / "running").exists, "running")
    w.close()
    one.meet_worker(generation=7)
    assert w.left_behind() == []


def test_a_call_without_room_asks_for_it(worker):
    w = worker(ECHO)
    number = w.call({"a": 1}, room=0)
    asked, answer = w.finish(number)
    assert (asked.kind, asked.wanted) == (4, len(b'{"a":1}'))
    assert answer.document == {"a": 1}


def test_a_room_that_is_too_small_is_exchanged(worker):
    w = worker(ECHO)
    payload = "x" * 50_000
    number = w.call(payload, room=4096)
    asked, answer = w.finish(number)
    assert asked.kind == 4 and asked.wanted == len(payload) + 2 and answer.document == payload


def test_other_calls_are_kept_while_one_waits_for_room(worker):
    w = worker(ECHO)
    w.auto_grant = False
    first = w.call("x" * 50_000)
    w.until(lambda found: bool(w.waiting))
    second, third = w.call(2), w.call(3)
    assert w.poll(0.1) == []
    w.grant(first, w.waiting[0].wanted)
    assert [one.document[:1] if one.call == first else one.document for one in w.finish(first, second, third)] == ["x", 2, 3]


def test_a_refused_room_is_that_messages_error(worker):
    w = worker(ECHO)
    w.auto_grant = False
    number = w.call("x" * 50_000)
    w.until(lambda found: bool(w.waiting))
    w.refuse(number)
    w.until(lambda found: len(w.waiting) == 2)
    w.grant(number, w.waiting[1].wanted)
    (failed,) = w.finish(number)
    assert failed.meta["type"] == "asya.ResultTooLargeError" and "at most 1048576" in failed.meta["message"]


def test_the_largest_result_and_one_byte_more(worker):
    w = worker("def handle(p):\n    return 'x' * p\n")
    assert len(w.run((1 << 20) - 2)[0].document) == (1 << 20) - 2
    assert w.one((1 << 20) - 1).meta["type"] == "asya.ResultTooLargeError"
    w = worker("def handle(p):\n    return bytes(p)\n")
    size = (1 << 20) - 192
    assert w.run(size)[0].blobs[0].data == bytes(size)
    assert w.one(size + 1).meta["type"] == "asya.ResultTooLargeError"


def test_the_json_library_is_told_once(worker):
    w = worker(ECHO, env={"ASYA_JSON": "stdlib"})
    assert [w.one(n).flags & 4 for n in range(3)] == [4, 0, 0]
    w = worker(ECHO, env={"ASYA_JSON": "stdlib"})
    assert [w.run("x" * size)[0].flags & 4 for size in (50_000, 1, 1)] == [4, 0, 0]
    pytest.importorskip("orjson")
    w = worker(ECHO, env={"ASYA_JSON": "orjson"})
    assert [w.one(n).flags & 4 for n in range(2)] == [0, 0]


def test_elapsed_time_is_that_of_the_handler(worker):
    w = worker("import time\ndef handle(p):\n    time.sleep(p)\n    return 1\n")
    assert w.one(0.05).elapsed_ns >= 50_000_000
    assert 0 < w.one(0).elapsed_ns


def leaves(w):
    """The worker hangs up, with status 1."""
    with pytest.raises((Gone, AssertionError)):
        while True:
            w.poll()
    died = w.sidecar.supervisor.receive()
    assert (died["type"], died["exit_code"]) == ("died", 1)
    return w.sidecar.stderr


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_sequence_that_is_not_the_next_ends_the_worker(worker, keyword):
    w = worker(f"{keyword} handle(p):\n    return p\n")
    w.entry(kind=CALL, call=1, sequence=7)
    w.ring()
    assert "entry 7 in the place of 1" in leaves(w)


def test_an_unknown_kind_ends_the_worker(worker):
    w = worker(ECHO)
    w.entry(kind=9, call=1)
    w.ring()
    assert "kind 9" in leaves(w)


def test_a_bell_that_counts_more_than_there_is_ends_the_worker(worker):
    import os

    w = worker(ECHO)
    os.write(w.submit_bell, struct.pack("=Q", 1000))
    assert "1000 entries" in leaves(w)


def test_a_grant_that_nobody_asked_for_is_ignored(worker):
    w = worker(ECHO)
    w.entry(kind=GRANT, call=999, room_at=8192, room_len=4096)
    w.ring()
    assert w.one(1).document == 1


def test_another_version_is_refused(sidecar):
    one = sidecar(ECHO)
    one.meet_supervisor()
    one.start_workers()
    peer = one.accept()
    peer.receive()
    peer.send({"type": "attach", "version": 2})
    with pytest.raises(Gone):
        while True:
            assert peer.receive()["type"] != "ready"
    assert one.supervisor.receive()["exit_code"] == 1
    assert "version 2" in one.stderr


def test_the_sequence_of_an_entry_is_written_last(worker):
    """A worker that is killed half-way through an entry must not leave one that looks whole."""
    w = worker(
        """
        import os, signal
        from asya._runtime.channel import Channel
        class Words:
            def __init__(self, words): self.words = words
            def __setitem__(self, at, value):
                if value == 3:
                    os.kill(os.getpid(), signal.SIGKILL)
                self.words[at] = value
        made = Channel.__init__
        def init(self, *arguments):
            made(self, *arguments)
            self.words = Words(self.words)
        Channel.__init__ = init
        def handle(p):
            return p
        """
    )
    calls = [w.call(n, ring=False) for n in range(4)]
    w.ring()
    assert w.sidecar.supervisor.receive()["signal"] == 9
    found = w.left_behind()
    assert [one.document for one in found] == [0, 1] and [one.call for one in found] == calls[:2]
    assert w.output[(2 % w.entries) * ENTRY_BYTES + 8] == 1, "the third was written but for its sequence"
