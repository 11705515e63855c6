"""Blobs in and out, and who may use the memory when."""

from __future__ import annotations

import os
import pickle
import sys

import pytest

from asya._runtime.blob import Blob
from sidecar import OutBlob

SMALL, LARGE = 100, 20_000

KINDS = {
    "one at a time": {},
    "threads": {"env": {"ASYA_CONCURRENCY": "3"}},
}


def ref(index: int) -> dict:
    return {"$asya.blob": index}


def raw(data: bytes) -> OutBlob:
    return OutBlob("raw", (len(data),), data)


READ = """
def handle(p):
    data = p["data"]
    return {
        "bytes": bytes(data).hex()[:20], "nbytes": data.nbytes, "len": len(data), "dtype": data.dtype,
        "shape": data.shape, "view": data.view[:3].tobytes().hex(), "first": data[0], "readonly": data.view.readonly,
    }
"""


@pytest.mark.parametrize("size", [3, SMALL, LARGE])
def test_raw_blobs_arrive(worker, size):
    data = os.urandom(size)
    found = worker(READ).one({"data": ref(0)}, [raw(data)]).document
    assert found == {
        "bytes": data.hex()[:20], "nbytes": size, "len": size, "dtype": "raw", "shape": [size],
        "view": data[:3].hex(), "first": data[0], "readonly": True,
    }  # fmt: skip


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_received_memory_cannot_be_written(worker, size):
    w = worker(
        """
        def handle(p):
            try:
                p["data"].view[0] = 1
            except TypeError:
                copy = p["data"].copy()
                copy.view[0] = 255
                return {"copy": copy, "same": p["data"]}
        """
    )
    data = bytes(size)
    found = w.one({"data": ref(0)}, [raw(data)])
    assert [blob.data for blob in found.blobs] == [b"\xff" + data[1:], data]


def test_typed_views_without_numpy(worker):
    import struct

    w = worker(
        """
        def handle(p):
            view = p["m"].typed_view()
            out = {"format": view.format, "shape": view.shape, "list": view.tolist(), "item": p["m"][1, 2]}
            return out
        """
    )
    data = struct.pack("<6f", *range(6))
    assert w.one({"m": ref(0)}, [OutBlob("<f4", (2, 3), data)]).document == {
        "format": "f", "shape": [2, 3], "list": [[0, 1, 2], [3, 4, 5]], "item": 5.0,
    }  # fmt: skip


def test_a_blob_may_be_the_payload_and_the_result(worker):
    w = worker("def handle(p):\n    return p\n")
    for size in (0, 1, 64, SMALL, LARGE):
        found = w.one(ref(0), [raw(os.urandom(size))])
        assert found.document == ref(0) and found.blobs[0].shape == (size,)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_range_of_an_input_is_sent_without_a_copy(worker, options):
    w = worker(
        """
        def handle(p):
            view = p["a"].view
            return {"whole": p["a"], "half": view[8192:16384], "b": p["b"], "tiny": view[:10]}
        """,
        **options,
    )
    a, b = os.urandom(LARGE), os.urandom(LARGE + 1)
    found = w.one({"a": ref(0), "b": ref(1)}, [raw(a), raw(b)])
    assert [blob.data for blob in found.blobs] == [a, a[8192:16384], b, a[:10]]
    assert sorted(length for region, _, length in found.parts if region == 1) == [8192, LARGE, LARGE + 1]
    assert not found.flags & 2


def test_many_parts_stay_within_the_limit(worker):
    w = worker("def handle(p):\n    v = p['a'].view\n    return [v[i * 64 : i * 64 + 5000] for i in range(40)]\n")
    data = os.urandom(LARGE)
    found = w.one({"a": ref(0)}, [raw(data)], room=1 << 17)
    assert [blob.data for blob in found.blobs] == [data[i * 64 : i * 64 + 5000] for i in range(40)]
    assert 1 < len(found.parts) <= 64


def test_bytes_in_a_result_are_blobs_never_base64(worker):
    w = worker("def handle(p):\n    return {'tiny': b'\\x00\\xff', 'empty': b'', 'array': bytearray(5000)}\n")
    found = w.one({})
    assert [blob.data for blob in found.blobs] == [b"\x00\xff", b"", bytes(5000)]
    assert not found.parts and found.raw[: len(found.raw)].startswith(b'{"tiny":{"$asya.blob":0}')


