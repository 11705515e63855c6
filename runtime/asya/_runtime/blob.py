"""Blobs that a handler receives: read-only views of shared memory.

Takes: the input mapping and the range of a payload section. Gives: the document's value with a `Blob` for each
reference. Blocks on: nothing. On failure: `PayloadError` for a table that does not fit its section.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple, Union

from . import memory, table
from .failures import PayloadError
from .layout import BLOB_KEY, LITERAL_KEY, RAW, TABLE_ENTRY_BYTES, aligned
from .table import itemsize

# Below this a copy costs less than watching a view, and keeps nothing pinned.
COPY_BELOW_BYTES = 4096

# How NumPy's type strings are called by `memoryview.cast` and by torch.
FORMATS = {
    "|u1": "B", "|i1": "b", "|b1": "?", "<u2": "H", "<i2": "h", "<u4": "I", "<i4": "i", "<u8": "Q", "<i8": "q",
    "<f4": "f", "<f8": "d",
}  # fmt: skip
_NAMES = {
    "uint8": "|u1", "int8": "|i1", "bool": "|b1", "uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4",
    "uint64": "<u8", "int64": "<i8", "float16": "<f2", "float32": "<f4", "float64": "<f8", "int": "<i8",
    "float": "<f8",
}  # fmt: skip
_TORCH = {
    "|u1": "uint8", "|i1": "int8", "|b1": "bool", "<u2": "uint16", "<i2": "int16", "<u4": "uint32", "<i4": "int32",
    "<u8": "uint64", "<i8": "int64", "<f2": "float16", "<f4": "float32", "<f8": "float64", "<c8": "complex64",
    "<c16": "complex128",
}  # fmt: skip


class Blob:
    """Binary data in a payload: plain bytes, or an array with a dtype and a shape.

    What a handler receives is read-only and lies in shared memory: nothing was copied. `bytes(blob)`, `blob.view`,
    `blob.numpy()`, `blob.torch()` and `numpy.asarray(blob)` look at it; `blob.copy()` gives a private, writable one.
    For tests of a handler, make one of any bytes: `Blob(b"...")`, `Blob(data, "<f4", (2, 3))`.
    """

    __slots__ = ("view", "dtype", "shape", "_source", "_address", "__weakref__")

    view: memoryview
    """The bytes, flat. Read-only when received."""
    dtype: str
    """`raw` for plain bytes, else NumPy's type string, such as `<f4`."""
    shape: Tuple[int, ...]
    """The lengths of the array's axes; plain bytes have one."""

    def __init__(self, data: Any, dtype: str = RAW, shape: Optional[Sequence[int]] = None) -> None:
        self.view = memoryview(data).cast("B")
        self.dtype = dtype
        size = itemsize(dtype)
        self.shape = (self.view.nbytes // size,) if shape is None else tuple(shape)
        self._source: Any = None
        self._address = 0
        count = size
        for length in self.shape:
            count *= length
        if count != self.view.nbytes:
            raise ValueError(f"{self.view.nbytes} bytes are not an array of {dtype} with shape {self.shape}")

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.view.nbytes

    def typed_view(self) -> memoryview:
        """The data as a memoryview with its own item type and shape."""
        if self.dtype == RAW:
            return self.view
        form = FORMATS.get(self.dtype)
        if form is None or not self.shape or 0 in self.shape:
            raise BufferError(f"a memoryview cannot show {self.dtype} with shape {self.shape}; use .numpy() or .view")
        return self.view.cast(form, self.shape)  # type: ignore[call-overload,no-any-return,unused-ignore]

    def numpy(self) -> Any:
        """A NumPy array over the same memory."""
        import numpy

        return numpy.ndarray(self.shape, "|u1" if self.dtype == RAW else self.dtype, self.view)

    def torch(self) -> Any:
        """A torch tensor over the same memory. Torch has no read-only tensors: writing to one that was received ends
        the process, so work on `.copy().torch()` where the code writes in place."""
        import torch  # type: ignore[import-not-found,unused-ignore]

        name = _TORCH.get("|u1" if self.dtype == RAW else self.dtype)
        if name is None:
            raise TypeError(f"torch has no dtype for {self.dtype}")
        dtype = getattr(torch, name)
        if not self.view.nbytes:
            return torch.empty(self.shape, dtype=dtype)
        # A writable view, because torch warns about any other.
        buffer: Any = self.view
        if self.view.readonly:
            buffer = bytearray(self.view) if self._source is None else memoryview(self._source).cast("B")[: self.nbytes]
        return torch.frombuffer(buffer, dtype=dtype).reshape(self.shape)

    def copy(self) -> Blob:
        """A private copy, whose views are writable and which keeps no shared memory."""
        return Blob(bytearray(self.view), self.dtype, self.shape)

    def tobytes(self) -> bytes:
        """The same as `bytes(blob)`."""
        return self.view.tobytes()

    __bytes__ = tobytes

    def __buffer__(self, flags: int) -> memoryview:
        return self.typed_view()

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "typestr": "|u1" if self.dtype == RAW else self.dtype,
            "shape": self.shape,
            "data": self.view,
        }

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a blob without dimensions has no length")
        return self.shape[0]

    def __getitem__(self, key: Union[int, slice]) -> Any:
        return self.typed_view()[key]

    def __repr__(self) -> str:
        return f"<asya.Blob {self.dtype} {'×'.join(map(str, self.shape))}, {self.nbytes} bytes>"

    def __reduce__(self) -> Tuple[Any, ...]:
        return Blob, (bytearray(self.view), self.dtype, self.shape)


