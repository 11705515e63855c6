"""Handlers of batches: a list in, a list of the same length out."""

from __future__ import annotations

import pytest

from sidecar import MORE

ECHO = "def handle(items):\n    assert isinstance(items, list)\n    return [{'n': i['n'], 'of': len(items)} for i in items]\n"
ENGINES = {
    "one at a time": (ECHO, {}),
    "threads": (ECHO, {"ASYA_CONCURRENCY": "2"}),
    "async": (ECHO.replace("def", "async def", 1), {"ASYA_CONCURRENCY": "2"}),
}


@pytest.fixture(params=ENGINES, ids=ENGINES)
def engine(request):
    return ENGINES[request.param]


def batch(w, documents, **options):
    calls = []
    for index, document in enumerate(documents):
        last = index == len(documents) - 1
        calls.append(w.call(document, flags=0 if last else MORE, ring=last, **options))
    found = {one.call: one for one in w.finish(*calls) if one.last}
    return [found[call] for call in calls]


def test_a_batch_is_one_call(worker, engine):
    source, env = engine
    w = worker(source, env={"ASYA_BATCH_SIZE": "8", **env})
    assert (w.ready["batch"], w.ready["kind"]) == (8, "async" if "async" in source else "function")
    for size in (3, 1, 8):
        found = batch(w, [{"n": n} for n in range(size)])
        assert [one.document for one in found] == [{"n": n, "of": size} for n in range(size)]
        assert all(one.elapsed_ns for one in found)


def test_an_exception_in_one_position_fails_that_item_alone(worker, engine):
    source, env = engine
    source = source.replace("return", "out =") + (
        "    out[1] = ValueError('second'); out[2] = None; out[3] = {1j}\n    return out\n"
    )
    w = worker(source, env={"ASYA_BATCH_SIZE": "8", **env})
    found = batch(w, [{"n": n} for n in range(5)])
    assert [one.kind for one in found] == [1, 3, 2, 3, 1]
    assert (found[1].meta["type"], found[1].meta["message"]) == ("ValueError", "second")
    assert found[3].meta["type"] == "asya.ResultError" and "set" in found[3].meta["message"]


@pytest.mark.parametrize(
    "result, kind, text",
    [("[1]", "ValueError", "given 3 payloads and returned 1"), ("[1] * 4", "ValueError", "returned 4 results"),
     ("None", "TypeError", "returned NoneType"), ("{'a': 1}", "TypeError", "returned dict"),
     ("1 / 0", "ZeroDivisionError", "division by zero")],
)  # fmt: skip
def test_a_wrong_result_fails_all_of_them(worker, engine, result, kind, text):
    source, env = engine
    w = worker(f"{source.partition('(')[0]}(items):\n    return {result}\n", env={"ASYA_BATCH_SIZE": "8", **env})
    found = batch(w, [{}] * 3)
    assert [one.kind for one in found] == [3, 3, 3]
    assert all(one.meta["type"] == kind and text in one.meta["message"] for one in found)


def test_a_payload_that_is_no_json_fails_alone(worker, engine):
    source, env = engine
    w = worker(source, env={"ASYA_BATCH_SIZE": "8", **env})
    calls = [w.call({"n": 0}, flags=MORE, ring=False), w.call(None, raw=b"{", flags=MORE, ring=False), w.call({"n": 2})]
    found = {one.call: one for one in w.finish(*calls)}
    assert [found[call].kind for call in calls] == [1, 3, 1]
    assert found[calls[1]].meta["kind"] == "msg_parsing_error"
    assert found[calls[2]].document == {"n": 2, "of": 2}


def test_a_batch_that_arrives_in_pieces(worker, engine):
    source, env = engine
    w = worker(source, env={"ASYA_BATCH_SIZE": "8", **env})
    first = w.call({"n": 0}, flags=MORE)
    assert w.poll(0.2) == []
    second = w.call({"n": 1})
    assert [one.document for one in w.finish(first, second)] == [{"n": 0, "of": 2}, {"n": 1, "of": 2}]


def test_contexts_of_a_batch(worker, engine):
    source, env = engine
    head = source.partition("(")[0]
    w = worker(
        f"import asya\n{head}(items):\n    ids = [c.id for c in asya.contexts()]\n    try:\n        asya.context()\n"
        "    except RuntimeError as error:\n        ids.append('contexts' in str(error))\n    return [ids] * len(items)\n",
        env={"ASYA_BATCH_SIZE": "8", **env},
    )
    told = [{"id": f"m-{n}", "route": {"prev": [], "curr": "a", "next": []}, "headers": {}} for n in range(2)]
    calls = [w.call({}, flags=MORE, ring=False, context=told[0]), w.call({}, context=told[1])]
    assert [one.document for one in w.finish(*calls)] == [["m-0", "m-1", True]] * 2


def test_batches_of_large_results_take_room_one_by_one(worker, engine):
    source, env = engine
    head = source.partition("(")[0]
    w = worker(
        f"{head}(items):\n    return [str(i['n']) * 100_000 for i in items]\n", env={"ASYA_BATCH_SIZE": "8", **env}
    )
    found = batch(w, [{"n": n} for n in range(4)])
    assert [one.document for one in found] == [str(n) * 100_000 for n in range(4)]


@pytest.mark.parametrize("source", ["def handle(items):\n    yield 1\n", "async def handle(items):\n    yield 1\n"])
def test_generators_cannot_batch(sidecar, source):
    one = sidecar(source, env={"ASYA_BATCH_SIZE": "4"})
    one.meet_supervisor()
    one.start_workers()
    error = one.meet_worker(expect="failed")["error"]
    assert error["type"] == "asya.HandlerError" and "cannot take batches" in error["message"]
