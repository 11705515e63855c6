"""Several calls at once: threads and asyncio; cancelling, timeouts, suspects that run alone."""

from __future__ import annotations

import pytest

from sidecar import ALONE

# Each call waits until as many as `p["meet"]` are inside.
MEET = {
    "threads": """
        import threading, time
        inside, most = 0, 0
        condition = threading.Condition()
        def handle(p):
            global inside, most
            with condition:
                inside += 1
                most = max(most, inside)
                condition.notify_all()
                met = condition.wait_for(lambda: most >= p["meet"], 20)
                inside -= 1
            return {"met": met, "most": most, "thread": threading.current_thread().name}
    """,
    "async": """
        import asyncio
        inside, most = 0, 0
        async def handle(p):
            global inside, most
            inside += 1
            most = max(most, inside)
            while most < p["meet"]:
                await asyncio.sleep(0.001)
            inside -= 1
            return {"met": True, "most": most, "loop": id(asyncio.get_running_loop())}
    """,
}


@pytest.fixture(params=MEET)
def meeting(request):
    return MEET[request.param]


def test_as_many_calls_run_at_once_as_asked_for(worker, meeting):
    w = worker(meeting, env={"ASYA_CONCURRENCY": "3"})
    assert w.ready["concurrency"] == 3
    calls = [w.call({"meet": 3}, ring=False) for _ in range(9)]
    w.ring()
    found = w.finish(*calls)
    assert len(found) == 9 and all(one.document["met"] for one in found)
    assert max(one.document["most"] for one in found) == 3, "and never more"
    if "loop" in found[0].document:
        assert len({one.document["loop"] for one in found}) == 1


def test_results_come_as_they_are_ready(worker, meeting):
    w = worker(meeting, env={"ASYA_CONCURRENCY": "2"})
    slow, fast = w.call({"meet": 2}, ring=False), w.call({"meet": 1})
    assert {one.call for one in w.finish(slow, fast)} == {slow, fast}


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_contexts_do_not_mix(worker, keyword):
    wait = "await asyncio.sleep(0.001)" if "async" in keyword else "time.sleep(0.001)"
    w = worker(
        f"import asya, asyncio, time\n{keyword} handle(p):\n    before = asya.context().id\n    {wait}\n"
        "    return [p, before, asya.context().id]\n",
        env={"ASYA_CONCURRENCY": "4"},
    )
    told = {"route": {"prev": [], "curr": "a", "next": []}, "headers": {}}
    calls = [w.call(n, context={"id": f"m-{n}", **told}, ring=False) for n in range(20)]
    w.ring()
    assert sorted(one.document for one in w.finish(*calls)) == [[n, f"m-{n}", f"m-{n}"] for n in range(20)]


def test_a_context_outlives_its_call_and_asking_later_is_refused(worker):
    w = worker(
        """
        import asya, asyncio
        kept, late = [], []
        async def later():
            await asyncio.sleep(0.01)
            try:
                late.append(asya.context().id)
            except RuntimeError as error:
                late.append("only while" in str(error) or "only" in str(error))
        async def handle(p):
            if p["first"]:
                kept.append(asya.context())
                kept.append(asyncio.ensure_future(later()))
                return 1
            await kept[1]
            return [kept[0].id, kept[0].headers["x-tenant"], late]
        """,
        env={"ASYA_CONCURRENCY": "2"},
    )
    w.one({"first": True})
    assert w.one({"first": False}).document == ["m-1", "blue", [True]]


def test_a_context_outside_of_a_call():
    import asya

    with pytest.raises(RuntimeError, match="only while a handler runs"):
        asya.context()
    with pytest.raises(RuntimeError):
        asya.contexts()


def test_everything_in_a_context(worker):
    w = worker(
        """
        import asya
        def handle(p):
            c = asya.context()
            c.headers["mine"] = 1
            c.route.next.append("mine")
            return [repr(c), c.route.prev, c.route.curr, c.route.next, c.status["attempt"], asya.context().headers]
        """
    )
    assert w.one({}).document == [
        "<asya.Context m-1>", ["first"], "here", ["there", "last", "mine"], 1, {"x-tenant": "blue", "x.dotted": 1},
    ]  # fmt: skip


