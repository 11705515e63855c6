"""The test's own client of the embedded broker, which only the project's own tools speak to: publishes and reads, declares and deletes.

Takes a folder, where it starts a broker that ends with the tests. Blocks on its answers. Has the verbs of `broker.Broker`.
"""

import base64
import json
import os
import subprocess

from broker import JSON
from stack import die_with_parent
from waiting import until


class Message:
    """What was in a queue."""

    def __init__(self, answer):
        self.redelivered = answer["redelivered"]
        self.content_type = answer["content_type"]
        self.body = base64.b64decode(answer["body"], validate=True)

    @property
    def envelope(self):
        """The JSON envelope."""
        return json.loads(self.body)


class Embedded:
    """One broker and one client; `programs` is where embedded_broker and embedded_ask are."""

    def __init__(self, programs, folder):
        self.socket = os.path.join(folder, "broker.sock")
        command = [os.path.join(programs, "embedded_broker"), "--folder", os.path.join(folder, "store"), "--socket", self.socket]
        with open(os.path.join(folder, "broker.log"), "ab") as log:
            self._broker = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=die_with_parent)
        until(lambda: os.path.exists(self.socket), "the broker to listen")
        ask = [os.path.join(programs, "embedded_ask"), "--socket", self.socket]
        self._client = subprocess.Popen(ask, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)

    def _ask(self, what, queue, **more):
        self._client.stdin.write(json.dumps({"do": what, "queue": queue, **more}) + "\n")
        self._client.stdin.flush()
        return json.loads(self._client.stdout.readline())

    def publish(self, queue, body, content_type=JSON):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        assert self._ask("put", queue, content_type=content_type, body=base64.b64encode(body).decode())["found"], f"there is no queue {queue}"

    def get(self, queue):
        """Takes the next message out of a queue; waits for it."""

        def take():
            answer = self._ask("get", queue)
            return Message(answer) if answer["found"] else None

        return until(take, f"a message in {queue}")

    def depth(self, queue):
        """Messages that wait in a queue; None without such a queue."""
        answer = self._ask("depth", queue)
        return answer["ready"] if answer["found"] else None

    def held(self, queue):
        """Messages of a queue that somebody has for now."""
        return self._ask("depth", queue)["held"]

    def declare(self, queue):
        self._ask("declare", queue)

    def delete(self, queue):
        self._ask("delete", queue)

    def close(self):
        for process in (self._client, self._broker):
            process.kill()
            process.wait()
