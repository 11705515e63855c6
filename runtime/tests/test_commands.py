"""What a generator may yield: values to send and commands."""

from __future__ import annotations

import copy

import pytest

from asya._runtime.commands import Commands, parse_path
from asya._runtime.failures import ProtocolError
from sidecar import default_context


@pytest.fixture
def run():
    commands = Commands(default_context())
    flown = []

    def run(*command):
        return commands.run(command, flown.append)

    run.commands, run.flown = commands, flown
    return run


def meta(run):
    import json

    found = run.commands.meta()
    return json.loads(found) if found else {}


@pytest.mark.parametrize(
    "path, value",
    [
        (".id", "m-1"), (".parent_id", None), (".route.prev", ["first"]), (".route.curr", "here"),
        (".route.next", ["there", "last"]), (".route.next[0]", "there"), (".route.next[-1]", "last"),
        (".headers.x-tenant", "blue"), ('.headers["x.dotted"]', 1), (".headers['x.dotted']", 1),
        (".status.attempt", 1), (".route", {"prev": ["first"], "curr": "here", "next": ["there", "last"]}),
    ],
)  # fmt: skip
def test_get(run, path, value):
    assert run("GET", path) == value
    assert meta(run) == {}


def test_get_gives_copies(run):
    run("GET", ".route.next").append("more")
    run("GET", ".headers")["x"] = 1
    assert run("GET", ".route.next") == ["there", "last"] and "x" not in run("GET", ".headers")


