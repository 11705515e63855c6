"""Libraries of the user's own: used when they are there."""

from __future__ import annotations

import json
import sys
from typing import Any, List

import pytest

from asya._runtime.blob import Blob
from asya._runtime.codec import Codec
from asya._runtime.failures import ResultError
from sidecar import OutBlob


@pytest.fixture
def numpy():
    return pytest.importorskip("numpy")


def test_pydantic_models_are_written(worker):
    pytest.importorskip("pydantic")
    w = worker(
        """
        import datetime, uuid
        from typing import List, Optional
        from pydantic import BaseModel

        class Line(BaseModel):
            sku: str
            data: bytes = b""

        class Order(BaseModel):
            id: uuid.UUID
            at: datetime.datetime
            lines: List[Line]
            note: Optional[str] = None

        def handle(p):
            return {"order": Order(id=uuid.UUID(int=1), at=datetime.datetime(2026, 1, 2), lines=[Line(sku="a", data=b"xyz")])}
        """
    )
    found = w.one({})
    assert found.document["order"]["lines"] == [{"sku": "a", "data": {"$asya.blob": 0}}]
    assert found.document["order"]["at"] == "2026-01-02T00:00:00"
    assert found.document["order"]["id"].endswith("0001") and found.blobs[0].data == b"xyz"


@pytest.mark.parametrize("library", ["stdlib", "auto"])
def test_numpy_scalars_become_numbers(numpy, library):
    codec = Codec(library)
    value = {"i": numpy.int64(3), "f": numpy.float32(0.5), "d": numpy.float64(0.25), "b": numpy.bool_(True), "s": numpy.str_("x")}
    assert json.loads(codec.dumps(value)) == {"i": 3, "f": 0.5, "d": 0.25, "b": True, "s": "x"}
    with pytest.raises(ValueError):
        codec.dumps({"x": numpy.float32("nan"), "n": None})
    with pytest.raises(ValueError):
        codec.dumps({"x": numpy.float64("inf"), "n": None})


def test_numpy_arrays_become_blobs_with_dtype_and_shape(numpy):
    codec = Codec()
    arrays = [
        numpy.arange(6, dtype="<f4").reshape(2, 3),
        numpy.arange(6, dtype=">i2"),
        numpy.arange(12, dtype="u1").reshape(3, 4)[:, ::2],
        numpy.arange(6, dtype="<f8").reshape(2, 3).T,
        numpy.array(5, dtype="<i8"),
        numpy.zeros((0, 3), "<f4"),
        numpy.array(["2026-01-02"], "datetime64[D]"),
        numpy.array([True, False]),
        numpy.array(["ab", "c"]),
        numpy.arange(4, dtype="<f2"),
        numpy.array([1 + 2j], "<c8"),
    ]
    json.loads(codec.dumps(arrays))
    for array, blob in zip(arrays, codec.blobs):
        assert (blob.dtype, blob.shape, blob.nbytes) == (array.dtype.str, array.shape, array.nbytes)
        assert bytes(blob.bytes_like()) == array.tobytes()
    with pytest.raises(ResultError, match="Python objects"):
        codec.dumps(numpy.array([object()]))
    with pytest.raises(ResultError, match="dimensions"):
        codec.dumps(numpy.zeros((1,) * 9))


def test_a_blob_is_an_array_to_numpy(numpy):
    data = numpy.arange(6, dtype="<f4").reshape(2, 3)
    for dtype in ("<f4", ">f4"):
        blob = Blob(data.astype(dtype).tobytes(), dtype, (2, 3))
        for array in (blob.numpy(), numpy.asarray(blob), numpy.array(blob, copy=True)):
            assert array.shape == (2, 3) and array.dtype == dtype and (array == data).all()
        assert not blob.numpy().flags.writeable
        copy = blob.copy().numpy()
        copy[0, 0] = 9
        assert blob.numpy()[0, 0] == 0
    raw = Blob(b"abc")
    assert numpy.asarray(raw).tolist() == [97, 98, 99] == raw.numpy().tolist()
    assert Blob(b"", "<f4", (0, 3)).numpy().shape == (0, 3)


def test_arrays_through_a_worker(worker, numpy):
    w = worker(
        """
        import numpy, asya
        def handle(p):
            image = numpy.asarray(p["image"])
            assert image.shape == (40, 50, 3) and not image.flags.writeable
            out = asya.empty(image.shape, numpy.float32)
            numpy.divide(image, 2, out=out)
            return {"half": out, "crop": image[:30], "small": image[::10, ::10], "mean": image.mean()}
        """
    )
    image = numpy.arange(6000, dtype="u1").reshape(40, 50, 3)
    found = w.one({"image": {"$asya.blob": 0}}, [OutBlob("|u1", (40, 50, 3), image.tobytes())], room=1 << 17)
    half, crop, small = found.blobs
    assert half.dtype == "<f4" and half.data == (image.astype("f4") / 2).tobytes()
    assert crop.shape == (30, 50, 3) and crop.data == image[:30].tobytes()
    assert small.shape == (4, 5, 3) and small.data == image[::10, ::10].tobytes()
    assert found.document["mean"] == float(image.mean())
    # one was made in the room, one is a range of the input, one was copied
    assert {region for region, _, _ in found.parts} == {0, 1}
    assert (1, 4500) in [(region, length) for region, _, length in found.parts]