def test_the_literal_of_a_lookalike_comes_back(worker):
    w = worker("def handle(p):\n    assert p['x'] == {'$asya.blob': 5}, p\n    return p\n")
    lookalike = {"$asya.blob": {"$asya.literal": 5}}
    found = w.one({"x": lookalike, "y": ref(0)}, [raw(b"q")])
    assert found.document == {"x": lookalike, "y": ref(0)}
    assert w.one({"x": {"$asya.blob": 5}}).document == {"x": {"$asya.blob": 5}}


@pytest.mark.parametrize(
    "break_it",
    [
        {"document": {"d": ref(1)}},
        {"document": {"d": ref(-1)}},
        {"document": {"d": {"$asya.blob": "x"}}},
        {"fields": {"payload_len": 100}},
        {"table": (40, 10**6)},
        {"table": (96, 10**6)},
        {"table": (104, 7)},
        {"table": (0, 0xFF)},
        {"table": (16, 9)},
    ],
    ids=lambda b: str(b),
)
def test_a_section_that_lies_is_that_messages_error(worker, break_it):
    import json
    import struct

    from asya._runtime.layout import aligned
    from sidecar import section

    w = worker("def handle(p):\n    return 1\n")
    encoded = json.dumps(break_it.get("document", {"d": ref(0)})).encode()
    content = bytearray(section(encoded, [raw(os.urandom(LARGE))]))
    if "table" in break_it:
        offset, value = break_it["table"]
        struct.pack_into("<I" if offset == 16 else "<Q", content, aligned(len(encoded)) + offset, value)
    found = w.one(None, [raw(b"")], raw=encoded, payload=bytes(content), fields=break_it.get("fields"))
    assert found.kind == 3 and found.meta["kind"] == "msg_parsing_error"
    assert found.meta["type"] == "asya.PayloadError"
    assert w.one({"ok": 1}).document == 1


KEEP = """
kept = []
def handle(p):
    if p.get("drop"):
        del kept[: p["drop"]]
        return {"kept": len(kept)}
    kept.append(p["data"].view[10:20])
    return {"all": [k.tobytes().hex() for k in kept]}
"""


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_a_handler_that_keeps_every_input_pins_it(worker, options):
    w = worker(KEEP, **options)
    datas = [os.urandom(LARGE) for _ in range(4)]
    calls = []
    for count, data in enumerate(datas, 1):
        found = w.one({"data": ref(0)}, [raw(data)])
        calls.append(found.call)
        assert found.flags & 2, "the call ends pinned"
        assert found.document["all"] == [one[10:20].hex() for one in datas[:count]]
    assert w.pinned == calls
    w.call({"drop": 3})
    w.until(lambda found: w.pinned == calls[3:] and not w.open)
    w.call({"drop": 1})
    w.until(lambda found: w.pinned == [] and not w.open)


def test_small_blobs_pin_nothing(worker):
    w = worker(KEEP)
    found = w.one({"data": ref(0)}, [raw(os.urandom(SMALL))])
    assert not found.flags & 2


def test_a_view_that_dies_in_another_thread_while_the_worker_waits(worker):
    w = worker(
        """
        import threading
        gate = threading.Event()
        def hold(view):
            gate.wait()
            del view
        def handle(p):
            if "data" in p:
                threading.Thread(target=hold, args=(p.pop("data").view,)).start()
            else:
                threading.Timer(0.1, gate.set).start()
            return 1
        """
    )
    assert w.one({"data": ref(0)}, [raw(bytes(LARGE))]).flags & 2
    assert w.one({}).document == 1
    w.until(lambda found: not w.pinned)


def test_a_view_in_a_cycle_is_let_go_by_the_collector(worker):
    w = worker(
        """
        import gc
        gc.disable()
        def handle(p):
            if "data" in p:
                knot = [p["data"]]
                knot.append(knot)
                return 1
            gc.collect()
            return 2
        """
    )
    assert w.one({"data": ref(0)}, [raw(bytes(LARGE))]).flags & 2
    w.call({})
    w.until(lambda found: not w.pinned and not w.open)