@pytest.mark.parametrize("generator", [False, True])
def test_an_async_call_is_cancelled(worker, generator):
    body = "        yield 1\n" if generator else ""
    w = worker(
        "import asyncio\nasync def handle(p):\n    if p.get('ok'):\n"
        + ("        yield p\n        return\n" if generator else "        return p\n")
        + "    try:\n" + body + "        await asyncio.sleep(1000)\n    finally:\n        open('cleaned', 'w').close()\n",
        env={"ASYA_CONCURRENCY": "2"},
    )  # fmt: skip
    number = w.call({})
    if generator:
        w.until(lambda found: bool(found))
    else:
        assert w.one({"ok": 1}).document == {"ok": 1}, "the other has started by now"
    w.cancel(number)
    failed = w.finish(number)[-1]
    assert failed.kind == 3 and failed.meta["type"].endswith("CancelledError")
    assert (w.sidecar.folder / "cleaned").exists()
    assert w.run({"ok": 1})[0].document == {"ok": 1}


def test_cancelling_what_has_not_started_or_has_ended(worker):
    w = worker("import asyncio\nasync def handle(p):\n    if p['wait']:\n        await asyncio.sleep(1000)\n    return p\n")
    running, queued = w.call({"wait": 1}), w.call({"wait": 1})
    w.cancel(queued)
    assert w.finish(queued)[0].meta["message"] == "cancelled before it started"
    w.cancel(running)
    assert w.finish(running)[0].kind == 3
    w.cancel(running)
    w.cancel(12345)
    assert w.one({"wait": 0}).document == {"wait": 0}


def test_cancelling_means_nothing_to_a_sync_handler(worker):
    w = worker("import time\ndef handle(p):\n    time.sleep(0.05)\n    return p\n")
    number = w.call(1)
    w.cancel(number)
    assert w.finish(number)[0].document == 1


@pytest.mark.parametrize("generator", [False, True])
def test_an_async_call_has_a_timeout_of_its_own(worker, generator):
    w = worker("import asyncio\nasync def handle(p):\n    await asyncio.sleep(p)\n    " + ("yield p\n" if generator else "return p\n"))
    failed = w.run(1000, timeout_ms=20)[-1]
    assert failed.meta["type"] == "TimeoutError" and "20 ms" in failed.meta["message"]
    assert w.run(0.001, timeout_ms=20_000)[0].document == 0.001


def test_the_time_of_an_async_call_stands_still_while_it_waits_for_room(worker):
    handler = "import asyncio\nasync def handle(p):\n    await asyncio.sleep(0 if p else 1000)\n    yield 'x' * p\n    yield 'y'\n"
    w = worker(handler, env={"ASYA_CONCURRENCY": "2"})
    w.auto_grant = False
    number = w.call(100_000, room=0, timeout_ms=300)
    w.until(lambda found: bool(w.waiting))
    # Another overruns the same time, begun later; so this one had it, too.
    assert w.run(0, timeout_ms=300)[-1].meta["type"] == "TimeoutError"
    w.auto_grant = True
    w.grant(number, w.waiting[0].wanted)
    assert [one.document[:1] for one in w.finish(number) if one.kind == 1] == ["x", "y"]


def test_a_call_that_bears_its_timeout_is_not_cancelled_again_for_having_waited_for_room(worker):
    handler = """
        import asyncio
        async def handle(p):
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                pass
            yield "x" * p
            await asyncio.sleep(0.05)
            yield "y"
    """
    w = worker(handler, env={"ASYA_CONCURRENCY": "2"})
    number = w.call(100_000, room=0, timeout_ms=20)
    found = [one for one in w.finish(number) if one.kind in (1, 3)]
    assert [one.document[:1] for one in found] == ["x", "y"]