def typestr(dtype: Any) -> str:
    """A type string from whatever names a dtype: `f4`, `float32`, `numpy.float32`, `float`."""
    named: Any = getattr(dtype, "str", None) or (dtype if isinstance(dtype, str) else getattr(dtype, "__name__", dtype))
    name = str(named)
    name = _NAMES.get(name, name)
    if name[:1] not in ("<", ">", "|"):
        name = ("|" if name[1:] == "1" else "<") + name.lstrip("=")
    itemsize(name)
    return name


class Input:
    """The input mapping as the source of blobs."""

    __slots__ = ("map", "address", "pins")

    def __init__(self, mapping: Any, pins: memory.Pins) -> None:
        self.map = mapping
        self.address = memory.address_of(mapping)
        self.pins = pins

    def blob(self, start: int, length: int, dtype: str, shape: Tuple[int, ...], pin: memory.Pin) -> Blob:
        """A blob over a range that the caller has checked."""
        blob = Blob.__new__(Blob)
        blob.dtype = dtype
        blob.shape = shape
        if length < COPY_BELOW_BYTES or not self.address:
            blob._source = None
            blob._address = 0
            blob.view = memoryview(self.map[start : start + length])
        else:
            blob._address = self.address + start
            source, view = memory.exporter(blob._address, length)
            self.pins.watch(source, pin)
            blob._source = source
            blob.view = view.toreadonly()
        return blob

    def blobs(self, start: int, document: int, section: int, count: int, pin: memory.Pin) -> List[Blob]:
        """All blobs of a payload section, by its table."""
        at = aligned(document)
        end = at + count * TABLE_ENTRY_BYTES
        if end > section:
            raise PayloadError(f"the payload says {count} blobs, and its table does not fit")
        found = []
        at += start
        for index in range(count):
            dtype, shape, offset, length = table.decode(self.map[at : at + TABLE_ENTRY_BYTES])
            at += TABLE_ENTRY_BYTES
            if offset < end or offset + length > section:
                raise PayloadError(f"blob {index} of the payload is out of place")
            end = offset + length
            found.append(self.blob(start + offset, length, dtype, shape, pin))
        return found


def place(value: Any, blobs: List[Blob]) -> Any:
    """The document's value with every reference replaced by its blob. Containers are changed in place."""
    if type(value) is dict:
        if len(value) == 1 and BLOB_KEY in value:
            index = value[BLOB_KEY]
            if type(index) is int and 0 <= index < len(blobs):
                return blobs[index]
            if type(index) is dict and len(index) == 1 and LITERAL_KEY in index:
                return {BLOB_KEY: place(index[LITERAL_KEY], blobs)}
            raise PayloadError(f"the payload refers to blob {index!r} and has {len(blobs)}")
        for key, item in value.items():
            if type(item) in (dict, list):
                value[key] = place(item, blobs)
    elif type(value) is list:
        for index, item in enumerate(value):
            if type(item) in (dict, list):
                value[index] = place(item, blobs)
    return value
