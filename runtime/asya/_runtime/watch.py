"""Rings for results that were finished before a long call, while that call runs.

Takes: a channel whose only poster rings between calls, though not after each of a streak of fast ones. Gives: a bell
for what has waited for `WATCH_NS`. Blocks on: nothing in the poster's thread; its own thread waits for a timer. On
failure: without `ctypes` or a further thread, such results wait for the end of the call.

The poster puts the timer off while its calls are fast, so the thread runs only when a call is slow or the poster has
become idle. It needs the interpreter's lock: a call that keeps that lock for all of its time, as some C extensions do,
holds results back still.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from typing import Optional

from .channel import Channel

try:
    import ctypes

    # Keeps the interpreter's lock: the calls do not block.
    _libc = ctypes.PyDLL(None)
    _create, _set = _libc.timerfd_create, _libc.timerfd_settime
    _set.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
except (ImportError, AttributeError, OSError):
    AVAILABLE = False
else:
    AVAILABLE = True

# A result waits this long at most for a call that takes unexpectedly long.
WATCH_NS = 10_000_000

# The timer is put off only when it has run for so long: in a virtual machine that costs some 10 us. The rest of
# `WATCH_NS` is several times as long as the poster itself lets a result wait, so a streak never lets it expire.
PUT_OFF_NS = 8_000_000

_NEVER = 1 << 63


def _once_after(nanoseconds: int) -> bytes:
    """A `struct itimerspec`."""
    return struct.pack("@4l", 0, 0, *divmod(nanoseconds, 1_000_000_000))


class BellWatch:
    """The timer and the thread that waits for it, both made when they are first needed."""

    __slots__ = ("due_ns", "_channel", "_timer", "_after", "_thread", "_stopped")

    def __init__(self, channel: Channel) -> None:
        self.due_ns = 0 if AVAILABLE else _NEVER
        """Before a call starts while what has not been rung for is younger than this, `put_off` must be called."""
        self._channel = channel
        self._timer = -1
        self._thread: Optional[threading.Thread] = None
        self._after = _once_after(WATCH_NS)
        self._stopped = False

    def put_off(self) -> None:
        """Ring in `WATCH_NS`, unless this is called again or all has been rung for."""
        # The thread sets it to 0 before it looks for something to ring for. So what is posted after that look finds the
        # 0, and what was posted before is seen.
        self.due_ns = time.monotonic_ns() + PUT_OFF_NS
        if self._thread is not None or self._start():
            _set(self._timer, 0, self._after, None)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        if self._thread is not None:
            _set(self._timer, 0, _once_after(1), None)
            self._thread.join()
            os.close(self._timer)

    def _start(self) -> bool:
        self._timer = _create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        if self._timer >= 0:
            thread = threading.Thread(target=self._run, name="asya-bell", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the limit of threads is reached
                os.close(self._timer)
            else:
                self._thread = thread
                return True
        self.due_ns = _NEVER
        return False

    def _run(self) -> None:
        while not self._stopped:
            os.read(self._timer, 8)
            self.due_ns = 0
            self._channel.ring()