def test_a_call_that_waits_for_room_can_be_cancelled(worker):
    w = worker("async def handle(p):\n    return 'x' * p\n", env={"ASYA_CONCURRENCY": "2"})
    w.auto_grant = False
    number = w.call(100_000, room=0)
    w.until(lambda found: bool(w.waiting))
    w.cancel(number)
    # It asks once, and takes that answer before it says that it was cancelled.
    assert w.one(10).document == "x" * 10
    assert len(w.waiting) == 1
    w.grant(number, w.waiting[0].wanted)
    (failed,) = w.finish(number)
    assert failed.kind == 3 and failed.meta["type"].endswith("CancelledError") and len(w.waiting) == 1


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_a_suspect_runs_alone(worker, keyword):
    wait = "await asyncio.sleep(0.005)" if "async" in keyword else "time.sleep(0.005)"
    w = worker(
        f"import asyncio, time\ninside = 0\n{keyword} handle(p):\n    global inside\n    inside += 1\n    most = inside\n"
        f"    for _ in range(4):\n        {wait}\n        most = max(most, inside)\n    inside -= 1\n    return [p, most]\n",
        env={"ASYA_CONCURRENCY": "4"},
    )
    calls = [w.call(n, flags=ALONE if n == 3 else 0, ring=False) for n in range(8)]
    w.ring()
    found = {one.document[0]: one.document[1] for one in w.finish(*calls)}
    assert found[3] == 1 and max(found.values()) > 1


def test_an_exit_in_a_task_of_the_handlers_own_does_not_stop_the_worker(worker):
    w = worker(
        """
        import asyncio, sys
        async def stop():
            sys.exit(5)
        async def handle(p):
            if p:
                asyncio.ensure_future(stop())
                await asyncio.sleep(0.01)
            return p
        """
    )
    assert w.one(1).document == 1
    assert w.one(0).document == 0


def test_the_loop_lives_as_long_as_the_worker(worker):
    w = worker(
        """
        import asyncio
        ticks = 0
        async def tick():
            global ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)
        class Model:
            def __init__(self):
                self.task = None
            async def handle(self, p):
                if self.task is None:
                    self.task = asyncio.ensure_future(tick())
                return ticks
        """,
        handler="handlers.Model.handle",
    )
    first = w.one({}).document
    while w.one({}).document < first + 5:
        pass


def test_threads_wait_for_room_side_by_side(worker):
    w = worker("def handle(p):\n    return str(p['n']) * 100_000\n", env={"ASYA_CONCURRENCY": "3"})
    calls = [w.call({"n": n}, ring=False) for n in range(9)]
    w.ring()
    found = [one for one in w.finish(*calls) if one.kind == 1]
    assert sorted(one.document[0] for one in found) == [str(n) for n in range(9)]
    assert all(one.document == one.document[0] * 100_000 for one in found)


def test_async_calls_wait_for_room_side_by_side(worker):
    w = worker("async def handle(p):\n    return str(p['n']) * 100_000\n", env={"ASYA_CONCURRENCY": "3"})
    calls = [w.call({"n": n}, ring=False) for n in range(9)]
    w.ring()
    found = [one for one in w.finish(*calls) if one.kind == 1]
    assert sorted(one.document[0] for one in found) == [str(n) for n in range(9)]


def test_calls_that_arrive_while_an_array_waits_for_room_are_started(worker):
    w = worker(
        """
        import asya, asyncio
        event = asyncio.Event()
        async def handle(p):
            if p == "second":
                event.set()
                return p
            asya.empty(100_000)
            await event.wait()
            return p
        """,
        env={"ASYA_CONCURRENCY": "2"},
    )
    w.auto_grant = False
    first = w.call("first", room=0)
    w.until(lambda found: bool(w.waiting))
    second = w.call("second", ring=False)
    w.grant(first, w.waiting[0].wanted)
    assert {one.document for one in w.finish(first, second)} == {"first", "second"}