def test_an_error_that_keeps_the_payload_pins_it(worker):
    w = worker(
        """
        errors = []
        def handle(p):
            if "data" not in p:
                errors.clear()
                return 1
            try:
                raise ValueError("kept")
            except ValueError as error:
                errors.append(error)
                raise
        """
    )
    failed = w.one({"data": ref(0)}, [raw(bytes(LARGE))])
    assert failed.kind == 3 and failed.flags & 2
    w.call({})
    w.until(lambda found: not w.pinned and not w.open)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="classes export buffers from Python 3.12 on")
def test_a_blob_is_a_buffer(worker):
    w = worker("def handle(p):\n    return {'m': memoryview(p['d'])[1:3].tobytes().hex(), 'b': bytes(p['d']).hex()}\n")
    assert w.one({"d": ref(0)}, [raw(b"abcd")]).document == {"m": b"bc".hex(), "b": b"abcd".hex()}


def test_blobs_made_in_a_test():
    blob = Blob(b"12345678", "<f4")
    assert (blob.shape, blob.nbytes, len(blob)) == ((2,), 8, 2)
    assert repr(blob) == "<asya.Blob <f4 2, 8 bytes>"
    again = pickle.loads(pickle.dumps(blob))
    assert (bytes(again), again.dtype, again.shape) == (b"12345678", "<f4", (2,))
    with pytest.raises(ValueError, match="are not an array"):
        Blob(b"123", "<f4", (1,))
    with pytest.raises(ValueError, match="type string"):
        Blob(b"123", "float")
    with pytest.raises(TypeError):
        len(Blob(b"1234", "<f4", ()))
    with pytest.raises(BufferError):
        Blob(b"12", "<f2").typed_view()


# asya.empty

FILL = """
import asya
def handle(p):
    out = asya.empty(p["size"])
    view = memoryview(out)
    view[:] = bytes([p["value"]]) * p["size"]
    return {"out": out}
"""


@pytest.mark.parametrize("options", [*KINDS.values(), {"async": True}], ids=[*KINDS, "async"])
def test_an_array_made_in_place_is_sent_without_a_copy(worker, options):
    source = FILL
    if options.get("async"):
        source, options = FILL.replace("def handle", "async def handle"), {}
    w = worker(source, **options)
    for number, size in enumerate((5000, 12_000, 200_000, 5000)):  # the room at hand is 16 KiB
        found = w.one({"size": size, "value": number})
        assert found.blobs[0].data == bytes([number]) * size
        assert [length for region, _, length in found.parts if region == 0].count(size) == 1
    assert w.one({"size": 0, "value": 0}).blobs[0].data == b""


def test_several_arrays_in_one_result(worker):
    w = worker(
        """
        import asya
        def handle(p):
            outs = []
            for number in range(4):
                out = asya.empty(5000)
                memoryview(out)[:] = bytes([number]) * 5000
                outs.append(out)
            return {"outs": outs, "text": "x" * 100_000}
        """
    )
    for room in (1 << 20, 4096 * 4, 0):
        found = w.one({}, room=room)
        assert [blob.data for blob in found.blobs] == [bytes([number]) * 5000 for number in range(4)]


def test_what_is_kept_of_an_array_becomes_private(worker):
    w = worker(
        """
        import asya
        kept = []
        def handle(p):
            for old in kept:
                memoryview(old)[:] = b"!" * 5000
            if p["keep"]:
                out = asya.empty(5000)
                memoryview(out)[:] = bytes([p["value"]]) * 5000
                kept.append(out)
                return {"out": out}
            return {"out": bytes(kept[0])}
        """,
        # so little memory that rooms are used again and again
        memory=dict(output_bytes=4096 * 18),
    )
    for value in range(8):
        found = w.one({"keep": True, "value": value})
        assert found.blobs[0].data == bytes([value]) * 5000
    for _ in range(8):
        assert w.one({"keep": False}).blobs[0].data == b"!" * 5000


