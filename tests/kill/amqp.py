"""The two ends of the pipeline, by pika: a sender that keeps a journal, and a reader of what came of it.

    amqp.py read URL FILE QUEUE...    (run by the suite as a process of its own) appends one JSON line per message
"""

import json
import os
import sys
import threading
import time

import pika


def connect(url):
    """A connection whose heartbeats do not depend on how busy this process is."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    return pika.BlockingConnection(parameters)


class Sender(threading.Thread):
    """Publishes messages 0 to count-1 as fast as `allowed` grows; the journal has a message only once it is confirmed."""

    def __init__(self, url, queue, route, count, journal):
        super().__init__(daemon=True)
        self.url, self.queue, self.route, self.count = url, queue, route, count
        self.journal = journal
        self.allowed = 0
        self.sent = 0
        self.failure = None
        self.more = threading.Condition()

    def allow(self, number):
        """Let the first `number` messages go."""
        with self.more:
            self.allowed = min(max(self.allowed, number), self.count)
            self.more.notify()

    def run(self):
        try:
            self._send_all()
        except Exception as failure:  # told by the suite, whose thread cannot see it
            self.failure = failure

    def _send_all(self):
        connection = connect(self.url)
        channel = connection.channel()
        channel.confirm_delivery()
        with open(self.journal, "a") as journal:
            while self.sent < self.count:
                with self.more:
                    self.more.wait_for(lambda: self.allowed > self.sent)
                body = message(self.sent, self.route)
                properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=message_id(self.sent))
                channel.basic_publish("", self.queue, body, properties, mandatory=True)
                journal.write(f"{message_id(self.sent)} {time.monotonic():.6f}\n")
                self.sent += 1
        connection.close()


def message_id(number):
    return f"k-{number:05}"


def filler(number):
    """Text that differs from message to message; every fiftieth is large, so that bodies are seen on their way in."""
    length = 300_000 if number % 50 == 49 else 200 + number % 800
    return (f"{number:08x}" * (length // 8 + 1))[:length]


def message(number, route):
    """The JSON envelope of one message."""
    payload = {"id": message_id(number), "n": number, "trail": [], "text": filler(number)}
    return json.dumps({"id": message_id(number), "route": {"prev": [], "curr": route[0], "next": route[1:]}, "payload": payload})


def what_is_wrong(envelope, route):
    """What a message at the success sink says that it should not; None when it is right."""
    number = int(envelope["id"].partition("-")[2])
    payload = envelope["payload"]
    if payload != {"id": envelope["id"], "n": number + len(route), "trail": route, "text": filler(number)}:
        return "payload"
    if envelope["route"]["prev"] != route or envelope["route"].get("next"):
        return "route"
    return None


def read(url, path, queues):
    """Appends a line for every message of these queues, then acknowledges it."""
    connection = connect(url)
    channel = connection.channel()
    channel.basic_qos(prefetch_count=100)
    with open(path, "a") as file:

        def take(channel, method, properties, body, queue):
            envelope = json.loads(body)
            status = envelope.get("status") or {}
            route = ["a", "b", "c"]
            line = {
                "queue": queue,
                "id": envelope["id"],
                "hop": len(envelope["route"].get("prev", [])),
                "at": time.monotonic(),
                "wrong": what_is_wrong(envelope, route) if queue.endswith("-x-sink") else None,
                "reason": status.get("reason"),
                "error": (status.get("error") or {}).get("type"),
            }
            file.write(json.dumps(line) + "\n")
            file.flush()
            channel.basic_ack(method.delivery_tag)

        for queue in queues:
            channel.basic_consume(queue, lambda *given, queue=queue: take(*given, queue=queue))
        channel.start_consuming()


def depth(url, queue):
    """Messages that wait in a queue."""
    connection = connect(url)
    try:
        return connection.channel().queue_declare(queue, passive=True).method.message_count
    finally:
        connection.close()


if __name__ == "__main__":
    import actors

    actors.die_with_parent()
    if os.getppid() == 1:
        sys.exit(1)
    read(sys.argv[2], sys.argv[3], sys.argv[4:])
