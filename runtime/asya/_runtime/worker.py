"""One worker process: attaches to the sidecar, loads the handler, runs calls.

Takes: its index, its generation and the descriptor that ties it to the supervisor. Gives: an exit status.
Blocks on: the sidecar, the user's imports, the rings. On failure: a handler that does not load is told to the sidecar
as `failed` and ends the process with status 1. When the sidecar goes the worker keeps its handler and dials again;
when the supervisor goes it ends.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import sys
from types import FrameType
from typing import Any, Callable, List, Mapping, Optional, Tuple

from .channel import Channel, Leave
from .codec import Codec
from .failures import Reporter, describe
from .handlers import Handler, load
from .layout import VERSION
from .packets import Connection, Corrupt, Gone, Packet, close_all
from .running import Desk
from .settings import Settings, SettingsError, read
from .sync import serve

# How often to dial while the sidecar is not there.
REDIAL_MS = 50

# How long to wait before dialling again after the sidecar has gone. A sidecar that hangs up because it has this very
# process killed should not hear from it once more.
REATTACH_MS = 200

_PR_SET_PDEATHSIG = 1


def _ignored(_: int, __: Optional[FrameType]) -> None:
    """Workers live in their own session and end when the supervisor says so. A handler function instead of SIG_IGN,
    because what is ignored stays ignored in every program that the user's code starts."""


def _tie_to_parent(parent: int) -> None:
    """Die with the supervisor, even in the middle of a call, where Linux and ctypes allow it."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        pass
    if parent >= 0:
        ended = select.poll()
        ended.register(parent, select.POLLIN)
        if ended.poll(0):  # it died before the line above took effect
            os._exit(1)


def _connect(path: str, parent: int) -> Connection:
    """Dial until the sidecar answers."""
    while True:
        try:
            return Connection(path)
        except Gone:
            _pause(parent, REDIAL_MS)


def _pause(parent: int, milliseconds: int) -> None:
    """Wait, unless the supervisor goes."""
    wait = select.poll()
    if parent >= 0:
        wait.register(parent, select.POLLIN)
    if wait.poll(milliseconds):
        raise Leave("the supervisor has gone")


class Worker:
    """What stays while sidecars come and go."""

    def __init__(self, index: int, generation: int, parent: int, environ: Mapping[str, str]) -> None:
        self._index = index
        self._generation = generation
        self._parent = parent
        self._environ = environ
        self._handler: Optional[Handler] = None
        self._serve: Any = None

    def run(self) -> int:
        """Serve until told to leave."""
        settings, mistake = _settings(self._environ)
        reporter = Reporter(settings.actor)
        try:
            connection = self._dial(settings)
            while True:
                try:
                    # Taken before the handler is imported: a packet left unread when this process ends would cost the
                    # sidecar what was sent last.
                    packet, descriptors = self._attachment(connection)
                    if self._serve is None:
                        failure = mistake or self._load(settings, reporter)
                        if failure is not None:
                            connection.send({"type": "failed", "error": failure})
                            return 1
                    self._attached(Channel(packet, descriptors, connection, self._parent), connection)
                except Gone:
                    connection.close()
                    self._generation = 0  # "reattach": the sidecar gives a new one
                    _pause(self._parent, REATTACH_MS)
                    connection = self._dial(settings)
        except Leave as why:
            if "supervisor" not in str(why):
                reporter.line(f"worker {self._index} ends: {why}")
                return 1
            return 0
        except Corrupt as why:
            reporter.line(f"worker {self._index} ends: the sidecar does not keep to the protocol: {why}")
            return 1

    def _dial(self, settings: Settings) -> Connection:
        connection = _connect(settings.socket, self._parent)
        try:
            connection.send(
                {
                    "type": "worker",
                    "version": VERSION,
                    "worker": self._index,
                    "generation": self._generation,
                    "pid": os.getpid(),
                }
            )
        except Gone:
            pass  # the next receive finds out
        return connection

    def _load(self, settings: Settings, reporter: Reporter) -> Any:
        """Load the handler; gives the error to tell, if any."""
        try:
            Codec(settings.json)
            handler = load(settings)
        except (Leave, Gone):
            raise
        except BaseException as error:
            reporter.error(error)
            return describe(error)
        # What the handler has loaded by now stays; collecting garbage need not look at it again.
        gc.collect()
        gc.freeze()
        self._handler = handler
        self._serve = _engine(handler, settings.json, reporter)
        return None

    def _attachment(self, connection: Connection) -> Tuple[Packet, List[int]]:
        """The `attach` packet and its descriptors."""
        packet, descriptors = self._receive(connection)
        while packet.get("type") != "attach":
            close_all(descriptors)
            if packet.get("type") == "refused":
                raise Leave(f"the sidecar refused it: {packet.get('why')}")
            packet, descriptors = self._receive(connection)
        return packet, descriptors

    def _attached(self, channel: Channel, connection: Connection) -> None:
        """One attachment, until the sidecar goes."""
        handler = self._handler
        assert handler is not None
        try:
            connection.send(
                {
                    "type": "ready",
                    "concurrency": handler.concurrency,
                    "batch": handler.batch,
                    "kind": handler.kind,
                    "pass": "payload",
                }
            )
            self._serve(channel)
        finally:
            channel.close()

    def _receive(self, connection: Connection) -> Tuple[Packet, List[int]]:
        """The next packet, unless the supervisor goes first."""
        wait = select.poll()
        wait.register(connection.fileno(), select.POLLIN)
        if self._parent >= 0:
            wait.register(self._parent, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in wait.poll()]
            if self._parent in ready:
                raise Leave("the supervisor has gone")
            if ready:
                return connection.receive()


def _settings(environ: Mapping[str, str]) -> Any:
    """The settings, and what to tell the sidecar when they cannot be read."""
    try:
        return read(environ), None
    except SettingsError as error:
        kept = {name: environ[name] for name in ("ASYA_SOCKET_DIR", "ASYA_ACTOR_NAME") if name in environ}
        return read(kept), describe(error)


def _engine(handler: Handler, library: str, reporter: Reporter) -> Callable[[Channel], None]:
    # Imported when needed: asyncio alone would take a good part of the time to the first message.
    if handler.kind in ("async", "async_generator"):
        from .aio import Loop

        return Loop(handler, library, reporter).serve
    if handler.concurrency > 1:
        from .threads import Threads

        return Threads(handler, library, reporter).serve
    return lambda channel: serve(Desk(channel, handler, Codec(library), reporter))


def main(index: int, generation: int, parent: int) -> int:
    """The worker's process."""
    _tie_to_parent(parent)
    signal.signal(signal.SIGTERM, _ignored)
    signal.signal(signal.SIGINT, _ignored)
    try:
        faulthandler.enable()
    except (OSError, ValueError, AttributeError, RuntimeError):
        pass  # stderr is no real file
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if callable(reconfigure):
        reconfigure(line_buffering=True)
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(1, folder)
    return Worker(index, generation, parent, os.environ).run()
