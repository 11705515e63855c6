"""The brokers that the suites run on: what a sidecar is told of them, the client that sends and reads, and what can be broken.

`RabbitMq` and `Sqs` are read by pika and boto3, which share no code with the project. `Embedded` has no other client than the
project's own, `embedded_tool`; there the whole broker is killed, and started again on what it had written. Blocks on a broker's
start and on a client's answer; a broker that does not come back ends the suite.
"""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse

import actors
import ends

HERE = os.path.dirname(os.path.abspath(__file__))
SERVERS = os.path.join(os.path.dirname(HERE), "servers")
# A broker that is killed listens again within this.
RESTART_SECONDS = 60


class World:
    """One broker. `name` is printed, `transport` is what a sidecar calls it."""

    # Whether what a client acknowledged just before it ended may come again.
    acknowledges_late = False

    def environment(self, address=None):
        """What tells a sidecar of the broker, at another address if that is given (see `tests/chaos/cutter.py`)."""
        raise NotImplementedError

    def client(self, *words):
        """The command of a client: `send QUEUE` and so on."""
        raise NotImplementedError

    def broker_port(self):
        """Where a sidecar's connections go; None: not by TCP."""
        return None

    def sender(self, queue, messages, count, journal, **more):
        return ends.Sender(self.client("send", queue), messages, count, journal, **more)

    def reader(self, queues, messages, path):
        return ends.Reader({queue: self.client("read", queue) for queue in queues}, messages, path)

    def hold(self, queue):
        return ends.Holder(self.client("hold", queue))

    def depth(self, queue):
        """Messages that wait in a queue."""
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            done = subprocess.run(self.client("depth", queue), capture_output=True, text=True)
            if done.returncode == 0:
                return int(done.stdout)
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name} does not answer: {done.stderr}")

    def pids(self):
        """The processes that are the broker."""
        raise NotImplementedError

    def pause(self, on):
        """Stops the broker's processes where they are, or lets them go on."""
        for pid in self.pids():
            os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)

    def stop(self):
        """Whoever started it stops it."""


class RabbitMq(World):
    """A RabbitMQ that `tests/servers/rabbitmq.py` has started."""

    transport = "rabbitmq"
    kinds = ("sidecar", "worker", "supervisor", "connection")
    stages = ("intake", "waiting", "running", "publishing", "finished")
    # Seconds. What is silent for twice this is taken for dead, by either side.
    heartbeat = 5
    patience = 10
    # It applies acknowledgements some time after it has answered what followed them on the channel, and those that are still on
    # their way to the queue's leader end with the channel (docs/TESTING.md).
    acknowledges_late = True

    def __init__(self, version, url):
        self.version, self.name, self.url = version, f"RabbitMQ {version}", url
        parts = urllib.parse.urlsplit(url)
        self.address = f"{parts.hostname}:{parts.port}"
        self.folder = os.environ.get(f"ASYA_TEST_BROKER_DIR_{version.replace('.', '_')}")

    def environment(self, address=None):
        url = self.url.replace(self.address, address or self.address)
        return {"ASYA_TRANSPORT": "rabbitmq", "ASYA_RABBITMQ_URL": f"{url}?heartbeat={self.heartbeat}"}

    def broker_port(self):
        return int(self.address.partition(":")[2])

    def client(self, *words):
        return [sys.executable, os.path.join(HERE, "pika_client.py"), self.url, *words]

    def pids(self):
        """All of its namespace: its first process and what descends from that."""
        with open(os.path.join(self.folder, "broker.init")) as file:
            found = [int(file.read())]
        for pid in found:
            found += actors.children_of(pid)
        return found

    def kill(self):
        """SIGKILL of all its processes; it starts again on its data. Waits until it listens."""
        script = [sys.executable, os.path.join(SERVERS, "rabbitmq.py")]
        subprocess.run([*script, "stop", self.folder, "--keep"], check=True)
        owner = ["--owner", str(os.getpid())]
        subprocess.run([*script, "start", self.version, "--data", self.folder, *owner], check=True, stdout=subprocess.DEVNULL)


class Sqs(World):
    """A server of SQS's API that `tests/servers/sqs.py` has started. It keeps everything in memory, so it is not killed: that it
    forgot everything would say nothing of SQS, which does not."""

    transport = "sqs"
    # Seconds. What a killed sidecar held comes back after so long.
    patience = visibility = 12

    def __init__(self, server, url):
        self.name, self.url = server, url
        self.address = url.partition("://")[2]

    def environment(self, address=None):
        return {
            "ASYA_TRANSPORT": "sqs",
            "ASYA_SQS_ENDPOINT": f"http://{address or self.address}",
            "ASYA_SQS_VISIBILITY_TIMEOUT": f"{self.visibility}s",
            "ASYA_SQS_WAIT_TIME_SECONDS": "2",
        }

    def broker_port(self):
        return int(self.address.partition(":")[2])

    def client(self, *words):
        return [sys.executable, os.path.join(HERE, "boto_client.py"), self.url, *words]

    def pids(self):
        """Whoever listens there."""
        port = self.address.partition(":")[2]
        told = subprocess.run(["ss", "-Hltnp", "sport", "=", f":{port}"], capture_output=True, text=True, check=True).stdout
        return sorted({int(pid) for pid in re.findall(r"pid=(\d+)", told)})


class Embedded(World):
    """The embedded broker in a process of its own, with embedded_broker and embedded_tool of the folder `programs`."""

    transport = name = "embedded"
    kinds = ("sidecar", "worker", "supervisor", "broker")
    # Seconds. Its clients wait for minutes; nothing is lost to a pause.
    patience = 0
    # Nobody outside can see that a body is on its way through a Unix socket.
    stages = ("waiting", "running", "publishing", "finished")

    def __init__(self, programs, folder, store=None, options=()):
        self.programs, self.folder, self.options = programs, folder, options
        self.store = store or os.path.join(folder, "store")
        self.address = os.path.join(folder, "broker.sock")
        self.process = None
        self.start()

    def start(self):
        command = [os.path.join(self.programs, "embedded_broker"), "--folder", self.store, "--socket", self.address, *self.options]
        with open(os.path.join(self.folder, "broker.log"), "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=actors.die_with_parent)

    def environment(self, address=None):
        return {"ASYA_TRANSPORT": "embedded", "ASYA_EMBEDDED_SOCKET": address or self.address}

    def client(self, *words):
        return [os.path.join(self.programs, "embedded_tool"), "--socket", self.address, *words]

    def pids(self):
        return [self.process.pid]

    def kill(self):
        self.stop()
        self.start()

    def stop(self):
        self.process.kill()
        self.process.wait()
