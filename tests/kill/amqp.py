"""The two ends of the pipeline, by pika: a sender that keeps a journal, and a reader of what came of it.

    amqp.py read URL FILE QUEUE...    (run by the suite as a process of its own) appends one JSON line per message
    amqp.py hold URL QUEUE            (likewise) takes every message and settles none; says "holding" once it does
"""

import functools
import json
import os
import sys
import threading
import time

import pika

ROUTE = ["a", "b", "c"]


def connect(url):
    """A connection whose heartbeats do not depend on how busy this process is."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    return pika.BlockingConnection(parameters)


class Paced:
    """A sender that takes no more messages than it is allowed to, and keeps a journal of what was confirmed."""

    def __init__(self, count, journal):
        self.count = count
        self.journal = open(journal, "a")
        self.allowed = self.taken = self.sent = 0
        self.failure = None
        self.resent = set()  # what was sent again, unsure of the first
        self.more = threading.Condition()

    def allow(self, number):
        """Let the first `number` messages go."""
        with self.more:
            self.allowed = min(max(self.allowed, number), self.count)
            self.more.notify_all()

    def finish(self):
        """Wait until everything is sent, and close the journal."""
        for thread in self.threads:
            thread.join()
        self.journal.close()


class Sender(Paced):
    """Publishes messages 0 to count-1 as fast as `allowed` grows; the journal has a message only once it is confirmed.

    pika waits for the confirm of each, so several connections send side by side.
    """

    CONNECTIONS = 12

    def __init__(self, url, queue, route, count, journal):
        super().__init__(count, journal)
        self.url, self.queue, self.route = url, queue, route
        self.threads = [threading.Thread(target=self._run, daemon=True) for _ in range(self.CONNECTIONS)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def _run(self):
        try:
            connection = connect(self.url)
            channel = connection.channel()
            channel.confirm_delivery()
            while (number := self._take()) is not None:
                properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=message_id(number))
                channel.basic_publish("", self.queue, message(number, self.route), properties, mandatory=True)
                with self.more:
                    self.journal.write(f"{message_id(number)} {time.monotonic():.6f}\n")
                    self.sent += 1
            connection.close()
        except Exception as failure:  # told by the suite, whose thread cannot see it
            self.failure = failure

    def _take(self):
        with self.more:
            self.more.wait_for(lambda: self.allowed > self.taken or self.taken == self.count)
            if self.taken == self.count:
                return None
            self.taken += 1
            if self.taken == self.count:
                self.more.notify_all()
            return self.taken - 1


def message_id(number):
    return f"k-{number:05}"


def filler(number):
    """Text that differs from message to message; every twelfth is large, so that bodies are seen on their way in."""
    length = 200_000 if number % 12 == 11 else 200 + number % 800
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


def line_of(queue, envelope):
    """What is written down of a message that has arrived."""
    status = envelope.get("status") or {}
    return {
        "queue": queue,
        "id": envelope["id"],
        "hop": len(envelope["route"].get("prev", [])),
        "at": time.monotonic(),
        "wrong": what_is_wrong(envelope, ROUTE) if queue.endswith("-x-sink") else None,
        "reason": status.get("reason"),
        "error": (status.get("error") or {}).get("type"),
    }


def read(url, path, *queues):
    """Appends a line for every message of these queues, then acknowledges it."""
    connection = connect(url)
    channel = connection.channel()
    channel.basic_qos(prefetch_count=100)
    with open(path, "a") as file:

        def take(channel, method, properties, body, queue):
            line = line_of(queue, json.loads(body))
            file.write(json.dumps(line) + "\n")
            file.flush()
            channel.basic_ack(method.delivery_tag)

        for queue in queues:
            channel.basic_consume(queue, lambda *given, queue=queue: take(*given, queue=queue))
        channel.start_consuming()


def hold(url, queue):
    """Takes every message of a queue, as many as there are, and keeps it until this process ends. A number on standard input
    makes it take no more and give back all but so many, of which those that were delivered before are kept first."""
    connection = connect(url)
    channel = connection.channel()
    held = []

    def narrow(most):
        channel.basic_cancel(consumer)
        held.sort(key=lambda method: not method.redelivered)
        for method in reversed(held[most:]):
            channel.basic_nack(method.delivery_tag)

    consumer = channel.basic_consume(queue, lambda _, method, *__: held.append(method))
    print("holding", flush=True)

    def listen():
        for line in sys.stdin:
            connection.add_callback_threadsafe(functools.partial(narrow, int(line)))

    threading.Thread(target=listen, daemon=True).start()
    while True:
        connection.process_data_events(time_limit=None)


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
    {"read": read, "hold": hold}[sys.argv[1]](*sys.argv[2:])
