"""Addresses of memory, and the pins that say whether user code still looks at it.

Takes: mappings and ranges in them. Gives: zero-copy exporters and the address of any buffer; without `ctypes` (or off
CPython) `AVAILABLE` is false and callers copy instead.
Blocks on: nothing. On failure: an object without a buffer has address 0.

A view handed to user code hangs on one exporter object (a ctypes array laid over the range): slices, casts and NumPy
arrays made of the view all keep that exporter alive, so its death, seen by a weak reference, is the death of the last
of them. `memoryview.release()` would prove nothing: `numpy.frombuffer(view)` does not hold the view itself.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Tuple

try:
    import ctypes

    _api = ctypes.pythonapi
except (ImportError, AttributeError):  # no ctypes in this Python, or not CPython
    AVAILABLE = False
else:
    AVAILABLE = True

    class _Buffer(ctypes.Structure):
        """`Py_buffer` of the stable ABI."""

        _fields_ = [
            ("buf", ctypes.c_void_p),
            ("obj", ctypes.py_object),
            ("len", ctypes.c_ssize_t),
            ("itemsize", ctypes.c_ssize_t),
            ("readonly", ctypes.c_int),
            ("ndim", ctypes.c_int),
            ("format", ctypes.c_char_p),
            ("shape", ctypes.c_void_p),
            ("strides", ctypes.c_void_p),
            ("suboffsets", ctypes.c_void_p),
            ("internal", ctypes.c_void_p),
        ]

    _get_buffer = _api.PyObject_GetBuffer
    _get_buffer.argtypes = [ctypes.py_object, ctypes.c_void_p, ctypes.c_int]
    _get_buffer.restype = ctypes.c_int
    _release_buffer = _api.PyBuffer_Release
    _release_buffer.argtypes = [ctypes.c_void_p]
    _release_buffer.restype = None


def address_of(buffer: Any) -> int:
    """Where the bytes of a contiguous buffer lie, or 0 when that cannot be known."""
    if not AVAILABLE:
        return 0
    info = _Buffer()
    try:
        _get_buffer(buffer, ctypes.byref(info), 0)
    except (TypeError, BufferError, ValueError):
        return 0
    address = info.buf or 0
    _release_buffer(ctypes.byref(info))
    return address


# One array type per power of two, since making a type costs far more than using it. An exporter may reach past the end
# of its range; nobody can read there, because it is only ever shown through a slice.
_exporter_types: Dict[int, Any] = {}


def exporter(address: int, length: int) -> Tuple[Any, memoryview]:
    """An object that stands for this range, and a writable view of exactly the range which keeps that object alive."""
    bits = length.bit_length()
    kind = _exporter_types.get(bits)
    if kind is None:
        kind = _exporter_types[bits] = ctypes.c_ubyte * (1 << bits)
    source = kind.from_address(address)
    return source, memoryview(source).cast("B")[:length]


class Pin:
    """Counts the live views into the input of one call."""

    __slots__ = ("call", "live", "closed", "told")

    def __init__(self, call: int) -> None:
        self.call = call
        self.live = 0
        self.closed = False
        """The call has ended: a view that dies from now on must wake the owner of the rings."""
        self.told = False
        """The sidecar knows that the call ended pinned, and waits for UNPINNED."""


class _Watch(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to an exporter, with what must live as long as that does."""

    __slots__ = ("kept",)
    kept: Any


# What keeps every mapping with live views in existence. By identity, because ctypes arrays have no hash.
_watched: Dict[int, _Watch] = {}


def _watch(source: Any, kept: Any, died: Callable[[_Watch], None]) -> _Watch:
    reference = _Watch(source, died)
    reference.kept = kept
    _watched[id(reference)] = reference
    return reference


def _forget(reference: _Watch) -> None:
    del _watched[id(reference)]


class Pins:
    """All pins of one attachment, and which views have died since they were last counted.

    A view may die anywhere, also inside a garbage collection in another thread. So its callback only appends to a
    queue, and the owner of the rings counts. `nudge` wakes the owner when a call that it has already ended is let go.
    """

    __slots__ = ("_dead", "_mapping", "_nudge")

    def __init__(self, mapping: object, nudge: Callable[[], None]) -> None:
        self._dead: Deque[Pin] = deque()
        self._mapping = mapping
        self._nudge = nudge

    def watch(self, source: Any, pin: Pin) -> None:
        """Count the exporter as alive from now on."""
        pin.live += 1
        _watch(source, pin, self._died)

    def _died(self, reference: _Watch) -> None:
        pin: Pin = reference.kept
        _forget(reference)
        self._dead.append(pin)
        # The owner sets `closed` before it counts: either it sees the append above, or this sees `closed`.
        if pin.closed:
            self._nudge()

    def pending(self) -> bool:
        """Has any view died since the last time?"""
        return bool(self._dead)

    def settle(self) -> List[int]:
        """Count the dead. Gives the calls that were told to be pinned and are free now."""
        free: List[int] = []
        dead = self._dead
        while dead:
            pin = dead.popleft()
            pin.live -= 1
            if pin.live == 0 and pin.told:
                free.append(pin.call)
        return free


class OutputMemory:
    """The output mapping, which can take back pages that user code still holds."""

    __slots__ = ("descriptor", "length", "map", "address")

    def __init__(self, descriptor: int, length: int) -> None:
        self.descriptor = descriptor
        self.length = length
        self.map = mmap.mmap(descriptor, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.address = address_of(self.map)

    def lend(self, source: Any) -> Any:
        """Keep this mapping until the exporter has died. Gives the weak reference that tells whether it has."""
        return _watch(source, self.map, _forget)

    def make_private(self, offset: int, length: int) -> None:
        """Give user code a private copy of pages that it still holds, at the same address.

        The sidecar will hand these pages to another result, and a late write of the handler must not reach that. The
        mapping with the hole stays until its last view dies; this object goes on with a fresh one.
        """
        saved = self.map[offset : offset + length]
        start = self.address + offset
        _map_private(start, length)
        ctypes.memmove(start, saved, length)
        self.map = mmap.mmap(self.descriptor, self.length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self.address = address_of(self.map)

    def close(self) -> None:
        """Close the descriptor; the mapping goes with its last view."""
        os.close(self.descriptor)


_MAP_FIXED = 0x10


def _map_private(address: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    integer = ctypes.c_int
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, integer, integer, integer, ctypes.c_long]
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
    if libc.mmap(address, length, protection, flags, -1, 0) != address:
        raise OSError(ctypes.get_errno(), "cannot make pages private")


class Nudge:
    """A pipe by which any thread wakes the thread that waits for the rings."""

    __slots__ = ("reader", "_writer")

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)

    def __call__(self) -> None:
        try:
            os.write(self._writer, b"!")
        except BlockingIOError:
            pass  # a full pipe wakes the reader just as well

    def __del__(self) -> None:
        os.close(self.reader)
        os.close(self._writer)

    def clear(self) -> None:
        """Forget the nudges seen so far."""
        try:
            os.read(self.reader, 4096)
        except BlockingIOError:
            pass
