"""The runtime's parent process: starts workers, reaps them, and does what the sidecar says.

Takes: packets from the sidecar, signals. Gives: `died` for every end of a worker; an exit status.
Blocks on: one poll. On failure: a sidecar that goes is dialled again while the workers run on. It never imports user
code, so that nothing a handler does can take it down.
"""

from __future__ import annotations

import os
import platform
import select
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any, Dict, List, Mapping, Optional

from .cgroup import oom_kills
from .layout import VERSION
from .packets import Connection, Corrupt, Gone, Packet
from .settings import Settings

# Dialling: quickly at first, because the sidecar usually starts at the same time.
DIAL_FIRST_SECONDS = 0.02
DIAL_MOST_SECONDS = 0.5
# How long to wait after a sidecar has said that another runtime is attached to it. That one may be just ending.
REFUSED_SECONDS = 1.0
# How often to say that the sidecar is not there yet, or not to be had.
SAY_WAITING_EVERY_SECONDS = 10.0
# What is kept of the grace period for stopping the workers.
STOP_RESERVE_SECONDS = 2.0
# How long a worker may take to leave by itself, once there is nothing more to do.
LEAVE_SECONDS = 1.0

EXIT_FORCED = 130
EXIT_OUT_OF_TIME = 1


class Process:
    """One worker process that runs."""

    __slots__ = ("index", "generation", "process", "lifeline", "oom_kills", "replacement")

    def __init__(
        self, index: int, generation: int, process: subprocess.Popen[bytes], lifeline: int, kills: Optional[int]
    ) -> None:
        self.index = index
        self.generation = generation
        self.process = process
        self.lifeline = lifeline
        """Write end of a pipe: the worker ends when it is closed."""
        self.oom_kills = kills
        self.replacement: Optional[int] = None
        """The generation of the process that takes its place, once it is being killed."""

    def kill(self) -> None:
        """Kill its whole process group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Supervisor:
    """The supervisor's state: a connection or none, the workers, whether it drains."""

    def __init__(self, settings: Settings, command: List[str], environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._command = command
        self._environ = dict(environ)
        self._connection: Optional[Connection] = None
        self._workers: Dict[int, Process] = {}
        self._draining_until: Optional[float] = None
        self._said_drain = False
        self._interrupts = 0
        self._exit: Optional[int] = None
        self._next_dial = 0.0
        self._dial_delay = DIAL_FIRST_SECONDS
        self._dialling_since = time.monotonic()
        self._next_say = self._dialling_since + 1.0
        self._next_say_refused = 0.0
        self._wake, wake_writer = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(wake_writer, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ignore)

    @staticmethod
    def _ignore(_: int, __: Optional[FrameType]) -> None:
        """Signals are read from the wake-up descriptor."""

    def run(self) -> int:
        """Until drained, forced or out of time."""
        while self._exit is None:
            if self._connection is None:
                self._dial()
            self._wait()
            self._reap()
            self._look_at_clock()
        self._stop_workers()
        return self._exit

    # The sidecar

    def _dial(self) -> None:
        now = time.monotonic()
        if now < self._next_dial:
            return
        try:
            connection = Connection(self._settings.socket)
        except Gone:
            self._next_dial = now + self._dial_delay
            self._dial_delay = min(self._dial_delay * 2, DIAL_MOST_SECONDS)
            if now >= self._next_say:
                self._next_say = now + SAY_WAITING_EVERY_SECONDS
                waited = round(now - self._dialling_since)
                self._say(f"waiting for the sidecar at {self._settings.socket} ({waited} s)")
            return
        self._connection = connection
        hello: Packet = {
            "type": "supervisor",
            "version": VERSION,
            "pid": os.getpid(),
            "python": platform.python_version(),
        }
        running = [
            {"worker": worker.index, "pid": worker.process.pid}
            for worker in self._workers.values()
            if worker.replacement is None
        ]
        if running:
            hello["workers"] = running
        self._send(hello)
        if self._said_drain:
            self._send({"type": "drain"})

    def _send(self, packet: Packet) -> None:
        if self._connection is not None:
            try:
                self._connection.send(packet)
            except Gone:
                self._lose_sidecar()

    def _lose_sidecar(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        now = time.monotonic()
        self._dialling_since, self._next_say, self._next_dial = now, now + 1.0, now
        self._dial_delay = DIAL_FIRST_SECONDS
        if self._said_drain:
            # It has ended too, or crashed: either way there is nothing left that could still be settled.
            self._exit = 0

    def _hear(self) -> None:
        assert self._connection is not None
        try:
            packet, descriptors = self._connection.receive()
            for descriptor in descriptors:
                os.close(descriptor)
            self._obey(packet)
        except Gone:
            self._lose_sidecar()
        except (Corrupt, KeyError, TypeError, ValueError) as error:
            self._say(f"the sidecar sent what is not understood, dialling again: {error!r}")
            self._lose_sidecar()

    def _obey(self, packet: Packet) -> None:
        kind = packet.get("type")
        if kind == "start":
            self._start(int(packet["workers"]), list(packet["generations"]), packet.get("config") or {})
        elif kind == "kill":
            self._kill(int(packet["worker"]), int(packet["next_generation"]), str(packet.get("reason", "")))
        elif kind == "restart":
            index, generation = int(packet["worker"]), int(packet["generation"])
            if index in self._workers:
                self._workers[index].generation = generation
            else:
                self._spawn(index, generation)
        elif kind == "drained":
            self._exit = 0
        elif kind == "refused":
            self._refused(str(packet.get("why")), bool(packet.get("retry")))

    def _refused(self, why: str, retry: bool) -> None:
        now = time.monotonic()
        if not retry:
            self._say(f"the sidecar refused this runtime: {why}")
            self._exit = 1
            return
        if now >= self._next_say_refused:
            self._next_say_refused = now + SAY_WAITING_EVERY_SECONDS
            self._say(f"the sidecar refused this runtime, which dials again until it is taken: {why}")
        self._lose_sidecar()
        self._next_dial = now + REFUSED_SECONDS

    def _start(self, workers: int, generations: List[Any], config: Dict[str, Any]) -> None:
        for name, value in config.items():
            # What the environment sets is not overridden.
            variable = f"ASYA_{name.upper()}"
            if value is not None and not self._environ.get(variable):
                self._environ[variable] = str(value)
        for index, process in list(self._workers.items()):
            if index >= workers:
                process.kill()
        for index in range(workers):
            generation = int(generations[index])
            running = self._workers.get(index)
            if running is None:
                self._spawn(index, generation)
            elif running.replacement is None:
                running.generation = generation
            else:
                running.replacement = generation

    def _kill(self, index: int, next_generation: int, reason: str) -> None:
        process = self._workers.get(index)
        if process is None:  # it died by itself meanwhile
            self._spawn(index, next_generation)
            return
        if reason:
            self._say(f"worker {index} (process {process.process.pid}) is killed: {reason}")
        process.replacement = next_generation
        process.kill()

    # The workers

    def _spawn(self, index: int, generation: int) -> None:
        if self._exit is not None:
            return
        reader, writer = os.pipe()
        command = [*self._command, "worker", str(index), str(generation), str(reader)]
        try:
            process = subprocess.Popen(
                command,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                pass_fds=(reader,),
                start_new_session=True,
            )
        except OSError as error:
            os.close(writer)
            self._say(f"worker {index} cannot be started: {error}")
            self._send(_died(index, generation, None, None, None, None))
            return
        finally:
            os.close(reader)
        self._workers[index] = Process(index, generation, process, writer, oom_kills())

    def _reap(self) -> None:
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            except ChildProcessError:
                return
            if found is None:
                return
            pid = found.si_pid
            worker = next((one for one in self._workers.values() if one.process.pid == pid), None)
            if worker is None:  # as process 1 of a container, it inherits orphans of user code
                os.waitpid(pid, 0)
                continue
            # Only looked at so far: what is left of its group is killed while the dead leader still holds the number.
            worker.kill()
            status = worker.process.wait()
            os.close(worker.lifeline)
            del self._workers[worker.index]
            number = -status if status < 0 else None
            code = status if status >= 0 else None
            oom = _was_oom(worker, number)
            self._send(_died(worker.index, worker.generation, pid, code, number, oom))
            if worker.replacement is not None:
                self._spawn(worker.index, worker.replacement)

    def _stop_workers(self) -> None:
        """Let them leave, then kill what is left."""
        forced = self._exit == EXIT_FORCED
        for worker in self._workers.values():
            os.close(worker.lifeline)
        deadline = time.monotonic() + (0.0 if forced else LEAVE_SECONDS)
        for worker in self._workers.values():
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            worker.kill()
            worker.process.wait()
        self._workers.clear()

    # Signals and time

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        connection = self._connection
        if connection is not None:
            poll.register(connection.fileno(), select.POLLIN)
        due = [self._draining_until] if self._draining_until is not None else []
        if connection is None:
            due.append(self._next_dial)
        timeout = max(0.0, min(due) - time.monotonic()) * 1000 + 1 if due else None
        ready = [descriptor for descriptor, _ in poll.poll(timeout)]
        if self._wake in ready:
            for number in os.read(self._wake, 512):
                self._signalled(number)
        if connection is not None and connection.fileno() in ready and self._connection is connection:
            self._hear()

    def _signalled(self, number: int) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts > 1 or self._said_drain:
                self._say("interrupted again: stopping at once; what still runs goes back to its queue")
                self._exit = EXIT_FORCED
                return
        if number not in (signal.SIGTERM, signal.SIGINT) or self._said_drain:
            return
        self._said_drain = True
        grace = self._settings.grace_seconds
        self._draining_until = time.monotonic() + max(grace - STOP_RESERVE_SECONDS, grace / 2)
        if self._connection is None:
            # Without a sidecar nothing can be settled; what ran goes back to its queue by itself.
            self._exit = 0
            return
        hint = "; again to stop at once" if number == signal.SIGINT else ""
        self._say(f"draining: finishing what runs, taking nothing new{hint}")
        self._send({"type": "drain"})

    def _look_at_clock(self) -> None:
        if self._draining_until is not None and time.monotonic() >= self._draining_until and self._exit is None:
            self._say("the grace period is nearly over: stopping; what still runs goes back to its queue")
            self._exit = EXIT_OUT_OF_TIME

    def _say(self, text: str) -> None:
        try:
            sys.stderr.write(f"[{self._settings.actor}] {text}\n")
            sys.stderr.flush()
        except OSError:
            pass


def _was_oom(worker: Process, number: Optional[int]) -> Optional[bool]:
    """A guess: killed by SIGKILL while the kernel counted a kill for memory in this cgroup."""
    if number != signal.SIGKILL or worker.replacement is not None:
        return False
    before, after = worker.oom_kills, oom_kills()
    return None if before is None or after is None else after > before


def _died(
    index: int, generation: int, pid: Optional[int], code: Optional[int], number: Optional[int], oom: Optional[bool]
) -> Packet:
    return {
        "type": "died",
        "worker": index,
        "generation": generation,
        "pid": pid,
        "exit_code": code,
        "signal": number,
        "oom": oom,
    }
