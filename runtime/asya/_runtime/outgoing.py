"""Buffers and arrays in a result, on their way to becoming blobs.

Takes: any object. Gives: an `Outgoing` (dtype, shape and where the bytes are), or None when it is nothing of the kind.
Blocks on: nothing, except a tensor on a device that must be copied to the host. On failure: `ResultError` for an array
that has no plain bytes (objects, bfloat16).
"""

from __future__ import annotations

import sys
from typing import Any, Dict, Optional, Sequence, Tuple

from . import memory
from .blob import Blob
from .failures import ResultError
from .layout import MAX_DIMENSIONS, RAW
from .table import itemsize

# Finding the address costs more than copying so little.
LOOK_UP_ADDRESS_FROM_BYTES = 4096

_TORCH_DTYPES = {
    "torch.uint8": "|u1", "torch.int8": "|i1", "torch.bool": "|b1", "torch.uint16": "<u2", "torch.int16": "<i2",
    "torch.uint32": "<u4", "torch.int32": "<i4", "torch.uint64": "<u8", "torch.int64": "<i8", "torch.float16": "<f2",
    "torch.float32": "<f4", "torch.float64": "<f8", "torch.complex64": "<c8", "torch.complex128": "<c16",
}  # fmt: skip

_KINDS: Dict[str, str] = {"?": "b", "e": "f", "f": "f", "d": "f"}
_KINDS.update(dict.fromkeys("bhilqn", "i"))
_KINDS.update(dict.fromkeys("BHILQN", "u"))


class Outgoing:
    """The bytes of one blob to be: a flat buffer, or an address."""

    __slots__ = ("dtype", "shape", "nbytes", "buffer", "address", "owner")

    def __init__(
        self, dtype: str, shape: Tuple[int, ...], nbytes: int, buffer: Optional[Any], address: int, owner: Any
    ) -> None:
        self.dtype = dtype
        self.shape = shape
        self.nbytes = nbytes
        self.buffer = buffer
        """A contiguous buffer of bytes, or None when there is only an address."""
        self.address = address
        """Where the bytes lie, or 0 when that is not known."""
        self.owner = owner
        """Keeps the memory."""
        if len(shape) > MAX_DIMENSIONS:
            raise ResultError(f"an array of {len(shape)} dimensions cannot be sent; at most {MAX_DIMENSIONS} can")
        if len(dtype) > 16:
            raise ResultError(f"an array of {dtype} cannot be sent; copy its fields to plain arrays")

    def bytes_like(self) -> Any:
        """The bytes, for one slice assignment."""
        if self.buffer is not None:
            return self.buffer
        if not self.nbytes:
            return b""
        return memory.exporter(self.address, self.nbytes)[1]


def outgoing(value: Any) -> Optional[Outgoing]:
    """What is a buffer or an array becomes a blob."""
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return Outgoing(RAW, (len(value),), len(value), value, 0, value)
    if kind is Blob:
        return Outgoing(value.dtype, value.shape, value.nbytes, value.view, value._address, value)
    if kind is memoryview:
        return _of_memoryview(value, value)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return _of_numpy(value)
    if hasattr(kind, "data_ptr") and hasattr(kind, "detach"):
        return _of_torch(value)
    try:
        view = memoryview(value)
    except TypeError:
        pass
    else:
        return _of_memoryview(view, value)
    interface = getattr(value, "__array_interface__", None)
    if isinstance(interface, dict):
        return _of_interface(interface, value)
    if numpy is not None and hasattr(kind, "__array__"):
        return _of_numpy(numpy.asarray(value))
    return None


def _of_memoryview(view: memoryview, owner: Any) -> Outgoing:
    dtype = _typestr(view)
    shape = (view.nbytes,) if dtype == RAW else tuple(view.shape or ())
    if not view.c_contiguous:
        data = view.tobytes()
        return Outgoing(dtype, shape, len(data), data, 0, None)
    address = memory.address_of(view) if view.nbytes >= LOOK_UP_ADDRESS_FROM_BYTES else 0
    flat = view if view.format == "B" and view.ndim == 1 else _flat(view)
    return Outgoing(dtype, shape, view.nbytes, flat, address, owner)