class FakeTensor:
    """As much of a torch tensor as the runtime looks at."""

    def __init__(self, source: Any, dtype: str = "torch.float32") -> None:
        self._source = source
        self.dtype = dtype
        self.shape = (2, 3)
        self.steps: List[str] = []

    def detach(self) -> Any:
        self.steps.append("detach")
        return self

    def cpu(self) -> Any:
        self.steps.append("cpu")
        return self

    def contiguous(self) -> Any:
        self.steps.append("contiguous")
        return self

    def numel(self) -> int:
        return 6

    def element_size(self) -> int:
        return 4

    def data_ptr(self) -> int:
        import ctypes

        return ctypes.addressof(self._source)


def test_torch_tensors_become_blobs_without_numpy():
    import ctypes

    source = (ctypes.c_float * 6)(*range(6))
    tensor = FakeTensor(source)
    codec = Codec()
    assert codec.dumps({"t": tensor}) == b'{"t":{"$asya.blob":0}}'
    blob = codec.blobs[0]
    assert (blob.dtype, blob.shape, bytes(blob.bytes_like())) == ("<f4", (2, 3), bytes(source))
    assert tensor.steps == ["detach", "cpu", "contiguous"]
    with pytest.raises(ResultError, match="bfloat16"):
        codec.dumps(FakeTensor(source, "torch.bfloat16"))


def test_torch_views_do_not_warn_and_copy_nothing(monkeypatch, recwarn):
    class FakeTorch:
        float32 = "f32"
        uint8 = "u8"
        seen: List[Any] = []

        class Tensor:
            def reshape(self, shape: Any) -> Any:
                return shape

        @classmethod
        def frombuffer(cls, buffer: Any, dtype: Any) -> Any:
            cls.seen.append((memoryview(buffer).readonly, memoryview(buffer).nbytes, dtype))
            return cls.Tensor()

        @staticmethod
        def empty(shape: Any, dtype: Any) -> Any:
            return shape

    monkeypatch.setitem(sys.modules, "torch", FakeTorch)  # type: ignore[arg-type]
    assert Blob(bytes(24), "<f4", (2, 3)).torch() == (2, 3)
    assert Blob(b"abc").torch() == (3,)
    assert Blob(b"", "<f4", (0, 3)).torch() == (0, 3)
    assert FakeTorch.seen == [(False, 24, "f32"), (False, 3, "u8")]
    with pytest.raises(TypeError, match="no dtype"):
        Blob(bytes(4), ">f4").torch()
    assert not recwarn.list


class Interface:
    """An array to NumPy and to nothing else."""

    def __init__(self, **interface: Any) -> None:
        self.__array_interface__ = {"version": 3, **interface}


def test_objects_with_an_array_interface_become_blobs():
    import ctypes

    source = (ctypes.c_float * 6)(*range(6))
    codec = Codec()
    codec.dumps(
        [
            Interface(typestr="<f4", shape=(2, 3), data=(ctypes.addressof(source), False)),
            Interface(typestr="<f4", shape=(2,), data=memoryview(source), offset=4),
            Interface(typestr="<f4", shape=(2, 3), data=(ctypes.addressof(source), False), strides=(12, 4)),
        ]
    )
    assert [(b.dtype, b.shape, bytes(b.bytes_like())) for b in codec.blobs] == [
        ("<f4", (2, 3), bytes(source)), ("<f4", (2,), bytes(source)[4:12]), ("<f4", (2, 3), bytes(source)),
    ]  # fmt: skip
    with pytest.raises(ResultError, match="Python objects"):
        codec.dumps(Interface(typestr="|O8", shape=(1,), data=(ctypes.addressof(source), False)))
    with pytest.raises(ResultError, match="its shape needs"):
        codec.dumps(Interface(typestr="<f4", shape=(9,), data=memoryview(source)))


def test_arrays_of_the_standard_library_become_blobs():
    import array

    codec = Codec()
    matrix = memoryview(bytes(range(6))).cast("B", (2, 3))
    codec.dumps([array.array("f", [1, 2]), array.array("q", [3]), matrix, memoryview(b"abcdef")[::2], array.array("d")])
    assert [(b.dtype, b.shape, bytes(b.bytes_like())) for b in codec.blobs] == [
        ("<f4", (2,), array.array("f", [1, 2]).tobytes()),
        ("<i8", (1,), array.array("q", [3]).tobytes()),
        ("|u1", (2, 3), bytes(range(6))),
        ("raw", (3,), b"ace"),
        ("<f8", (0,), b""),
    ]


def test_other_typed_structs_are_written():
    class MsgspecLike:
        __struct_fields__ = ("a", "b")
        a, b = 1, b"x"

    class Attribute:
        def __init__(self, name: str) -> None:
            self.name = name

    class AttrsLike:
        __attrs_attrs__ = (Attribute("c"),)
        c = 3

    class PydanticOneLike:
        __fields__ = ("d",)

        def dict(self) -> Any:
            return {"d": 4}

    codec = Codec()
    assert json.loads(codec.dumps([MsgspecLike(), AttrsLike(), PydanticOneLike()])) == [
        {"a": 1, "b": {"$asya.blob": 0}}, {"c": 3}, {"d": 4},
    ]  # fmt: skip