def test_a_generator_may_fill_the_same_array_again(worker):
    w = worker(
        """
        import asya
        def handle(p):
            out = asya.empty(5000)
            for number in range(5):
                memoryview(out)[:] = bytes([number]) * 5000
                yield {"out": out}
        """
    )
    found = w.run({})
    assert [one.blobs[0].data for one in found[:-1]] == [bytes([number]) * 5000 for number in range(5)]


def test_an_array_that_is_not_sent(worker):
    w = worker(
        """
        import asya
        kept = []
        def handle(p):
            kept.append(asya.empty(5000))
            if p.get("fail"):
                raise ValueError("x")
            return None if p.get("none") else p
        """
    )
    assert w.one({"none": 1}).kind == 2
    assert w.one({"fail": 1}).meta["type"] == "ValueError"
    assert w.one({"a": 1}).document == {"a": 1}


def test_an_array_larger_than_any_result(worker):
    w = worker(FILL)
    failed = w.one({"size": 2 << 20, "value": 1})
    assert failed.meta["type"] == "asya.ResultTooLargeError"
    assert w.one({"size": (1 << 20) - 4096, "value": 1}).kind == 1


def test_arrays_outside_of_a_call(worker):
    import asya

    assert memoryview(asya.empty((2, 3), "f4")).nbytes == 24
    w = worker(
        """
        import asya
        spare = asya.empty(8)
        def handle(p):
            memoryview(spare)[:] = b"12345678"
            return {"spare": spare}
        """
    )
    assert w.one({}).blobs[0].data == b"12345678"


def test_without_ctypes_blobs_are_copied(worker, tmp_path):
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "ctypes.py").write_text("raise ImportError('no ctypes here')\n")
    w = worker(
        """
        import asya, sys
        def handle(p):
            out = asya.empty(p["data"].nbytes)
            memoryview(out)[:] = p["data"].view
            return {"a": p["data"], "b": out, "ctypes": "ctypes" in sys.modules}
        """,
        env={"PYTHONPATH": str(tmp_path / "nothing")},
    )
    data = os.urandom(LARGE)
    found = w.one({"data": ref(0)}, [raw(data)])
    assert [blob.data for blob in found.blobs] == [data, data]
    assert found.document["ctypes"] is False and not found.parts and not found.flags & 2


@pytest.mark.parametrize("seed", range(3))
def test_random_mixes_of_ranges_arrays_and_copies(worker, seed):
    """Whatever a result is made of, its section reads as it should; the sidecar of the tests checks every range."""
    import random

    w = worker(
        """
        import asya
        def handle(p):
            view = p["data"].view
            out = []
            for kind, start, size in p["pieces"]:
                if kind == "range":
                    out.append(view[start : start + size])
                elif kind == "copy":
                    out.append(bytes(view[start : start + size]))
                else:
                    array = asya.empty(size)
                    if size:
                        memoryview(array)[:] = view[start : start + size]
                    out.append(array)
            return {"pad": "x" * p["pad"], "out": out}
        """
    )
    seeded = random.Random(seed)
    data = seeded.randbytes(60_000) if hasattr(seeded, "randbytes") else os.urandom(60_000)
    kinds = set()
    for _ in range(60):
        pieces = [
            (
                seeded.choice(["range", "copy", "empty"]),
                seeded.randrange(20_000),
                seeded.choice([0, 1, 63, 64, 65, 4095, 4096, 5000, 8192, 20_001]),
            )
            for _ in range(seeded.randrange(1, 40))
        ]
        found = w.run(
            {"data": ref(0), "pieces": pieces, "pad": seeded.randrange(200)}, [raw(data)],
            room=seeded.choice([0, 4096, 1 << 16, 1 << 20]),
        )  # fmt: skip
        assert len(found) == 1 and found[0].kind == 1, found[0].meta
        # The same object twice (such as empty bytes) is one blob.
        sent = [found[0].blobs[one["$asya.blob"]].data for one in found[0].document["out"]]
        assert sent == [data[start : start + size] for _, start, size in pieces]
        kinds.add((bool(found[0].parts), bool([1 for region, _, _ in found[0].parts if region == 1])))
    assert (True, True) in kinds
    assert not w.pinned
