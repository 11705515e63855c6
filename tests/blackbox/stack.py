"""One actor as a pod has it: a sidecar and a Python runtime, real processes that end with the test.

Takes an environment, gives processes, their logs, metrics and journal. Blocks on the condition that is waited for.
"""

import ctypes
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile

from waiting import until

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HERE = os.path.dirname(os.path.abspath(__file__))
SIDECAR = os.path.abspath(os.path.join(REPOSITORY, os.environ.get("ASYA_BLACKBOX_SIDECAR", "target/release/asya-sidecar")))

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_SAMPLE = re.compile(r"^(\w+)(?:\{([^}]*)\})? (\S+)$", re.M)


def die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Metrics:
    """One scrape."""

    def __init__(self, text):
        self._values = {}
        for name, labels, value in _SAMPLE.findall(text):
            self._values.setdefault(name.removeprefix("asya_actor_"), []).append((labels, float(value)))

    def get(self, name, **labels):
        """The sum of the samples of that name that have these labels."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(value for has, value in self._values.get(name, []) if all(one in has.split(",") for one in wanted))


class Actor:
    """A sidecar and a runtime that share a socket folder."""

    def __init__(self, environment, runtime, folder=None):
        self.folder = folder or tempfile.mkdtemp(prefix="asya-blackbox-")
        self._runtime_file = runtime
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("ASYA_")},
            "ASYA_SOCKET_DIR": self.folder,
            "ASYA_METRICS_ADDR": "127.0.0.1:0",
            "BLACKBOX_FOLDER": self.folder,
            "PYTHONPATH": HERE,
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        self.sidecar = self.runtime = None

    # --- processes ---

    def start(self):
        """Both, and waits until messages are taken."""
        self.start_sidecar()
        self.start_runtime()
        self.wait_until_ready()

    def start_sidecar(self):
        self.sidecar = self._spawn("sidecar", [SIDECAR])

    def start_runtime(self):
        self.runtime = self._spawn("runtime", [sys.executable, self._runtime_file])

    def _spawn(self, what, command):
        with open(os.path.join(self.folder, f"{what}.log"), "wb") as log:
            return subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_parent
            )

    def wait_until_ready(self):
        until(lambda: self.page("/readyz")[0] == 200, "the actor to be ready")

    def wait_for_end(self, process, what):
        """The exit status."""
        until(lambda: process.poll() is not None, f"{what} to end")
        return process.returncode

    def workers(self):
        """Process ids of the workers."""
        try:
            with open(f"/proc/{self.runtime.pid}/task/{self.runtime.pid}/children") as file:
                return [int(word) for word in file.read().split()]
        except OSError:
            return []

    def kill(self):
        """Both, at once."""
        for process in (self.sidecar, self.runtime):
            if process:
                process.kill()
                process.wait()

    # --- what is told ---

    def log(self, what="sidecar"):
        try:
            with open(os.path.join(self.folder, f"{what}.log"), errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            return ""

    def page(self, path):
        """(status, text) of a page of the sidecar; status 0 while there is none."""
        address = re.search(r"metrics and health address=127\.0\.0\.1:(\d+)", self.log())
        if not address:
            return 0, ""
        connection = http.client.HTTPConnection("127.0.0.1", int(address.group(1)), timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def metrics(self):
        return Metrics(self.page("/metrics")[1])

    def metric(self, name, **labels):
        return self.metrics().get(name, **labels)

    def wait_until_idle(self):
        """Nothing is in flight: everything is settled."""
        until(lambda: self.page("/metrics")[0] == 200 and self.metric("active_messages") == 0, "the actor to be idle")

    def journal(self, what=None):
        """What handlers wrote down: [{what, pid, payload}], all or of one kind."""
        try:
            with open(os.path.join(self.folder, "journal")) as file:
                lines = [json.loads(line) for line in file.read().splitlines()]
        except FileNotFoundError:
            return []
        return [line for line in lines if what is None or line["what"] == what]

    def wait_for_journal(self, what, count):
        until(lambda: len(self.journal(what)) >= count, f"{count} times {what!r} in the journal")

    def open_gate(self):
        """Lets handlers that wait at the gate go on."""
        open(os.path.join(self.folder, "gate"), "w").close()
