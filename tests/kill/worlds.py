"""The brokers that the suite runs on: what a sidecar is told of them, who sends, who reads, and what can be broken.

`RabbitMq` is read by pika, a client that shares no code with the project. `Embedded` has no other client than the project's
own, `embedded_tool`; there the whole broker is killed, and started again on what it had written.
"""

import json
import os
import subprocess
import threading
import time

import actors
import amqp

HERE = os.path.dirname(os.path.abspath(__file__))
# A broker that is killed listens again within this.
RESTART_SECONDS = 30


class Holder:
    """Another consumer of an actor's queue: what the actor loses goes there, and comes back when this is released."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=actors.die_with_parent)
        self.process.stdout.readline()  # it says that it holds, or has ended

    def narrow(self, most):
        """Give back all but so many, of which what was delivered before is kept first, and take no more."""
        self.process.stdin.write(f"{most}\n")
        self.process.stdin.flush()

    def release(self):
        self.process.kill()
        self.process.wait()


class RabbitMq:
    """A RabbitMQ that somebody else has started."""

    kinds = ("sidecar", "worker", "supervisor", "connection")
    stages = ("intake", "waiting", "running", "publishing", "finished")

    def __init__(self, version, url, python):
        self.name, self.url, self.python = f"RabbitMQ {version}", url, python

    def environment(self):
        port = self.url.rsplit(":", 1)[1].split("/")[0]
        return {"ASYA_TRANSPORT": "rabbitmq", "ASYA_RABBITMQ_URL": self.url, "KILL_BROKER_PORT": port}

    def sender(self, queue, route, count, journal):
        return amqp.Sender(self.url, queue, route, count, journal)

    def reader(self, path, queues):
        command = [self.python, os.path.join(HERE, "amqp.py"), "read", self.url, path, *queues]
        return subprocess.Popen(command, preexec_fn=actors.die_with_parent)

    def hold(self, queue):
        return Holder([self.python, os.path.join(HERE, "amqp.py"), "hold", self.url, queue])

    def depth(self, queue):
        return amqp.depth(self.url, queue)

    def stop(self):
        """Whoever started it stops it."""


class Embedded:
    """The embedded broker in a process of its own."""

    kinds = ("sidecar", "worker", "supervisor", "broker")
    # Nobody outside can see that a body is on its way through a Unix socket.
    stages = ("waiting", "running", "publishing", "finished")
    name = "embedded"

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, folder
        self.socket = os.path.join(folder, "broker.sock")
        self.process = None
        self.start()

    def start(self):
        command = [os.path.join(self.programs, "embedded_broker"), "--folder", os.path.join(self.folder, "store"), "--socket", self.socket]
        with open(os.path.join(self.folder, "broker.log"), "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=actors.die_with_parent)

    def environment(self):
        return {"ASYA_TRANSPORT": "embedded", "ASYA_EMBEDDED_SOCKET": self.socket, "KILL_BROKER_PORT": "0"}

    def tool(self, *words):
        return [os.path.join(self.programs, "embedded_tool"), "--socket", self.socket, *words]

    def sender(self, queue, route, count, journal):
        return PipedSender(self.tool("send", queue), route, count, journal)

    def reader(self, path, queues):
        return PipedReader({queue: self.tool("read", queue) for queue in queues}, path)

    def hold(self, queue):
        return Holder(self.tool("hold", queue))

    def depth(self, queue):
        deadline = time.monotonic() + RESTART_SECONDS
        while True:
            done = subprocess.run(self.tool("depth", queue), capture_output=True, text=True)
            if done.returncode == 0:
                return int(done.stdout)
            if time.monotonic() > deadline:
                raise SystemExit(f"the embedded broker does not answer: {done.stderr}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.start()

    def stop(self):
        self.process.kill()
        self.process.wait()


class PipedSender(amqp.Paced):
    """Like `amqp.Sender`, through a program that takes lines and prints what the broker has confirmed."""

    def __init__(self, command, route, count, journal):
        super().__init__(count, journal)
        self.command, self.route = command, route

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=actors.die_with_parent
        )
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        for thread in self.threads:
            thread.start()

    def finish(self):
        super().finish()
        self.process.wait()

    def _write(self):
        while self.taken < self.count:
            with self.more:
                self.more.wait_for(lambda: self.allowed > self.taken)
            self.process.stdin.write(f"{amqp.message_id(self.taken)}\t{amqp.message(self.taken, self.route)}\n")
            self.process.stdin.flush()
            self.taken += 1
        self.process.stdin.close()

    def _read(self):
        for line in self.process.stdout:
            again, _, identity = line.rstrip("\n").rpartition(" ")
            if again:
                self.resent.add(identity)
                continue
            self.journal.write(f"{identity} {time.monotonic():.6f}\n")
            self.sent += 1
        if self.sent < self.count:
            self.failure = f"it ended after {self.sent} messages"


class PipedReader:
    """Like `amqp.py read`, through one program for each queue."""

    def __init__(self, commands, path):
        self.file = open(path, "a")
        self.lock = threading.Lock()
        self.processes = []
        for queue, command in commands.items():
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=actors.die_with_parent)
            self.processes.append(process)
            threading.Thread(target=self._read, args=(queue, process), daemon=True).start()

    def _read(self, queue, process):
        for body in process.stdout:
            with self.lock:
                self.file.write(json.dumps(amqp.line_of(queue, json.loads(body))) + "\n")
                self.file.flush()

    def poll(self):
        return next((process.returncode for process in self.processes if process.poll() is not None), None)

    @property
    def returncode(self):
        return self.poll()

    def kill(self):
        for process in self.processes:
            process.kill()

    def wait(self):
        for process in self.processes:
            process.wait()
