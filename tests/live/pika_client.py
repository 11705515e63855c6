#!/usr/bin/env python3
"""A client of RabbitMQ by pika, which shares no code with the project.

    pika_client.py URL send QUEUE    takes lines ID<tab>BODY, prints each id once it is confirmed; after a lost connection it sends
                                     again what was not, and says `again ID` first
    pika_client.py URL read QUEUE    prints the body of every message, a line each, and then acknowledges it
    pika_client.py URL hold QUEUE    takes every message and settles none; says `holding` first. A number on its input makes it take
                                     no more and give back all but so many, in reverse order, those that were delivered
                                     before last; then it says `gave N`
    pika_client.py URL depth QUEUE   prints how many wait

Blocks until its input ends (`send`) or it is killed. Ends with an error when the broker does not answer for PATIENCE_SECONDS.
"""

import collections
import functools
import itertools
import os
import sys
import threading
import time

import pika
import pika.exceptions

PATIENCE_SECONDS = 120
# Messages that are read before they are acknowledged together.
WINDOW = 500
# Lines that are sent and not confirmed.
OPEN = 500


def connect(url):
    """A connection whose heartbeats do not depend on how busy this process is; waits for the broker."""
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return pika.BlockingConnection(parameters)
        except (pika.exceptions.AMQPError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def say(line):
    print(line, flush=True)


class Send:
    """Publishes with many confirms open, which pika does only without blocking."""

    def __init__(self, url, queue):
        self.parameters = pika.URLParameters(url)
        self.parameters.heartbeat = 0
        self.queue = queue
        self.lines = collections.deque()  # read, not sent
        self.open = collections.OrderedDict()  # delivery tag: line
        self.room = threading.Semaphore(OPEN)
        self.ended = False
        self.connection = self.channel = None
        self.since = time.monotonic()

    def run(self):
        threading.Thread(target=self.read, daemon=True).start()
        self.connect()
        while not (self.ended and not self.lines and not self.open):
            self.connection.ioloop.start()  # until the connection is closed or all is done
            if time.monotonic() - self.since > PATIENCE_SECONDS:
                raise SystemExit("the broker is away for too long")
            if self.connection.is_closed:
                time.sleep(0.1)
                self.connect()

    def connect(self):
        self.channel = None
        self.connection = pika.SelectConnection(
            self.parameters, on_open_callback=self.opened, on_open_error_callback=self.closed, on_close_callback=self.closed
        )

    def read(self):
        for line in sys.stdin:
            self.room.acquire()
            self.lines.append(line.rstrip("\n"))
            if len(self.lines) == 1:  # else whoever publishes is not through yet
                self.wake()
        self.ended = True
        self.wake()

    def wake(self):
        try:
            self.connection.ioloop.add_callback_threadsafe(self.publish)
        except (AttributeError, RuntimeError, ValueError, OSError):
            pass  # there is no connection now; what opens the next one publishes

    def opened(self, connection):
        connection.channel(on_open_callback=self.channel_opened)

    def channel_opened(self, channel):
        channel.confirm_delivery(self.confirmed)
        channel.add_on_return_callback(self.returned)
        # Whatever was not confirmed may be there or not.
        for line in self.open.values():
            say(f"again {line.partition(chr(9))[0]}")
        self.lines.extendleft(reversed(self.open.values()))
        self.open.clear()
        self.channel, self.next = channel, 1
        self.publish()

    def publish(self):
        if self.channel and self.channel.is_open:
            while self.lines:
                line = self.lines.popleft()
                identity, _, body = line.partition("\t")
                properties = pika.BasicProperties(content_type="application/json", delivery_mode=2, message_id=identity)
                self.open[self.next] = line
                self.next += 1
                self.channel.basic_publish("", self.queue, body.encode(), properties, mandatory=True)
        if self.ended and not self.lines and not self.open:
            self.connection.ioloop.stop()

    def confirmed(self, frame):
        self.since = time.monotonic()
        method = frame.method
        tags = [method.delivery_tag]
        if method.multiple:
            tags = list(itertools.takewhile(lambda tag: tag <= method.delivery_tag, self.open))
        lines = [self.open.pop(tag) for tag in tags]
        if isinstance(method, pika.spec.Basic.Nack):
            self.lines.extend(lines)
        else:
            say("\n".join(line.partition("\t")[0] for line in lines))
            self.room.release(len(lines))
        self.publish()

    def returned(self, _, method, properties, body):
        print(f"{properties.message_id} was returned: {method.reply_text}", file=sys.stderr)
        os._exit(1)

    def closed(self, connection, reason):
        self.channel = None
        connection.ioloop.stop()


def send(url, queue):
    Send(url, queue).run()


def read(url, queue):
    while True:
        connection = connect(url)
        try:
            channel = connection.channel()
            channel.basic_qos(prefetch_count=WINDOW)
            came = []
            channel.basic_consume(queue, lambda _, method, __, body: came.append((method.delivery_tag, body)))
            while True:
                connection.process_data_events(time_limit=None if not came else 0)
                if came:
                    sys.stdout.write("".join(body.decode() + "\n" for _, body in came))
                    sys.stdout.flush()
                    channel.basic_ack(came[-1][0], multiple=True)
                    came.clear()
        except (pika.exceptions.AMQPError, OSError) as lost:
            print(f"read again after {lost!r}", file=sys.stderr)
            time.sleep(0.1)


def hold(url, queue):
    connection = connect(url)
    channel = connection.channel()
    held = []

    def narrow(most):
        channel.basic_cancel(consumer)
        held.sort(key=lambda method: not method.redelivered)
        for method in reversed(held[most:]):
            channel.basic_nack(method.delivery_tag)
        say(f"gave {len(held[most:])}")

    consumer = channel.basic_consume(queue, lambda _, method, *__: held.append(method))
    say("holding")

    def listen():
        for line in sys.stdin:
            connection.add_callback_threadsafe(functools.partial(narrow, int(line)))

    threading.Thread(target=listen, daemon=True).start()
    while True:
        connection.process_data_events(time_limit=None)


def depth(url, queue):
    say(connect(url).channel().queue_declare(queue, passive=True).method.message_count)


if __name__ == "__main__":
    address, verb, name = sys.argv[1:]
    {"send": send, "read": read, "hold": hold, "depth": depth}[verb](address, name)
