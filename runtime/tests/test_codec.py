"""JSON has one meaning, with orjson and without."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import random
import uuid
from collections import OrderedDict, namedtuple

import pytest

from asya._runtime import codec as codec_module
from asya._runtime.blob import Blob
from asya._runtime.codec import Codec, loads_orjson, loads_stdlib
from asya._runtime.failures import PayloadError, ResultError

LIBRARIES = ["stdlib"] + (["orjson"] if codec_module.orjson else [])
LOADS = {"stdlib": loads_stdlib, "orjson": loads_orjson}

Point = namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Order:
    number: int
    _hidden: str
    lines: list
    data: bytes = b""


class Ratio(float):
    pass


@pytest.fixture(params=LIBRARIES)
def codec(request):
    return Codec(request.param)


@pytest.fixture(params=LIBRARIES)
def loads(request):
    return LOADS[request.param]


DOCUMENTS = [
    b"null", b"0", b"-0", b"1.5e3", b'""', b"[]", b"{}", b' {"a" : [1, 2.5, "x", null, true] } \n',
    b"18446744073709551615", b"18446744073709551616", b"-9223372036854775808", b"-9223372036854775809",
    b'[1234567890123456789012345678901234567890]', b'{"a":"12345678901234567890"}', b'"\\ud800"', b'"\\ud83d\\ude00"',
    b'{"a":1,"a":2}', "\"grüße\"".encode(), b"1e400", b'{"k":0.1234567890123456789012}', b'"\\u0000"',
    b"[" * 900 + b"]" * 900,
]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d[:24].decode("utf-8", "replace"))
def test_a_document_means_what_the_standard_library_says(loads, document):
    expected = json.loads(document.decode())
    found = loads(document)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "document",
    [b"", b" ", b"{", b'{"a":}', b"nul", b"NaN", b"[Infinity]", b"-Infinity", b'"\xff"', b"[1,]", b"{'a':1}", b"1 2",
     b'"\x01"', b"\xef\xbb\xbf1", b"01", b"+1", b'{"a":1}x', b"[" * 200_000],
    ids=lambda d: repr(d[:12]),
)  # fmt: skip
def test_what_is_no_json_is_refused(loads, document):
    with pytest.raises(PayloadError, match="not valid JSON|too deeply"):
        loads(document)


@pytest.mark.skipif("orjson" not in LIBRARIES, reason="orjson is not installed")
def test_both_libraries_agree_on_random_documents():
    seeded = random.Random(7)

    def value(depth):
        kind = seeded.randrange(9 if depth else 6)
        if kind == 0:
            return seeded.choice([None, True, False])
        if kind == 1:
            return seeded.randrange(-(10**seeded.randrange(1, 25)), 10 ** seeded.randrange(1, 25))
        if kind == 2:
            return seeded.uniform(-1, 1) * 10 ** seeded.randrange(-300, 300)
        if kind < 6:
            return "".join(chr(seeded.choice([48, 65, 34, 92, 10, 233, 0x4E2D, 0x1F600])) for _ in range(seeded.randrange(25)))
        if kind == 6:
            return [value(depth - 1) for _ in range(seeded.randrange(6))]
        return {value(0) if seeded.random() < 0.2 else f"k{i}": value(depth - 1) for i in range(seeded.randrange(6))}

    ours, theirs = Codec("orjson"), Codec("stdlib")
    for _ in range(3000):
        one = value(4)
        document = theirs.dumps(one)
        assert json.loads(ours.dumps(one)) == json.loads(document)
        assert loads_orjson(document) == loads_stdlib(document)
        assert repr(loads_orjson(document)) == repr(loads_stdlib(document))


RESULTS = [
    ({"a": [1, 2.5, "x", None, True]}, {"a": [1, 2.5, "x", None, True]}),
    (2**80, 2**80),
    ({1: "a", True: "b", None: "c", 2.5: "d"}, {"1": "b", "null": "c", "2.5": "d"}),
    ((1, 2), [1, 2]),
    (Point(1, 2), [1, 2]),
    (Colour.RED, "red"),
    (Level.LOW, 1),
    ({"nested": [Point(1, Colour.RED)]}, {"nested": [[1, "red"]]}),
    (Order(1, "h", [Point(1, 2)]), {"number": 1, "_hidden": "h", "lines": [[1, 2]], "data": {"$asya.blob": 0}}),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc), "2026-01-02T03:04:05+00:00"),
    (datetime.date(2026, 1, 2), "2026-01-02"),
    (datetime.time(3, 4, 5), "03:04:05"),
    (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
    (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    (Ratio(0.5), 0.5),
    ("lone \ud800 surrogate", "lone \ud800 surrogate"),
    ("grüße", "grüße"),
    ({"n": None, "f": 1.5, "deep": [{"x": (None, 2.5)}]}, {"n": None, "f": 1.5, "deep": [{"x": [None, 2.5]}]}),
]


@pytest.mark.parametrize("result, expected", RESULTS, ids=lambda value: repr(value)[:30].partition(" at 0x")[0])
def test_a_result_is_written_alike(codec, result, expected):
    assert json.loads(codec.dumps(result)) == expected


@pytest.mark.parametrize(
    "result",
    [math.nan, math.inf, {"a": [1, -math.inf]}, {"n": None, "deep": ({"x": math.nan},)}, {"r": Ratio("nan"), "n": None}, {1, 2},
     object(), {(1, 2): 3}, {"f": lambda: 0}, 1j],
    ids=lambda value: repr(value).partition(" at 0x")[0],
)  # fmt: skip
def test_what_json_cannot_say_is_refused(codec, result):
    with pytest.raises((ValueError, TypeError)):
        codec.dumps(result)
    assert codec.dumps({"next": 1}) == b'{"next":1}', "the codec is as good as new"


def test_a_result_that_contains_itself_is_refused(codec):
    result = []
    result.append(result)
    with pytest.raises((ValueError, RecursionError, TypeError)):
        codec.dumps(result)
    assert codec.dumps([]) == b"[]"


def test_the_type_that_cannot_be_written_is_named(codec):
    with pytest.raises(ResultError, match="test_codec.Unknown"):
        codec.dumps({"a": Unknown()})

    async def coroutine():
        pass

    one = coroutine()
    with pytest.raises(ResultError, match="coroutine"):
        codec.dumps(one)
    one.close()


class Unknown:
    pass


def test_buffers_become_blobs_in_order(codec):
    document = codec.dumps({"a": b"one", "b": [bytearray(b"two"), memoryview(b"three")], "c": Blob(b"four")})
    assert json.loads(document) == {
        "a": {"$asya.blob": 0}, "b": [{"$asya.blob": 1}, {"$asya.blob": 2}], "c": {"$asya.blob": 3},
    }  # fmt: skip
    assert [bytes(blob.bytes_like()) for blob in codec.blobs] == [b"one", b"two", b"three", b"four"]
    assert codec.dumps(1) == b"1" and codec.blobs == []


def test_a_dict_that_looks_like_a_blob_is_escaped_only_beside_blobs(codec):
    lookalike = {"$asya.blob": 5}
    assert json.loads(codec.dumps({"x": lookalike})) == {"x": lookalike}
    document = codec.dumps({"x": lookalike, "y": b"data", "z": [{"$asya.blob": {"$asya.blob": 1}}], "w": {"$asya.blob": 1, "k": 2}})
    assert json.loads(document) == {
        "x": {"$asya.blob": {"$asya.literal": 5}},
        "y": {"$asya.blob": 0},
        "z": [{"$asya.blob": {"$asya.literal": {"$asya.blob": {"$asya.literal": 1}}}}],
        "w": {"$asya.blob": 1, "k": 2},
    }
    assert len(codec.blobs) == 1
    assert json.loads(codec.dumps(Order(1, "", [lookalike], b"x")))["lines"] == [{"$asya.blob": {"$asya.literal": 5}}]


def test_a_string_that_reads_like_the_key_is_left_alone(codec):
    assert json.loads(codec.dumps({"s": "$asya.blob", "d": b"x"})) == {"s": "$asya.blob", "d": {"$asya.blob": 0}}


def test_after_a_fallback_blobs_are_counted_once(codec):
    document = codec.dumps({"d": b"x", "big": 2**70, 3: "key"})
    assert json.loads(document) == {"d": {"$asya.blob": 0}, "big": 2**70, "3": "key"}
    assert len(codec.blobs) == 1


def test_asking_for_orjson_where_there_is_none(monkeypatch):
    monkeypatch.setattr(codec_module, "orjson", None)
    with pytest.raises(ImportError, match="no orjson"):
        Codec("orjson")
    assert not Codec("auto").uses_orjson


def test_without_the_c_encoder(monkeypatch):
    monkeypatch.setattr(codec_module.json_encoder, "c_make_encoder", None)
    codec = Codec("stdlib")
    assert json.loads(codec.dumps({"a": [1, b"x", "grüße"]})) == {"a": [1, {"$asya.blob": 0}, "grüße"]}
    with pytest.raises(ValueError):
        codec.dumps(math.nan)


def test_what_cannot_be_written_is_the_only_error_and_says_what_can():
    with pytest.raises(ResultError, match="set cannot be written as JSON; a list can") as raised:
        Codec("auto").dumps({"labels": {"a", "b"}})
    assert raised.value.__context__ is None
