"""One actor: its sidecar and its Python runtime, started again when they die, and what the sidecar says of itself.

Takes an environment, gives processes and gauges. Blocks on nothing but a scrape (at most SCRAPE_SECONDS). What is not
running, or does not answer, has no gauges.
"""

import ctypes
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time

sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "servers"))

from ports import free_ports  # noqa: E402

SCRAPE_SECONDS = 1
_GAUGE = re.compile(r'^asya_actor_(active_messages|window_messages|workers_ready|broker_connected|stage_messages)(?:\{([^}]*)\})? (\S+)$', re.M)
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent():
    """Run between fork and exec: nothing outlives the suite."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def children_of(pid):
    """The processes that this one has started and that still run."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except OSError:
        return []


class Gauges:
    """What a sidecar said at one moment."""

    def __init__(self, text):
        self.at = time.monotonic()
        self.stages = {}
        values = {}
        for name, labels, value in _GAUGE.findall(text):
            if name == "stage_messages":
                self.stages[re.search(r'stage="(\w+)"', labels).group(1)] = int(float(value))
            else:
                values[name] = int(float(value))
        self.active = values.get("active_messages", 0)
        self.window = values.get("window_messages", 0)
        self.workers = values.get("workers_ready", 0)
        self.connected = values.get("broker_connected", 0)
        # What is finished waits for its redelivery and is held no less than the rest.
        self.in_flight = self.active + self.stages.get("finished", 0)


class Actor:
    """A sidecar and a runtime that serves `handlers.{handler}` of a suite's folder. `unexpected`: ends that nobody asked for.

    `broker_port`: where the sidecar's connections go; None where that is no TCP port.
    """

    def __init__(self, name, handler, suite, folder, programs, environment, broker_port=None):
        self.name = name
        self.folder = os.path.join(folder, name)
        self.programs = programs
        (self.port,) = free_ports(1)
        self.broker_port = broker_port
        self.unexpected = []
        os.makedirs(self.folder)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ASYA_TEST_")},
            **environment,
            "ASYA_ACTOR_NAME": name,
            "ASYA_HANDLER": f"handlers.{handler}",
            "ASYA_SOCKET_DIR": self.folder,
            "ASYA_METRICS_ADDR": f"127.0.0.1:{self.port}",
            "PYTHONPATH": suite,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.sidecar = self.runtime = None
        self.draining = False

    def start(self):
        """Start whatever does not run."""
        if self.sidecar is None:
            self.sidecar = self._spawn("sidecar", [self.programs["sidecar"]])
        if self.runtime is None:
            self.runtime = self._spawn("runtime", [self.programs["python"], self.programs["runtime"]])

    def _spawn(self, what, command):
        log = open(os.path.join(self.folder, f"{what}.log"), "ab")
        with log:
            return subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def watch(self):
        """Start again what has ended by itself, and remember that it did."""
        if self.draining:
            return
        for what in ("sidecar", "runtime"):
            process = getattr(self, what)
            if process is not None and process.poll() is not None:
                self.unexpected.append(f"{what} of {self.name} ended with {process.returncode}")
                setattr(self, what, None)
        self.start()

    def let_go(self):
        """Its processes, for whoever drains and ends them; until `draining` is false again they are not started."""
        self.draining = True
        both = self.sidecar, self.runtime
        self.sidecar = self.runtime = None
        return both

    def gauges(self):
        """What the sidecar says now, or None."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SCRAPE_SECONDS)
        try:
            connection.request("GET", "/metrics")
            gauges = Gauges(connection.getresponse().read().decode())
            # What the broker has sent and the sidecar has not taken yet is a message on its way in, too.
            if self.sidecar and any(unread for _, unread in broker_sockets(self.sidecar.pid, self.broker_port)):
                gauges.stages["intake"] = max(gauges.stages.get("intake", 0), 1)
            return gauges
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def kill(self, kind):
        """SIGKILL the sidecar, the supervisor or one worker; or break the sidecar's connections to the broker. Says whether it did."""
        if kind == "connection":
            return break_connections(self.sidecar.pid, self.broker_port)
        if kind == "worker":
            workers = children_of(self.runtime.pid)
            if not workers:
                return False
            os.kill(workers[int(time.monotonic() * 1000) % len(workers)], signal.SIGKILL)
            return True
        what = "sidecar" if kind == "sidecar" else "runtime"
        process = getattr(self, what)
        if process is None or process.poll() is not None:
            return False
        process.kill()
        process.wait()
        setattr(self, what, None)
        self.start()
        return True

    def stop(self, seconds=60):
        """Drain: SIGTERM to the sidecar, then to the runtime. The sidecar's exit status, or None when it had to be killed."""
        self.sidecar.terminate()
        self.runtime.terminate()
        try:
            status = self.sidecar.wait(seconds)
            self.runtime.wait(seconds)
            return status
        except subprocess.TimeoutExpired:
            return None
        finally:
            for process in (self.sidecar, self.runtime):
                process.kill()
                process.wait()


def broker_sockets(pid, port):
    """[(local address, bytes that wait to be read)] of a process's connections to that port."""
    inodes = set()
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    except OSError:
        return []
    found = []
    if port is None:
        return found
    with open("/proc/net/tcp") as file:
        for line in file.readlines()[1:]:
            _, local, remote, state, queues, _, _, _, _, inode, *_ = line.split()
            if inode in inodes and state == "01" and int(remote.partition(":")[2], 16) == port:
                found.append((f"127.0.0.1:{int(local.partition(':')[2], 16)}", int(queues.partition(":")[2], 16)))
    return found


def break_connections(pid, port):
    """Resets every TCP connection of a process to that port, both ends at once. Says whether there was one."""
    ours = broker_sockets(pid, port)
    for address, _ in ours:
        subprocess.run(["ss", "-K", "-t", "state", "established", "src", address, "dport", "=", f":{port}"], capture_output=True, check=True)
    return bool(ours)