def _flat(view: memoryview) -> Any:
    try:
        return view.cast("B")
    except (TypeError, ValueError):  # empty, or of a format that cannot be cast
        return view.tobytes()


def _typestr(view: memoryview) -> str:
    form = view.format or "B"
    if form in ("B", "c", "<B") and view.ndim == 1:
        return RAW
    order = form[0] if form[0] in "@=<>!" else "@"
    code = form[1:] if form[0] in "@=<>!" else form
    kind = "u" if code == "c" else _KINDS.get(code)
    if kind is None:
        raise ResultError(f"a buffer of format {form!r} cannot be sent; convert it to bytes or to a plain array")
    size = view.itemsize
    big = order in (">", "!") or (order in "@=" and sys.byteorder == "big")
    return f"{'|' if size == 1 else '>' if big else '<'}{kind}{size}"


def _of_numpy(array: Any) -> Outgoing:
    if array.dtype.hasobject:
        raise ResultError(f"an array of {array.dtype} holds Python objects and cannot be sent; use .tolist()")
    shape = tuple(array.shape)
    dtype = array.dtype.str
    nbytes = int(array.nbytes)
    if not array.flags.c_contiguous:
        return Outgoing(dtype, shape, nbytes, array.tobytes(), 0, None)
    address = 0
    # An array that owns its memory was not made of ours.
    if nbytes >= LOOK_UP_ADDRESS_FROM_BYTES and not array.flags.owndata:
        address = int(array.__array_interface__["data"][0])
    try:
        flat = memoryview(array).cast("B")
    except (TypeError, ValueError, BufferError):  # datetimes, empty arrays
        flat = array.tobytes()
        address = 0
    return Outgoing(dtype, shape, nbytes, flat, address, array)


def _of_torch(value: Any) -> Outgoing:
    tensor = value.detach().cpu().contiguous()
    dtype = _TORCH_DTYPES.get(str(tensor.dtype))
    if dtype is None:
        raise ResultError(f"a tensor of {tensor.dtype} cannot be sent; convert it, for example with .float()")
    shape = tuple(int(axis) for axis in tensor.shape)
    nbytes = int(tensor.numel()) * int(tensor.element_size())
    if not nbytes:
        return Outgoing(dtype, shape, 0, b"", 0, None)
    if not memory.AVAILABLE:
        return _of_numpy(tensor.numpy())
    return Outgoing(dtype, shape, nbytes, None, int(tensor.data_ptr()), tensor)


def _of_interface(interface: Dict[str, Any], owner: Any) -> Outgoing:
    """Of something that is an array to NumPy and no buffer to Python."""
    dtype = str(interface["typestr"])
    if dtype[1:2] == "O":
        raise ResultError("an array that holds Python objects cannot be sent")
    shape: Tuple[int, ...] = tuple(interface["shape"])
    nbytes = itemsize(dtype)
    for axis in shape:
        nbytes *= axis
    data = interface.get("data")
    if not _contiguous(interface.get("strides"), shape, itemsize(dtype)):
        numpy = sys.modules.get("numpy")
        if numpy is None:
            raise ResultError(f"{type(owner).__name__} is not contiguous; make a contiguous copy of it")
        return _of_numpy(numpy.ascontiguousarray(owner))
    if isinstance(data, tuple):
        if not memory.AVAILABLE:
            raise ResultError(f"{type(owner).__name__} shows an address only, and this Python has no ctypes")
        return Outgoing(dtype, shape, nbytes, None, int(data[0]), owner)
    view = memoryview(owner if data is None else data).cast("B")
    offset = int(interface.get("offset") or 0)
    flat = view[offset : offset + nbytes]
    if flat.nbytes != nbytes:
        raise ResultError(f"{type(owner).__name__} has {flat.nbytes} bytes of data, its shape needs {nbytes}")
    return Outgoing(dtype, shape, nbytes, flat, 0, owner)


def _contiguous(strides: Optional[Sequence[int]], shape: Tuple[int, ...], size: int) -> bool:
    if strides is None:
        return True
    for axis, stride in zip(reversed(shape), reversed(strides)):
        if axis != 1 and stride != size:
            return False
        size *= axis
    return True
