"""The numbered black-box cases of the existing Asya that concern the runtime (40 to 72), each under its number.

docs/COMPATIBILITY.md says what became of each. Where a case speaks of a whole message, its head is the sidecar's here,
and the golden vectors that both sides read show that it is refused there.
"""

from __future__ import annotations

import stat

import pytest

from sidecar import default_context
from test_supervisor import wait_until
from test_vectors import VECTORS

HANDLERS = "def handle(p):\n    return {}\n"


def returning(worker, expression, **options):
    return worker(f"def handle(p):\n    return {expression}\n", **options)


def refused_by_the_sidecar(*names):
    """These malformed envelopes are golden vectors."""
    known = {case["name"]: case["error"] for case in VECTORS["malformed"]}
    return [known[name] for name in names]


def test_case_40_a_dict_in_a_dict_out(worker):
    found = returning(worker, "{**p, 'seen': True}").one({"n": 1})
    assert found.document == {"n": 1, "seen": True}
    assert found.meta == {}, "route and headers are as they were: the sidecar moves the message on"


@pytest.mark.parametrize("value", ["text", 5, 2.5, True, [], {}])
def test_case_41_any_json_value_is_one_payload(worker, value):
    found = returning(worker, repr(value)).one({})
    assert found.document == value and type(found.document) is type(value)


def test_case_42_none_ends_the_message_and_an_empty_list_is_a_payload(worker):
    found = returning(worker, "None").one({})
    assert (found.kind, found.last) == (2, True)
    assert returning(worker, "[]").one({}).document == []


def test_case_43_a_list_is_one_payload(worker):
    found = returning(worker, "[{'a': 1}, {'b': 2}]").run({})
    assert [one.document for one in found] == [[{"a": 1}, {"b": 2}]]


def test_case_44_an_exception_is_a_processing_error(worker):
    w = worker("def handle(p):\n    raise ValueError('x')\n")
    meta = w.one({}).meta
    assert (meta["kind"], meta["type"], meta["message"]) == ("processing_error", "ValueError", "x")
    assert "Exception" in meta["mro"] and "in handle" in meta["traceback"]


def test_case_45_exceptions_are_named_with_their_module(worker):
    w = worker("import json\ndef handle(p):\n    json.loads('{')\n")
    meta = w.one({}).meta
    assert meta["type"] == "json.decoder.JSONDecodeError" and meta["mro"] == ["ValueError", "Exception"]


def test_case_47_what_cannot_be_parsed(worker):
    w = worker(HANDLERS)
    for document in (b"{not json", b'"\xff"'):
        assert w.one(None, raw=document).meta["kind"] == "msg_parsing_error"
    assert refused_by_the_sidecar("not_json", "invalid_utf8", "no_payload", "no_route") == [
        "not_json", "not_utf8", "missing_field", "missing_field",
    ]  # fmt: skip


def test_case_49_fields_of_a_wrong_type():
    assert set(
        refused_by_the_sidecar("prev_not_list", "curr_not_string", "next_not_list", "headers_array", "id_number")
    ) == {"wrong_type"}


def test_case_50_null_and_empty_payloads(worker):
    w = returning(worker, "{'got': p}")
    assert w.one(None).document == {"got": None}
    assert w.one({}).document == {"got": {}}
    assert refused_by_the_sidecar("empty") == ["empty"]


@pytest.mark.parametrize("stage", ["before attach", "in a call"])
def test_case_51_a_peer_that_goes_leaves_the_worker_serving(sidecar, stage):
    one = sidecar("import os\ndef handle(p):\n    open('running', 'w').close()\n    return os.getpid()\n")
    one.meet_supervisor()
    one.start_workers()
    if stage == "before attach":
        peer = one.accept()
        pid = peer.receive()["pid"]
        peer.close()
    else:
        w = one.meet_worker()
        pid = w.pid
        w.call({})
        wait_until((one.folder / "running").exists, "running")
        w.close()
    w = one.meet_worker(generation=7)
    assert w.hello["generation"] == 0 and w.one({}).document == pid


def test_case_54_envelope_mode_is_told_what_to_use_instead(sidecar):
    one = sidecar(HANDLERS, env={"ASYA_HANDLER_MODE": "envelope"})
    assert one.process.wait(30) == 64
    assert "ASYA_HANDLER_MODE=envelope is not supported" in one.stderr and "GET, SET and DEL" in one.stderr


def test_case_54_future_actors_may_change_and_earlier_ones_may_not(worker):
    w = worker(
        """
        def handle(p):
            yield "SET", ".route.next", p["next"]
            yield [(yield "GET", ".id"), (yield "GET", ".headers")]
            if p["touch"]:
                yield "SET", p["touch"], ["other"]
        """
    )
    for following in (["there", "last", "extra"], ["other"], []):
        sent, done = w.run({"next": following, "touch": None})
        assert sent.meta == {"next": following} and done.kind == 2
        assert sent.document == ["m-1", default_context()["headers"]]
    for path in (".route.prev", ".route.curr", ".route"):
        failed = w.run({"next": [], "touch": path})[-1]
        assert failed.meta["kind"] == "processing_error" and failed.meta["type"] == "PermissionError"