@pytest.mark.parametrize(
    "command, error",
    [
        (("GET", "route"), ValueError), (("GET", ""), ValueError), (("GET", "."), ValueError), (("GET", 5), ValueError),
        (("GET", ".route..next"), ValueError), (("GET", ".route.next["), ValueError), (("GET", ".route.next[x]"), ValueError),
        (("GET", ".route.next[0:1]"), ValueError), (("GET", ".headers.none"), KeyError), (("GET", ".payload"), KeyError),
        (("GET", ".route.next[9]"), KeyError), (("GET", ".id.x"), TypeError), (("GET", ".route.next.x"), TypeError),
        (("GET", ".headers[0]"), KeyError),
        (("SET", ".id", "x"), PermissionError), (("SET", ".parent_id", "x"), PermissionError),
        (("SET", ".route", {}), PermissionError), (("SET", ".route.prev", []), PermissionError),
        (("SET", ".route.curr", "x"), PermissionError), (("SET", ".payload", 1), PermissionError),
        (("SET", ".route.next", "there"), TypeError), (("SET", ".route.next", [1]), TypeError),
        (("SET", ".route.next", [""]), TypeError), (("SET", ".route.next[7]", "x"), IndexError),
        (("SET", ".route.next[0:1].x", ["x"]), ValueError), (("SET", ".headers", []), TypeError),
        (("SET", ".headers[0:1]", []), TypeError), (("SET", ".headers.x", {1, 2}), TypeError),
        (("SET", ".headers.x", float("nan")), ValueError), (("SET", ".status", None), TypeError),
        (("DEL", ".headers.none"), KeyError), (("DEL", ".id"), PermissionError), (("DEL", ".route.prev[0]"), PermissionError),
        (("DEL", ".status"), PermissionError), (("DEL", ".route.next[0:1]"), ValueError), (("DEL", ".route.next[9]"), KeyError),
        (("PUT", ".headers.x", 1), ProtocolError), ((1, 2), ProtocolError), (("SET", ".headers.x"), ProtocolError),
        (("GET", ".id", 1), ProtocolError), (("FLY", 1, 2), ProtocolError), (("get", ".id"), ProtocolError),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_refused_changes_nothing(run, command, error):
    before = copy.deepcopy(run.commands._message)
    with pytest.raises(error):
        run(*command)
    assert run.commands._message == before and meta(run) == {}


def test_protocol_errors_say_so(run):
    with pytest.raises(RuntimeError, match="ABI protocol error"):
        run("PUT", ".x", 1)


def test_set_and_del(run):
    run("SET", ".route.next", ["a", "b", "c"])
    run("SET", ".route.next[1]", "B")
    run("SET", ".route.next[0:0]", ["first"])
    run("SET", ".route.next[-1:]", [])
    assert meta(run) == {"next": ["first", "a", "B"]}
    run("SET", ".headers.x.deep.er", {"k": [1]})
    run("SET", '.headers["k.with.dots"]', None)
    run("DEL", ".headers.x-tenant")
    run("SET", ".status.reason", "because")
    run("DEL", ".status.attempt")
    assert meta(run) == {
        "next": ["first", "a", "B"],
        "headers": {"x.dotted": 1, "x": {"deep": {"er": {"k": [1]}}}, "k.with.dots": None},
        "status": {"phase": "processing", "reason": "because"},
    }
    run("DEL", ".route.next")
    run("DEL", ".headers")
    assert (meta(run)["next"], meta(run)["headers"]) == ([], {})


def test_set_takes_a_copy(run):
    value = {"k": [1]}
    run("SET", ".headers.x", value)
    value["k"].append(2)
    assert run("GET", ".headers.x") == {"k": [1]}


def test_a_message_without_status_or_headers():
    commands = Commands({"id": "m", "route": {"prev": [], "curr": "a", "next": []}})
    assert commands.run(("GET", ".headers"), print) == {}
    assert commands.run(("GET", ".status"), print) is None
    commands.run(("SET", ".status.reason", "x"), print)
    assert commands.meta() == b'{"status":{"reason":"x"}}'


def test_paths():
    assert parse_path('.a.b-c["d.e"][0][-1][1:]') == ["a", "b-c", "d.e", 0, -1, slice(1, None)]


# Through a worker

ENGINES = {"one at a time": ("def", {}), "threads": ("def", {"ASYA_CONCURRENCY": "2"}), "async": ("async def", {})}


@pytest.fixture(params=ENGINES, ids=ENGINES)
def generator(request, worker):
    keyword, env = ENGINES[request.param]

    def make(body, before=""):
        return worker(f"import asya\n{before}\n{keyword} handle(p):\n" + body, env=env)

    make.asynchronous = keyword != "def"
    return make


def test_what_is_yielded_is_sent_and_nothing_else(generator):
    w = generator(
        "    yield\n    yield None\n    yield {'a': 1}\n    yield [1, 2]\n    yield 'text'\n    yield 0\n    yield ()\n"
        "    yield ('single',)\n    yield b'bytes'\n"
    )
    found = w.run({})
    assert [one.document for one in found[:-1]] == [{"a": 1}, [1, 2], "text", 0, [], ["single"], {"$asya.blob": 0}]
    assert found[-1].kind == 2 and found[-2].blobs[0].data == b"bytes"
    assert all(one.meta == {} for one in found)


def test_a_named_tuple_is_a_value(generator):
    w = generator("    yield P('GET', '.id')\n", "from collections import namedtuple\nP = namedtuple('P', 'a b')")
    assert w.run({})[0].document == ["GET", ".id"]


def test_commands_show_in_later_frames_only(generator):
    w = generator(
        "    tenant = yield 'GET', '.headers.x-tenant'\n    yield {'tenant': tenant, 'id': (yield 'GET', '.id')}\n"
        "    yield 'SET', '.headers.k', 'v'\n    yield 'SET', '.route.next[0:0]', ['extra']\n    yield 1\n"
        "    yield 'DEL', '.headers.k'\n    yield 'SET', '.status.reason', 'r'\n    yield 2\n"
    )
    first, second, third, done = w.run({})
    assert (first.document, first.meta) == ({"tenant": "blue", "id": "m-1"}, {})
    headers = {"x-tenant": "blue", "x.dotted": 1}
    assert second.meta == {"headers": {**headers, "k": "v"}, "next": ["extra", "there", "last"]}
    assert third.meta == {
        "headers": headers, "next": ["extra", "there", "last"],
        "status": {"phase": "processing", "attempt": 1, "reason": "r"},
    }  # fmt: skip
    assert done.meta == {}


def test_a_changed_message_starts_anew_with_the_next(generator):
    w = generator("    if p['set']:\n        yield 'SET', '.headers.k', 'v'\n    yield 1\n")
    assert "headers" in w.run({"set": True})[0].meta
    assert w.run({"set": False})[0].meta == {}


def test_a_bad_command_fails_the_message_after_what_was_sent(generator):
    w = generator(
        "    try:\n        yield 1\n        yield 'SET', '.id', 'x'\n        yield 2\n    finally:\n"
        "        open('closed', 'w').close()\n"
    )
    sent, failed = w.run({})
    assert sent.document == 1 and not sent.last
    assert failed.kind == 3 and failed.meta["type"] == "PermissionError"
    assert (w.sidecar.folder / "closed").exists(), "the generator could clean up"


def test_an_exception_after_a_frame(generator):
    w = generator("    yield 1\n    raise ValueError('later')\n")
    sent, failed = w.run({})
    assert (sent.document, failed.meta["message"]) == (1, "later")
    assert "in handle" in failed.meta["traceback"]


def test_each_frame_is_sent_at_once(generator):
    wait = "await asyncio.sleep(0.01)" if generator.asynchronous else "time.sleep(0.01)"
    w = generator(
        f"    yield 1\n    while not os.path.exists('go'):\n        {wait}\n    yield 2\n", "import asyncio, os, time"
    )
    number = w.call({})
    first = w.until(lambda found: bool(found))
    assert [one.document for one in first] == [1]
    (w.sidecar.folder / "go").touch()
    rest = [one.document for one in w.finish(number) if one.kind == 1]
    assert rest == [2]


def test_frames_are_larger_than_any_room(generator):
    w = generator("    for n in range(4):\n        yield str(n) * p['size']\n")
    assert [one.document for one in w.run({"size": 50_000})[:-1]] == [str(n) * 50_000 for n in range(4)]


def test_a_generator_that_yields_nothing(generator):
    w = generator("    return\n    yield\n")
    (done,) = w.run({})
    assert done.kind == 2 and done.last


def test_flying_is_accepted_and_dropped(generator):
    w = generator("    for token in 'abc':\n        got = yield 'FLY', {'token': token}\n        assert got is None\n    yield 'end'\n")
    assert [one.document for one in w.run({})] == ["end", None]


def test_yield_from_a_helper():
    commands = Commands(default_context())

    def helper():
        tenant = yield "GET", ".headers.x-tenant"
        return tenant

    def handle():
        tenant = yield from helper()
        yield {"tenant": tenant}

    generator = handle()
    assert generator.send(commands.run(generator.send(None), print)) == {"tenant": "blue"}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_what_a_get_does_not_find_can_be_caught_where_it_was_yielded(worker, asynchronous):
    handler = '''
        {}def handle(p):
            try:
                yield (yield "GET", ".headers.none")
            except KeyError as error:
                yield ["caught", str(error)]
            yield (yield "GET", ".id")
            yield (yield "GET", ".headers.none")
    '''.format("async " if asynchronous else "")
    caught, found, failed = worker(handler).run(1)
    assert caught.document[0] == "caught" and "none" in caught.document[1] and found.document == "m-1"
    assert failed.meta["type"] == "KeyError"
