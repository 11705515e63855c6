"""The bell is rung for what was finished before a long call, while that call runs."""

from __future__ import annotations

import pytest

# A worker that never rings by itself between calls, as if all that came before had been fast.
NEVER_RINGS = "from asya._runtime import channel, sync\nchannel.BELL_NS = sync.BELL_NS = 1 << 60\n"

WAITS = """
import os, time
def handle(p):
    while p == "wait" and not os.path.exists("go"):
        time.sleep(0.005)
    return p
"""


# Once the timer is set it is not put off before it has expired.
NEVER_PUTS_OFF = "from asya._runtime import watch\nwatch.PUT_OFF_NS = 1 << 60\n"


@pytest.mark.parametrize("settings", ["", NEVER_PUTS_OFF], ids=["as it is", "expires before the next is posted"])
def test_what_was_done_is_rung_for_while_an_unexpectedly_long_call_runs(worker, settings):
    w = worker(NEVER_RINGS + settings + WAITS)
    for round_ in range(3):
        quick = [w.call(n, ring=False) for n in range(10)]
        slow = w.call("wait")
        found = w.until(lambda found: len(found) == len(quick))
        assert [one.call for one in found] == quick
        (w.sidecar.folder / "go").touch()
        assert w.finish(slow)[0].document == "wait", round_
        (w.sidecar.folder / "go").unlink()


def test_a_long_call_that_keeps_the_interpreter_busy_is_interrupted_for_the_bell(worker):
    w = worker(NEVER_RINGS + WAITS.replace("time.sleep(0.005)", "pass"))
    quick, slow = w.call("quick", ring=False), w.call("wait")
    assert [one.call for one in w.poll()] == [quick]
    (w.sidecar.folder / "go").touch()
    assert w.finish(slow)[0].document == "wait"


def test_bells_of_both_threads_announce_each_entry_once(worker):
    w = worker(
        """
        import sys
        from asya._runtime import watch
        sys.setswitchinterval(1e-6)
        watch.WATCH_NS, watch.PUT_OFF_NS = 1, -1 << 60
        def handle(p):
            return p
        """
    )
    for start in range(0, 5000, 10):
        calls = [w.call(n, ring=False) for n in range(start, start + 10)]
        w.ring()
        assert [one.document for one in w.finish(*calls)] == list(range(start, start + 10))
    assert w.completed == 5000


def test_one_entry_that_is_posted_while_the_bell_is_rung_is_not_lost(worker):
    w = worker(
        """
        import os
        from asya._runtime.channel import Channel
        class Bell:
            def __init__(self, channel): self.channel = channel
            def pack(self, count):
                # As the other thread may do at the system call that follows.
                channel = self.channel
                if channel.posted == 1:
                    channel.post(2, 1, 101)
                return count.to_bytes(8, "little")
        from asya._runtime import layout
        made = Channel.__init__
        def init(self, *arguments):
            made(self, *arguments)
            layout.DOORBELL = Bell(self)
        Channel.__init__ = init
        def handle(p):
            return p
        """
    )
    first = w.call(1)
    assert [one.call for one in w.poll()] == [first]
    w.open[first + 1] = {"rooms": {}, "payload": (0, 0)}
    w.next_call += 1
    third = w.call(3)
    assert [one.call for one in w.until(lambda found: len(found) == 2)] == [first + 1, third]


def test_what_fails_before_a_batch_runs_does_not_wait_for_it(worker):
    w = worker(NEVER_RINGS + WAITS.replace('p == "wait"', 'p == ["wait"]'), env={"ASYA_BATCH_SIZE": "2"})
    bad = w.call(None, raw=b"{", flags=1, ring=False)
    slow = w.call("wait")
    found = w.poll()
    assert [(one.call, one.meta["kind"]) for one in found] == [(bad, "msg_parsing_error")]
    (w.sidecar.folder / "go").touch()
    assert w.finish(slow)[0].document == "wait"


COUNTS = "import threading\ndef handle(p):\n    return [t.name for t in threading.enumerate()].count('asya-bell')\n"


def test_nobody_watches_a_worker_that_is_given_one_call_at_a_time(worker):
    w = worker(COUNTS)
    assert [w.one(n).document for n in range(20)] == [0] * 20


def test_the_watching_thread_ends_with_its_attachment(worker, attach_again):
    w = worker(NEVER_RINGS + COUNTS)
    calls = [w.call(n, ring=False) for n in range(5)]
    w.ring()
    assert [one.document for one in w.finish(*calls)][-1] == 1
    w = attach_again(w)
    assert w.one(1).document == 0


def test_results_wait_where_no_thread_can_be_started(worker):
    w = worker(
        "import threading\nfrom asya._runtime import watch\n"
        "def refuse(self):\n    raise RuntimeError('no more threads')\n"
        "threading.Thread.start = refuse\n" + NEVER_RINGS + COUNTS
    )
    calls = [w.call(n, ring=False) for n in range(20)]
    w.ring()
    assert [one.document for one in w.finish(*calls)] == [0] * 20