def test_case_55_a_bad_item_names_its_place(worker):
    w = worker(
        "def handle(items):\n    return [1]\n", env={"ASYA_BATCH_SIZE": "4"},
    )  # fmt: skip
    calls = [w.call({}, flags=1, ring=False), w.call({})]
    for failed in w.finish(*calls):
        assert failed.meta["kind"] == "processing_error"
        assert "2 payloads and returned 1 results" in failed.meta["message"]


def test_case_59_a_stale_socket_file_does_no_harm(sidecar, tmp_path):
    (tmp_path / "asya-sidecar.sock").write_text("left behind")
    one = sidecar(HANDLERS)  # the sidecar replaces the file; the runtime dials until it is there
    assert one.begin().one({}).document == {}
    assert stat.S_ISSOCK((tmp_path / "asya-sidecar.sock").stat().st_mode)


def test_case_61_ready_is_told_only_after_the_import(sidecar, tmp_path):
    one = sidecar(
        """
        import os, time
        open("importing", "w").close()
        while not os.path.exists("go"):
            time.sleep(0.005)
        def handle(p):
            return 1
        """
    )
    one.meet_supervisor()
    one.start_workers()
    peer = one.accept()
    hello = peer.receive()
    from sidecar import Worker

    w = Worker(peer, 0, hello["generation"], hello["pid"])
    w.attach()
    wait_until((tmp_path / "importing").exists, "importing")
    with pytest.raises(AssertionError, match="no packet came"):
        peer.receive(0.2)
    (tmp_path / "go").touch()
    assert peer.receive()["type"] == "ready"
    assert w.one({}).document == 1


@pytest.mark.parametrize("keyword", ["def", "async def"])
def test_case_62_async_handlers_and_both_kinds_of_generators(worker, keyword):
    w = worker(f"import asyncio\n{keyword} handle(p):\n    for n in range(3):\n        yield n\n")
    assert [one.document for one in w.run({})] == [0, 1, 2, None]
    w = worker("import asyncio\nasync def handle(p):\n    await asyncio.sleep(0)\n    return p\n")
    assert w.one(5).document == 5


def test_case_63_get_gives_copies(worker):
    w = worker(
        """
        def handle(p):
            found = []
            for path in (".route.prev", ".route.curr", ".route.next", ".headers.x-tenant", ".id"):
                found.append((yield "GET", path))
            following = yield "GET", ".route.next"
            following.append("changed")
            yield found
            yield (yield "GET", ".route.next")
        """
    )
    first, second, _ = w.run({})
    assert first.document == [["first"], "here", ["there", "last"], "blue", "m-1"]
    assert second.document == ["there", "last"] and second.meta == {}


def test_case_65_headers_are_set_for_later_frames_and_deleted(worker):
    w = worker(
        """
        def handle(p):
            yield 1
            yield "SET", ".headers.k", "v"
            yield 2
            yield "DEL", ".headers.k"
            yield 3
            yield "DEL", ".headers.k"
        """
    )
    one, two, three, failed = w.run({})
    headers = default_context()["headers"]
    assert [one.meta, two.meta, three.meta] == [{}, {"headers": {**headers, "k": "v"}}, {"headers": headers}]
    assert failed.meta["type"] == "KeyError"


@pytest.mark.parametrize(
    "command, kind",
    [
        (("GET", "route.next"), "ValueError"), (("GET", ""), "ValueError"), (("GET", ".route.next[0:1]"), "ValueError"),
        (("DEL", ".route.next[0:1]"), "ValueError"), (("PUT", ".headers.k"), "asya.ProtocolError"),
    ],
)  # fmt: skip
def test_case_67_bad_commands(worker, command, kind):
    failed = worker(f"def handle(p):\n    yield {command!r}\n").one({})
    assert failed.meta["type"] == kind
    if kind == "asya.ProtocolError":
        assert "ABI protocol error" in failed.meta["message"] and "RuntimeError" in failed.meta["mro"]


def test_case_68_bare_yields_helpers_and_dotted_headers(worker):
    w = worker(
        """
        def helper():
            yield
            yield "SET", '.headers["a.b"]', 1
            return (yield "GET", '.headers["x.dotted"]')
        def handle(p):
            yield
            got = yield from helper()
            yield got
        """
    )
    sent, done = w.run({})
    assert sent.document == 1 and sent.meta["headers"]["a.b"] == 1 and done.kind == 2


def test_case_70_flying_sends_nothing_onward(worker):
    w = worker("def handle(p):\n    for n in range(5):\n        yield 'FLY', {'n': n}\n    yield 'end'\n")
    assert [one.document for one in w.run({})] == ["end", None]


@pytest.mark.parametrize("library", ["stdlib", "auto"])
def test_case_72_typed_values_are_written(worker, library):
    w = worker(
        """
        import dataclasses, typing
        @dataclasses.dataclass
        class Order:
            number: int
            lines: list
        class Line(typing.NamedTuple):
            sku: str
        class Model:
            __struct_fields__ = ("a",)
            a = 1
        def handle(p):
            value = [Order(1, [Line("x")]), Model()]
            if p:
                from pydantic import BaseModel
                class Person(BaseModel):
                    name: str
                value.append(Person(name="Ada"))
            return value
        """,
        env={"ASYA_JSON": library},
    )
    assert w.one(0).document == [{"number": 1, "lines": [["x"]]}, {"a": 1}]
    pytest.importorskip("pydantic")
    assert w.one(1).document[2] == {"name": "Ada"}
