"""What becomes of exceptions: in the meta of an ERROR, on stderr, and for the worker."""

from __future__ import annotations

import pytest

from asya._runtime.failures import cut, describe, error_meta

ENGINES = {"one at a time": ("def", {}), "threads": ("def", {"ASYA_CONCURRENCY": "2"}), "async": ("async def", {})}


@pytest.fixture(params=ENGINES, ids=ENGINES)
def engine(request):
    return ENGINES[request.param]


def raising(worker, engine, statement, **options):
    keyword, env = engine
    source = (
        "import sys, asya, json, datetime\nclass Odd(ValueError):\n    retry_after = 12\n"
        "class Mute(Exception):\n    def __str__(self):\n        raise RuntimeError('no text')\n"
        f"{keyword} handle(p):\n    if p.get('ok'):\n        return p\n    {statement}\n"
    )
    return worker(source, env=env, **options)


def test_the_error_says_what_where_and_which_kind(worker, engine):
    w = raising(worker, engine, "raise Odd('bad input')")
    found = w.one({})
    assert found.kind == 3 and found.last
    meta = found.meta
    assert (meta["type"], meta["message"], meta["kind"]) == ("handlers.Odd", "bad input", "processing_error")
    assert meta["mro"] == ["ValueError", "Exception"] and meta["retry_after"] == 12
    lines = meta["traceback"].splitlines()
    assert lines[0].startswith("Traceback") and "handlers.py" in lines[1] and "in handle" in lines[1]
    assert lines[-1] == "handlers.Odd: bad input"
    assert "_runtime" not in meta["traceback"], "frames of the runtime are none of the user's business"
    assert "[tested] handlers.Odd: bad input\n" in w.sidecar.stderr
    assert w.one({"ok": 1}).document == {"ok": 1}


@pytest.mark.parametrize(
    "statement, kind, text",
    [
        ("sys.exit(3)", "SystemExit", "3"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt", ""),
        ("raise MemoryError('big')", "MemoryError", "big"),
        ("raise GeneratorExit", "GeneratorExit", ""),
        ("raise StopIteration(5)", None, ""),
        ("raise Mute()", "handlers.Mute", "str() failed"),
        ("return {1, 2}", "asya.ResultError", "set"),
        ("return float('nan')", "ValueError", "JSON"),
        ("return lambda: 0", "asya.ResultError", "function"),
        ("return 'x' * (2 << 20)", "asya.ResultTooLargeError", "at most 1048576"),
        ("f = lambda n: f(n + 1)\n    f(0)", "RecursionError", "recursion"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_whatever_is_raised_fails_the_message_and_not_the_worker(worker, engine, statement, kind, text):
    w = raising(worker, engine, statement)
    for _ in range(2):
        found = w.one({})
        assert found.kind == 3 and text in found.meta["message"]
        if kind:
            assert found.meta["type"] == kind
    assert w.one({"ok": 1}).document == {"ok": 1}


def test_an_unserialisable_result_has_a_traceback(worker, engine):
    found = raising(worker, engine, "return {'deep': [object()]}").one({})
    assert "a result that holds object cannot be written as JSON" in found.meta["traceback"]


@pytest.mark.parametrize(
    "expression, seconds",
    [("asya.Retry(after=2.5)", 2.5), ("asya.Retry('busy', after=0)", 0), ("asya.Retry()", None)],
)
def test_a_retry_can_be_asked_for(worker, engine, expression, seconds):
    meta = raising(worker, engine, f"raise {expression}").one({}).meta
    assert meta["type"] == "asya.Retry" and meta.get("retry_after") == seconds


@pytest.mark.parametrize("value, told", [(3, 3.0), ("4", 4.0), (-1, None), (float("nan"), None), ("soon", None), (None, None)])
def test_retry_after_is_a_number_of_seconds(value, told):
    import json

    error = ValueError()
    error.retry_after = value
    assert json.loads(error_meta(error, "processing_error")).get("retry_after") == told


def test_retry_after_may_be_a_timedelta():
    import datetime
    import json

    error = ValueError()
    error.retry_after = datetime.timedelta(minutes=1)
    assert json.loads(error_meta(error, "processing_error"))["retry_after"] == 60


def test_chained_exceptions_are_told_whole(worker, engine):
    w = raising(worker, engine, "try:\n        1 / 0\n    except ZeroDivisionError as e:\n        raise Odd('outer') from e")
    traceback = w.one({}).meta["traceback"]
    assert "ZeroDivisionError" in traceback and "direct cause" in traceback and "outer" in traceback


def test_long_messages_and_tracebacks_are_cut_in_the_middle(worker, engine):
    w = raising(worker, engine, "raise ValueError('a' * 100_000 + 'é' * 100_000 + 'z')")
    for room in (4096, 1 << 18):
        meta = w.one({}, room=room).meta
        assert len(meta["message"].encode()) <= 16 * 1024 and len(meta["traceback"].encode()) <= 64 * 1024
        assert meta["message"].startswith("aaa") and meta["message"].endswith("éz") and "bytes cut" in meta["message"]


@pytest.mark.parametrize("length", [0, 10, 100, 101, 1000])
def test_cutting_keeps_the_bound_and_valid_text(length):
    for unit in ("x", "é", "漢", "😀"):
        found = cut(unit * length, 100)
        assert len(found.encode()) <= 100
        assert found == unit * length or "cut" in found


def test_surrogates_in_messages():
    described = describe(ValueError("\ud800"))
    assert described["message"] == "?"


def test_an_error_without_room_asks_for_it(worker, engine):
    w = raising(worker, engine, "raise ValueError('x')")
    assert w.one({}, room=0).meta["message"] == "x"


def test_an_error_that_gets_no_room_ends_the_call_all_the_same(worker, engine):
    w = raising(worker, engine, "raise ValueError('x')")
    w.auto_grant = False
    number = w.call({}, room=0)
    w.until(lambda found: bool(w.waiting))
    w.refuse(number)
    (found,) = w.finish(number)
    assert found.kind == 3 and found.meta == {}
    assert w.one({"ok": 1}).document == {"ok": 1}


def test_a_flood_of_errors_does_not_flood_stderr(worker):
    w = raising(worker, ENGINES["one at a time"], "raise ValueError('again')")
    for _ in range(10):
        calls = [w.call({}, ring=False) for _ in range(10)]
        w.ring()
        w.finish(*calls)
    assert 1 <= w.sidecar.stderr.count("ValueError: again") <= 80


def test_a_handler_that_closes_stderr(worker):
    w = worker("import sys\ndef handle(p):\n    sys.stderr.close()\n    raise ValueError('unheard')\n")
    for _ in range(2):
        assert w.one({}).meta["message"].startswith(("unheard", "I/O"))


def test_a_payload_that_is_no_json(worker, engine):
    w = raising(worker, engine, "return 1")
    for document in (b"{", b"\xff\xfe", b"NaN"):
        found = w.one(None, raw=document)
        assert (found.kind, found.meta["kind"], found.meta["type"]) == (3, "msg_parsing_error", "asya.PayloadError")
    assert w.one({"ok": 1}).document == {"ok": 1}
